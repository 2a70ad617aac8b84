"""Where results go: what stands in the way is told before the work, and what goes wrong in writing in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import ConfigError, WorkError


def check_folder(folder: Path) -> None:
    """Returns if a folder can be written to, or made; nothing is made (ConfigError: it cannot)."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"{folder}: {there.name} is a file; expected a folder; give another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{folder}: this account may not write to {there}; expected a folder of its own; give another place"
        )


def check_file(path: Path) -> None:
    """Returns if a file can be written at `path`, in place of an older one (ConfigError: it cannot)."""
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; expected a file's name; give {path / 'check.html'}, say")
    check_folder(path.parent)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """What the system says in the way of writing becomes a WorkError."""
    try:
        yield
    except OSError as error:
        raise WorkError(
            f"{place}: cannot be written ({error.strerror or error}); free space, or give another place, and run again"
        ) from error
