"""Who works on a run: a lock on a file in its folder, held while its holder lives."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import WorkError
from common.file_lock import take

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
        while not take(file):
            if time.monotonic() >= deadline:
                raise HeldError(f"{path}: held by another process")
            time.sleep(POLL_S)
        yield
