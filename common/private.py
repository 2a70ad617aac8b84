"""Folders and files that their owner alone may read: patients' images, what is made of them, a site's state.

A folder may be shared with its group, by its set-group-ID bit: with the account that trains, where that is not the one
that imports. What is made in it then belongs to that group too (open(2)), and is as open to it as the folder is.
"""

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

OTHERS = stat.S_IRWXG | stat.S_IRWXO
NO_LINK = os.O_PATH | os.O_NOFOLLOW


def private_folder(path: Path) -> Path:
    """Makes `path`, and what is missing above it, with mode 0700, and returns it; one that is there stays as it is.

    Within a folder that is shared, it is as open to the group as that folder.
    """
    if not path.is_dir():
        parent = private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        if _shared(parent):
            path.chmod(0o700 | stat.S_ISGID | _shared(parent))
    return path


def closed_folder(path: Path) -> Path:
    """Makes `path` with mode 0700 and returns it, whatever the folder above it shares; one that is there is closed."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & (OTHERS | stat.S_ISGID):
        path.chmod(0o700)
    return path


def private_mode(folder: Path) -> int:
    """Returns the mode of a private file in `folder`: 0600, or with the rights that a shared folder gives its group."""
    return 0o600 | (_shared(folder) & 0o060)


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

    That is what belongs to somebody else, or lies on a disk that keeps no modes. What a shared folder gives its group
    is left. Links below it are not followed. Safe beside processes that make and remove files there; a folder that is
    not there is closed.
    """
    return tuple(entry.path for entry in _folder_and_below(folder) if _stays_open(entry))


def share(folder: Path, group: int, rights: int, only: Collection[str] | None = None, *, follow: bool = True) -> None:
    """Gives group id `group` the `rights` (0o050 to read, 0o070 to write too) to `folder` and all below it.

    With `only`, of what lies in `folder` to those names alone. What is made there later gets them as well. What another
    account made is left; that account shares it. No link below is followed, whatever the other account puts there, nor
    `folder` itself without `follow`.

    Raises:
        PermissionError: the folder is another account's, or this account is not in the group.
    """
    wanted = None if only is None else {folder / name for name in only}
    for entry in _folder_and_below(folder, follow):
        if wanted is not None and entry.path != folder and wanted.isdisjoint((entry.path, *entry.path.parents)):
            continue
        try:
            _give(entry, group, rights)
        except PermissionError as error:
            if entry.path == folder:
                error.filename = str(folder)
                raise


def share_like(folder: Path, parent: Path) -> None:
    """Gives `folder` and all below it, just written by this account, the rights that `parent` gives its group."""
    if _shared(parent):
        share(folder, parent.stat().st_gid, _shared(parent), follow=False)


@dataclass(frozen=True)
class _Entry:
    """A file or folder, held by a handle: its path may lead elsewhere the next moment."""

    path: Path
    handle: int
    """An open O_PATH descriptor."""
    allowed: int
    """The group's rights to what lies in its folder, or for a folder to itself, by being shared."""

    @property
    def place(self) -> str:
        """A path that leads to what is held, and to nothing else."""
        return f"/proc/self/fd/{self.handle}"


def _folder_and_below(folder: Path, follow: bool = True) -> Iterator[_Entry]:
    """Gives `folder`, which may be a link if `follow`, and all below it but links; nothing of what is not there."""
    with suppress(FileNotFoundError), _held(folder, os.O_PATH if follow else NO_LINK) as top:
        mode = os.fstat(top).st_mode
        if not stat.S_ISLNK(mode):
            yield _Entry(folder, top, _rights(mode))
        for where, folders, files, parent in os.fwalk(".", dir_fd=top) if stat.S_ISDIR(mode) else ():
            for name in (*folders, *files):
                yield from _entry(folder / where, name, parent)


def _entry(folder: Path, name: str, parent: int) -> Iterator[_Entry]:
    """Gives what `name` is in the folder held as `parent`, unless it is a link or gone."""
    with suppress(FileNotFoundError), _held(name, NO_LINK, parent) as handle:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISLNK(mode):
            of_folder = mode if stat.S_ISDIR(mode) else os.fstat(parent).st_mode
            yield _Entry(folder / name, handle, _rights(of_folder))


@contextmanager
def _held(name: str | Path, flags: int, parent: int | None = None) -> Iterator[int]:
    handle = os.open(name, flags, dir_fd=parent)
    try:
        yield handle
    finally:
        os.close(handle)


def _give(entry: _Entry, group: int, rights: int) -> None:
    status = os.fstat(entry.handle)
    is_folder = stat.S_ISDIR(status.st_mode)
    if not is_folder and status.st_nlink > 1:  # another name of it may lie where nothing is shared
        return
    mode = (status.st_mode & 0o700) | ((status.st_mode & 0o700) >> 3 & rights) | (stat.S_ISGID if is_folder else 0)
    if status.st_gid != group:
        os.chown(entry.place, -1, group)
    if stat.S_IMODE(status.st_mode) != mode:
        os.chmod(entry.place, mode)


def _stays_open(entry: _Entry) -> bool:
    beyond = OTHERS & ~entry.allowed
    try:
        mode = stat.S_IMODE(os.fstat(entry.handle).st_mode)
        if mode & beyond:
            os.chmod(entry.place, mode & ~beyond)
    except PermissionError:
        return True
    return bool(os.fstat(entry.handle).st_mode & beyond)


def _shared(folder: Path) -> int:
    """The rights that a folder gives its group by being shared; 0 for any other."""
    return _rights(folder.stat().st_mode)


def _rights(mode: int) -> int:
    return mode & stat.S_IRWXG if mode & stat.S_ISGID else 0
