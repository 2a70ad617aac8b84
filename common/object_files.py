"""The contents of Flower's objects as files, each under its object's id, which is the SHA-256 of what it holds.

No write waits for the disk: after a power cut a file may be short. The head of a content tells how long it is, and a
file that is not as long counts as not there.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path

from common.atomic import OWNERS, write_bytes_atomically
from common.private import closed_folder

NAME = re.compile("[0-9a-f]{64}")
DIVIDER = b"\x00"
"""Between head and body; the head's last word is the body's length in bytes."""
HEAD_BYTES = 4096
"""Read at first to find the head's end; only an object with more than sixty parts has a longer one."""


class ObjectFiles:
    """The contents in `folder`, which is made, and closed to other accounts."""

    def __init__(self, folder: Path) -> None:
        self._folder = closed_folder(folder)

    def read(self, object_id: str) -> bytes | None:
        """Returns an object's content; None where it is not there, or not whole."""
        try:
            content = self._path(object_id).read_bytes()
        except FileNotFoundError:
            return None
        return content if _is_whole(content, len(content)) else None

    def holds(self, object_id: str) -> bool:
        """Whether `read` would return a content; only its head is read."""
        try:
            with self._path(object_id).open("rb") as file:
                start = file.read(HEAD_BYTES)
                start += b"" if DIVIDER in start else file.read()
                return _is_whole(start, os.fstat(file.fileno()).st_size)
        except FileNotFoundError:
            return False

    def write(self, object_id: str, content: bytes) -> None:
        """Keeps an object's content, which the caller knows to be of this id.

        Raises:
            OSError: the disk is full; nothing of it is left.
        """
        write_bytes_atomically(self._path(object_id), content, OWNERS, durable=False)

    def remove(self, object_id: str) -> None:
        """Removes an object's content, if it is there."""
        try:
            self._path(object_id).unlink()
        except FileNotFoundError:
            return

    def keep_only(self, object_ids: Collection[str]) -> None:
        """Removes the contents of all other objects, and what a writer that was killed left unfinished."""
        for path in self._folder.iterdir():
            if path.name not in object_ids:
                path.unlink(missing_ok=True)

    def _path(self, object_id: str) -> Path:
        """FileNotFoundError: not the id of a content; what a site asks for may be any text."""
        if not NAME.fullmatch(object_id):
            raise FileNotFoundError(object_id)
        return self._folder / object_id


def _is_whole(start: bytes, size: int) -> bool:
    """As Flower judges a content before it is kept: however the head spells its length."""
    end = start.find(DIVIDER)
    try:
        return end >= 0 and size == end + len(DIVIDER) + int(start[:end].decode().rpartition(" ")[2])
    except ValueError:  # no head of a content
        return False
