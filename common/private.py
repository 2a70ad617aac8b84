"""Folders and files that their owner alone may read: patients' images, what is made of them, a site's state."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def private_folder(path: Path) -> Path:
    """Makes `path`, and what is missing above it, with mode 0700, and returns it; one that is there stays as it is."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


@contextmanager
def private_files() -> Iterator[None]:
    """Within it, this process and those that it starts make new files and folders for their owner alone.

    For a command's whole work: all threads of a process share one umask.
    """
    before = os.umask(OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def close_to_others(folder: Path) -> tuple[Path, ...]:
    """Takes group's and others' rights from `folder` and all below it, and returns what is open all the same.

    That is what belongs to somebody else, or lies on a disk that keeps no modes. Links are not followed. Safe beside
    processes that make and remove files there; a folder that is not there is closed.
    """
    below = (Path(where, name) for where, folders, files in os.walk(folder) for name in (*folders, *files))
    return tuple(path for path in (folder, *below) if (path == folder or not path.is_symlink()) and _stays_open(path))


def _stays_open(path: Path) -> bool:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & OTHERS:
            path.chmod(mode & ~OTHERS)
        return bool(path.stat().st_mode & OTHERS)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True
