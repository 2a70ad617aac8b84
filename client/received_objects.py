"""What a coordinator sent, kept by content: a model that a site has had is not sent to it again.

Nor is a part of one that had come before the line was cut.
Flower names each part of a message (5 MB of a model) by the SHA-256 of its bytes, and says the names first. A model is
asked for again where it is measured after its last round, drawn, tuned further, or where a site was lost and is asked
anew. What lies here is checked by its name when it is used, so that nobody's change of it does harm.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from common.object_files import ObjectFiles

log = logging.getLogger("fedgtv.site")
FOLDER = "received"
LEAST_BYTES = 1 << 16
"""Smaller objects are a message's own: they do not come again."""

Pull = Callable[[str], bytes]


class ReceivedObjects:
    """The parts in a folder below the site's `state`; where they are too many, those used longest ago go."""

    def __init__(self, state: Path, max_bytes: int) -> None:
        """`max_bytes`: 0: nothing is kept."""
        self._folder, self._max_bytes = state / FOLDER, max_bytes

    @cached_property
    def _files(self) -> ObjectFiles:
        return ObjectFiles(self._folder)

    def before(self, pull: Pull) -> Pull:
        """Returns what gets a part from here or, where it is not here, by `pull`, and then keeps it."""

        def find_or_pull(name: str) -> bytes:
            return self._find(name) or self._kept(name, pull(name))

        return find_or_pull if self._max_bytes else pull

    def _find(self, name: str) -> bytes | None:
        try:
            content = self._files.read(name)
            if content is None:
                return None
            if hashlib.sha256(content).hexdigest() != name:
                self._files.remove(name)
                return None
            os.utime(self._folder / name)
        except OSError:  # told when the part cannot be kept
            return None
        return content

    def _kept(self, name: str, content: bytes) -> bytes:
        """Returns the content; a disk that is full keeps no part, and stops no work."""
        if len(content) >= LEAST_BYTES:
            try:
                self._files.write(name, content)
            except OSError as error:
                log.warning("%s: what was received is not kept (%s)", self._folder, error.strerror)
        return content

    def trim(self) -> None:
        """Removes what is too much."""
        paths = self._folder.iterdir() if self._folder.is_dir() else ()
        newest = sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True)
        room = self._max_bytes
        for path in newest:
            room -= path.stat().st_size
            if room < 0:
                path.unlink(missing_ok=True)
