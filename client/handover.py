"""The parts of a model on their way between a site's node and the process at work: files in WORK/handover, no calls.

The node puts what came for a task here, the process what it made, each part under the SHA-256 of its bytes. A call for
5 MB copies them seven times; a file is written once and read once, and neither side holds the model in memory for it.

The process at work may be another account's, and may put anything here. So the node follows no link, waits for no
pipe, and looks at a part's bytes anew each time that it reads them: what was judged is what is sent.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from common.atomic import write_bytes_atomically
from common.errors import WorkError
from common.object_files import NAME as ID
from common.objects import LARGEST_CHUNK, Chunk, RemoteChunk
from common.private import private_folder, private_mode

log = logging.getLogger("fedgtv.site")
NAME = "handover"
VARIABLE = "FEDGTV_HANDOVER"
"""Environment variable with the folder's path, for the process at work; without it all goes by calls."""
LEAST_BYTES = 1 << 16
"""Smaller parts go by calls, and larger ones than Flower's."""


@dataclass(frozen=True)
class Handover:
    """The folder.

    Args:
        folder: its path.
        trusts: whether what is read is taken for what its name says; so the process at work takes it from its node.
    """

    folder: Path
    trusts: bool = False

    @classmethod
    def of(cls, work: Path) -> "Handover":
        """Returns the node's, which is made (OSError: it cannot be)."""
        return cls(private_folder(folder_in(work)))

    @classmethod
    def at_work(cls) -> "Handover | None":
        """Returns that of the process at work, if its node has one."""
        folder = os.environ.get(VARIABLE)
        return cls(Path(folder), trusts=True) if folder else None

    def put(self, chunk: Chunk) -> Chunk:
        """Returns the part as one that lies here; one that is of no such size, or has no room, stays what it is."""
        if isinstance(chunk, RemoteChunk) or not _may_lie_here(chunk.num_bytes):
            return chunk
        try:
            with self._held() as folder:
                place = Path(f"/proc/self/fd/{folder}")
                mode = private_mode(place) & ~0o020
                write_bytes_atomically(place / chunk.object_id, chunk.deflate(), mode, durable=False)
        except OSError as error:
            log.warning("%s: a part of a model goes by a call (%s)", self.folder, error.strerror)
            return chunk
        return RemoteChunk(chunk.object_id, chunk.num_bytes, self.read)

    def find(self, object_id: str) -> Chunk | None:
        """Returns a part that lies here, its bytes unread; None for none."""
        with suppress(OSError, ValueError), self._held() as folder, _opened(folder, object_id) as handle:
            return RemoteChunk(object_id, os.fstat(handle).st_size, self.read)
        return None

    def read(self, object_id: str) -> bytes:
        """Returns the bytes of a part.

        Raises:
            WorkError: it is gone, or another.
        """
        try:
            with self._held() as folder, _opened(folder, object_id) as handle:
                content = os.read(handle, LARGEST_CHUNK)
        except OSError as error:
            raise WorkError(f"{self.folder / object_id}: cannot be read ({error}); it is asked for again") from error
        if not self.trusts and hashlib.sha256(content).hexdigest() != object_id:
            raise WorkError(f"{self.folder / object_id}: is not what its name says; it is asked for again")
        return content

    def keep_only(self, object_ids: Collection[str]) -> None:
        """Removes all other parts, and what a writer that was killed left unfinished."""
        with suppress(OSError), self._held() as folder:
            for name in set(os.listdir(folder)) - set(object_ids):
                with suppress(OSError):  # a folder, which is none of ours
                    os.unlink(name, dir_fd=folder)

    @contextmanager
    def _held(self) -> Iterator[int]:
        """The folder itself, whatever its path leads to the next moment."""
        handle = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            yield handle
        finally:
            os.close(handle)


def folder_in(work: Path) -> Path:
    """Returns the handover's folder in a site's work folder."""
    return work.resolve() / NAME


def handed_over(chunk: Chunk) -> Chunk:
    """Returns a part of what the process at work has made, in the handover if it can be; else it goes by a call."""
    handover = Handover.at_work()
    return handover.put(chunk) if handover else chunk


def _may_lie_here(num_bytes: int) -> bool:
    return LEAST_BYTES <= num_bytes <= LARGEST_CHUNK


@contextmanager
def _opened(folder: int, object_id: str) -> Iterator[int]:
    """A part's file.

    Raises:
        OSError: there is none, it is no plain file, or of no such part's size.
    """
    if not ID.fullmatch(object_id):
        raise FileNotFoundError(object_id)
    handle = os.open(object_id, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or not _may_lie_here(status.st_size):
            raise FileNotFoundError(object_id)
        yield handle
    finally:
        os.close(handle)
