"""The contents of Flower's objects as files, each under its object's id, which is the SHA-256 of what it holds.

A file is the whole answer of Flower 1.41 to who asks for an object, a `PullObjectResponse`: a few bytes, then the
content. So a web server can hand it out as it lies there.
No write waits for the disk: after a power cut a file may be short. The head of a content tells how long it is, and a
file that is not as long counts as not there.
"""

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from common.atomic import OWNERS, write_bytes_atomically
from common.private import closed_folder

NAME = re.compile("[0-9a-f]{64}")
FOUND = b"\x08\x01\x10\x01\x1a"
"""As protobuf writes it: the object was found, it is available, and here is its content. The content's size follows."""
DIVIDER = b"\x00"
"""Between a content's head and body; the head's last word is the body's length in bytes."""
LONGEST_SIZE = 5
"""Bytes that a size takes, at most: of 34 GB."""
HEAD_BYTES = 4096
"""Read at first to find the head's end; only an object with more than sixty parts has a longer one."""


class ObjectFiles:
    """The contents in `folder`, which is made, and closed to other accounts."""

    def __init__(self, folder: Path) -> None:
        self._folder = closed_folder(folder)

    def read(self, object_id: str) -> bytes | None:
        """Returns an object's content; None where it is not there, or not whole."""
        with self._content(object_id) as (file, size):
            content = file.read(size) if file else b""
        return content if _is_whole(content, len(content)) else None

    def holds(self, object_id: str) -> bool:
        """Whether `read` would return a content; only its head is read."""
        return self.size(object_id) is not None

    def size(self, object_id: str) -> int | None:
        """Returns the bytes of the content that `read` would return; None where it would return none."""
        with self._content(object_id) as (file, size):
            start = file.read(min(size, HEAD_BYTES)) if file else b""
            if file and DIVIDER not in start:
                start += file.read(size - len(start))
        return size if _is_whole(start, size) else None

    @contextmanager
    def _content(self, object_id: str) -> Iterator[tuple[BinaryIO | None, int]]:
        """Gives the file of a content, at the content's first byte, and the content's size; None for no such file."""
        try:
            file = self._path(object_id).open("rb", buffering=0)
        except FileNotFoundError:
            yield None, 0
            return
        with file:
            num_bytes = os.fstat(file.fileno()).st_size
            start = file.read(len(FOUND) + LONGEST_SIZE)
            sizes = [num_bytes - len(FOUND) - length for length in range(1, LONGEST_SIZE + 1)]
            size = next((each for each in sizes if each > 0 and start.startswith(before(each))), None)
            file.seek(num_bytes - (size or 0))
            yield (file, size) if size else (None, 0)

    def write(self, object_id: str, content: bytes) -> None:
        """Keeps an object's content, which the caller knows to be of this id.

        Raises:
            OSError: the disk is full; nothing of it is left.
        """
        pieces = (before(len(content)), content)
        write_bytes_atomically(self._path(object_id), pieces, OWNERS, durable=False)

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


def before(size: int) -> bytes:
    """Returns what stands before a content of so many bytes: `FOUND`, and the size as protobuf's varint."""
    digits = [size >> shift & 0x7F for shift in range(0, max(size.bit_length(), 1), 7)]
    return FOUND + bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])


def _is_whole(start: bytes, size: int) -> bool:
    """As Flower judges a content before it is kept: however the head spells its length."""
    end = start.find(DIVIDER)
    try:
        return end >= 0 and size == end + len(DIVIDER) + int(start[:end].decode().rpartition(" ")[2])
    except ValueError:  # no head of a content
        return False
