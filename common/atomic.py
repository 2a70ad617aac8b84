"""Files that are whole or not there: written beside their place, flushed to disk, then given their name.

A reader finds the old file or the new one, never half of it, and so does whoever comes after a crash: the content is
on disk before the name leads to it, and the folder that holds the name is flushed last.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ANYONES = 0o666
"""What the process's umask leaves of this is the usual mode of a new file."""
OWNERS = 0o600
"""For keys and other secrets; set when the file is made, so that it is never open to others. Any mode but `ANYONES` is
the file's own, whatever the umask."""


def write_bytes_atomically(
    path: Path, data: bytes | Sequence[bytes], mode: int = ANYONES, durable: bool = True
) -> None:
    """Writes `path`, its bytes or one piece after another, with mode `mode`, in place of an older file.

    Without `durable` it does not wait for the disk: whole for every reader, and lost where the power fails now.

    Raises:
        OSError: the disk is full, or the folder missing or not writable; an older file stands, and nothing beside it.
    """
    with _beside(path, mode) as (unfinished, handle):
        _write(handle, data)
        if durable:
            put_in_place(unfinished, path)
        else:
            os.replace(unfinished, path)


def write_text_atomically(path: Path, text: str, mode: int = ANYONES, durable: bool = True) -> None:
    """Writes `path` as UTF-8; otherwise as `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode("utf-8"), mode, durable)


def create_atomically(path: Path, data: bytes, mode: int = ANYONES) -> None:
    """Writes `path` where no file is yet.

    Raises:
        FileExistsError: there is one; it stands as it was.
        OSError: as `write_bytes_atomically`.
    """
    with _beside(path, mode) as (unfinished, handle):
        _write(handle, data)
        _flush(unfinished)
        os.link(unfinished, path)  # unlike a rename, it never takes an existing name
    _flush(path.parent)


@contextmanager
def replacing(path: Path, mode: int = ANYONES) -> Iterator[Path]:
    """Gives an empty file in `path`'s folder to be written; it becomes `path` when the block ends well, else it goes.

    What the block writes may itself be a new file of that name.
    """
    with _beside(path, mode) as (unfinished, _):
        yield unfinished
        put_in_place(unfinished, path)


def put_in_place(unfinished: Path, path: Path) -> None:
    """Gives a whole file, on the same disk, the name `path`, in place of an older file."""
    _flush(unfinished)
    os.replace(unfinished, path)
    _flush(path.parent)


@contextmanager
def _beside(path: Path, mode: int) -> Iterator[tuple[Path, int]]:
    """Gives a new file and its handle: in a folder that others may write, its name may become a link to elsewhere."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        if mode != ANYONES:
            os.fchmod(handle, mode)
        yield unfinished, handle
    finally:
        os.close(handle)
        unfinished.unlink(missing_ok=True)


def _write(handle: int, data: bytes | Sequence[bytes]) -> None:
    with open(handle, "wb", closefd=False) as stream:
        stream.writelines([data] if isinstance(data, bytes) else data)


def _flush(path: Path) -> None:
    """Waits until `path`, a file or a folder, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
