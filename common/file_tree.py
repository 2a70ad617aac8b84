"""All files below a folder, and what of it may not be read: pathlib's own search passes over that in silence."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from common.errors import ImageError

DENIED = (
    "cannot be read: permission denied; expected that your account may read it; let its owner allow it "
    "(chmod -R u+rX if it is yours), then do it again"
)


@dataclass(frozen=True)
class FileTree:
    """What lies below a folder; links to files count as files, links to folders are not followed."""

    files: tuple[Path, ...]
    """Sorted."""
    closed: tuple[tuple[Path, str], ...]
    """Folders that cannot be listed, or whose files cannot be looked at, and the reason in one line."""
    linked: tuple[Path, ...] = ()
    """Links to folders, sorted; what they lead to is not in `files`."""


def list_files(folder: Path) -> FileTree:
    """Returns all that is below `folder`.

    Raises:
        ImageError: `folder` is no folder, or cannot be read.
    """
    _check_folder(folder)
    files: list[Path] = []
    closed: dict[Path, str] = {}

    def note(error: OSError) -> None:
        closed[Path(error.filename)] = _reason(error)

    linked: list[Path] = []
    for where, folders, names in os.walk(folder, onerror=note):
        linked += [path for name in folders if (path := Path(where, name)).is_symlink()]
        try:
            files += [path for name in names if (path := Path(where, name)).is_file()]
        except PermissionError as error:  # a folder that may be listed but not entered
            closed[Path(where)] = _reason(error)
    if folder in closed:
        raise ImageError(f"{folder}: {closed[folder]}")
    return FileTree(tuple(sorted(files)), tuple(sorted(closed.items())), tuple(sorted(linked)))


def shown(path: Path, source: Path) -> str:
    """Returns a path's name in messages: relative to the export, or the export's own name."""
    return source.resolve().name if path == source else path.relative_to(source).as_posix()


def lies_below(path: Path, folder: Path) -> bool:
    """Whether a file is in a folder, or in one in it, and no link that leads out."""
    return path.resolve().is_relative_to(folder.resolve())


def _check_folder(folder: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except FileNotFoundError as error:
        raise ImageError(f"{folder}: no such folder; expected a folder of DICOM or NIfTI files; correct it") from error
    except OSError as error:
        raise ImageError(f"{folder}: {_reason(error)}") from error
    if not is_folder:
        raise ImageError(f"{folder}: is a file; expected a folder of DICOM or NIfTI files; give the folder it lies in")


def _reason(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return DENIED
    return f"cannot be read ({error.strerror}); expected a folder; see to its disk, then do it again"
