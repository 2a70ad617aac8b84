"""Who works on a run: a lock on a file, held while its holder lives, so that a death is seen at once.

It is of the kind (flock) that the kernel lets go when the process ends, whatever ended it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from common.errors import WorkError

LOCK = "lock"
"""The file in a run's folder that the run's ServerApp holds."""
PATIENCE_S = 20.0
"""Who was told to end, or only looks, lets a run's lock go within this time."""
POLL_S = 0.1


class HeldError(WorkError):
    """Another process, or another part of this one, holds the lock."""


@contextmanager
def hold(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Holds the lock while the block lasts.

    Raises:
        HeldError: another holds it, and still does after `wait_s`.
    """
    deadline = time.monotonic() + wait_s
    with path.open("a") as file:
        while not _take(file):
            if time.monotonic() >= deadline:
                raise HeldError(f"{path}: held by another process")
            time.sleep(POLL_S)
        yield


def is_held(path: Path) -> bool:
    """Returns whether anybody holds the lock.

    Looking takes it for a moment, shared: who wants to hold it should have a little patience.
    """
    if not path.exists():
        return False
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _take(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
