"""Locks on files (flock): the kernel lets go when the holder ends, whatever ended it, so a death is seen at once."""

import fcntl
import os
from pathlib import Path
from typing import IO, Any


def take(file: IO[Any]) -> bool:
    """Takes the lock on an open file; returns whether it could."""
    return _flock(file.fileno(), fcntl.LOCK_EX)


def is_held(path: Path) -> bool:
    """Returns whether anybody holds the lock on a file, which need not be there.

    Looking takes it for a moment, shared: who wants to hold it should have a little patience. No link is followed and
    nothing is waited for.
    """
    if not path.exists():
        return False
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return not _flock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


def _flock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
