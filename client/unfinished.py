"""A folder for results that are being made; what a killed process left of one is found by its lock, and removed."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = ".segment-"


@contextmanager
def unfinished_folder(place: Path) -> Iterator[Path]:
    """Gives an empty folder in `place`, for its owner alone; it goes at the end, with what is still in it."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place) as name, _locked(Path(name)):
        yield Path(name)


def remove_unfinished(place: Path) -> None:
    """Removes what killed processes left in `place` and below, for it shows a patient; a live one's is locked."""
    for left in place.rglob(f"{PREFIX}*"):
        with suppress(BlockingIOError, FileNotFoundError, NotADirectoryError), _locked(left):
            shutil.rmtree(left)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The system takes the lock back when the process ends, however it ends (BlockingIOError: another has it)."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
