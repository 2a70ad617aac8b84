"""Slices that an export holds twice: exported into two folders, the same CT is one CT still."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from common.file_tree import shown
from common.text import counted


@dataclass(frozen=True)
class Slices:
    """The files of a series."""

    files: tuple[Path, ...]
    """One of each copy: the first. Files of one SOP instance UID whose bytes differ all stay, and are refused."""
    copies: tuple[Path, ...] = ()
    """The others, byte for byte the same."""


def without_copies(files: Sequence[Path], headers: Mapping[Path, Dataset]) -> Slices:
    """Returns a series' files, copies apart; only files that share their SOP instance UID are read."""
    alike: dict[str, list[Path]] = {}
    for path in files:
        alike.setdefault(str(headers[path].get("SOPInstanceUID")), []).append(path)
    copies = {copy for paths in alike.values() if len(paths) > 1 for copy in _copies(paths)}
    return Slices(tuple(path for path in files if path not in copies), tuple(path for path in files if path in copies))


def told_copies(copies: Sequence[Path], source: Path) -> tuple[str, ...]:
    """Returns a warning for copies of a case's slices in the export `source`; none for none."""
    if not copies:
        return ()
    folders = " and ".join(dict.fromkeys(shown(path.parent, source) for path in copies))
    are, count = ("is a copy", "it counts") if len(copies) == 1 else ("are copies", "they count")
    return (
        f"{counted(len(copies), 'file')} in {folders} {are} of its slices, byte for byte, and {count} once; leave out "
        "of the export what is there twice",
    )


def _copies(paths: Sequence[Path]) -> list[Path]:
    """Returns those of `paths` that hold the bytes of one before them."""
    seen: set[str] = set()
    copies = []
    for path in paths:
        digest = _digest(path)
        if digest in seen:
            copies.append(path)
        seen.add(digest)
    return copies


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
