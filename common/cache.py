"""Preprocessed cases on disk, mapped into memory: made on first use, keyed by what made them, remade when damaged.

FOLDER/<fingerprint of the recipe>/<case_id>-<fingerprint of the files>/ holds image.npy, body.npy, label.npy,
foreground.npy, record.json and checksums.json. HU rest as int16: rounding adds 0.29 HU RMS, far below a CT's noise
(6-14 HU), halves disk and memory traffic against float32, and makes the HU histogram of the cache exact.
"""

import errno
import fnmatch
import json
import mmap
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from common.dataset import CaseEntry
from common.errors import ImageError, LabelError, WorkError
from common.fitness import prepare_fit
from common.preprocess import PreparedCase, PreprocessRecord
from common.private import close_to_others, private_folder, share_like
from common.recipe import PreprocessConfig
from common.settings import fingerprint
from common.volume import read_nifti

CACHE_VERSION = 4
"""Raised when preprocessing computes something else from the same recipe: every cache is then made again."""
CHECKSUMS_NAME = "checksums.json"
FINGERPRINT_DIGITS = 16


@dataclass(frozen=True)
class _Layout:
    """How an array lies in its file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    order: Literal["C", "F"]

    @classmethod
    def of(cls, path: Path) -> "_Layout":
        """Returns what the header of a .npy file says (ValueError: it is none)."""
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return cls(array.dtype, array.shape, array.offset, "C" if array.flags.c_contiguous else "F")

    def map(self, path: Path) -> NDArray[Any]:
        """Returns the array, read-only.

        np.load would parse the header anew, and np.memmap resolves the path and more: for a small network's patch,
        either takes longer than all the rest of reading it.
        """
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return np.ndarray(self.shape, self.dtype, mapped, self.offset, order=self.order)


@dataclass(frozen=True, eq=False)
class CachedCase:
    """A preprocessed case; its large arrays are mapped on each access, so that a thousand cases hold no file open."""

    entry: CaseEntry
    record: PreprocessRecord
    foreground_voxels: NDArray[np.int32]
    """(K, 3): indices (z, y, x) of the label's voxels; no rows without a label or with an empty one."""
    folder: Path
    layouts: Mapping[str, _Layout]
    """Of the large arrays, by name."""

    @property
    def case_id(self) -> str:
        """The case's pseudonym."""
        return self.entry.case_id

    @property
    def content(self) -> str:
        """The checksums of its files: the same wherever the same images and label are prepared by the same recipe."""
        sums = json.loads((self.folder / CHECKSUMS_NAME).read_text(encoding="utf-8"))
        return json.dumps(sums, sort_keys=True)

    @property
    def image(self) -> NDArray[np.int16]:
        """(C, z, y, x) HU on the target grid, read-only."""
        return self._map("image")

    @property
    def body(self) -> NDArray[np.uint8]:
        """(z, y, x), 1 inside the body, read-only."""
        return self._map("body")

    @property
    def label(self) -> NDArray[np.uint8] | None:
        """(z, y, x), 1 inside the target, read-only; None for a case without a label."""
        return None if self.entry.label is None else self._map("label")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of the target grid."""
        depth, height, width = self.record.resampled_shape
        return depth, height, width

    @cached_property
    def centroid(self) -> tuple[float, float, float]:
        """Mean index (z, y, x) of the target; the volume's middle where there is no target."""
        if not len(self.foreground_voxels):
            return tuple((n - 1) / 2 for n in self.shape)  # type: ignore[return-value]
        z, y, x = self.foreground_voxels.mean(axis=0, dtype=np.float64).tolist()
        return z, y, x

    def _map(self, name: str) -> NDArray[Any]:
        return self.layouts[name].map(self.folder / f"{name}.npy")


class CaseCache:
    """The preprocessed cases of one recipe under `folder`; safe for several processes at once."""

    def __init__(self, folder: Path, config: PreprocessConfig) -> None:
        self.folder = Path(folder) / fingerprint(config, CACHE_VERSION)
        self.config = config

    def open(self, cases_folder: Path, entry: CaseEntry) -> CachedCase:
        """Returns the case, preprocessed now if its files changed or the cache is missing or damaged.

        Every file is read once for its checksum (about 10 ms a case); what it maps is then trusted.

        Raises:
            ImageError, LabelError: a file of the entry is missing, or as `prepare_fit` says.
        """
        folder = self.folder / f"{entry.case_id}-{_source_fingerprint(Path(cases_folder), entry)}"
        case = load_case(folder, entry)
        if case is not None:
            return case
        images = [read_nifti(Path(cases_folder) / name) for name in entry.images]
        label = None if entry.label is None else read_nifti(Path(cases_folder) / entry.label)
        prepared = prepare_fit(images, label, self.config)
        return load_case(folder, entry) or self._replace(folder, entry, prepared)  # another process may have made it

    def _replace(self, folder: Path, entry: CaseEntry, prepared: PreparedCase) -> CachedCase:
        """Stores the case in place of a damaged one and of those made from files that have changed since."""
        for outdated in self.folder.glob(f"{entry.case_id}-{'?' * FINGERPRINT_DIGITS}"):
            shutil.rmtree(outdated, ignore_errors=True)
        return store_case(folder, entry, prepared)


def forget_case(folder: Path, case_id: str) -> None:
    """Deletes what is cached of a case below `folder`, of every recipe; no link is followed, one by such a name goes.

    Raises:
        OSError: the disk is not writable, or `folder` is a link.
    """
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "a link; expected a folder", str(folder))
    if not folder.exists():
        return
    for _, names, files, handle in os.fwalk(folder):
        for name in fnmatch.filter([*names, *files], f"{case_id}-{'?' * FINGERPRINT_DIGITS}"):
            if stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
                shutil.rmtree(name, dir_fd=handle)
                names.remove(name)
            else:
                os.unlink(name, dir_fd=handle)


def _source_fingerprint(cases_folder: Path, entry: CaseEntry) -> str:
    """Changes with the entry's file names, and with the size or modification time of any of them."""
    parts: list[str | int] = [entry.case_id]
    for name in (*entry.images, *([entry.label] if entry.label is not None else [])):
        path = cases_folder / name
        try:
            status = path.stat()
        except OSError as error:
            kind = LabelError if name == entry.label else ImageError
            raise kind(f"{path}: cannot be read ({error.strerror}); import case {entry.case_id} again") from error
        parts += [name, status.st_size, status.st_mtime_ns]
    return fingerprint(*parts, str(entry.label))


def store_case(folder: Path, entry: CaseEntry, prepared: PreparedCase) -> CachedCase:
    """Writes a prepared case as `folder`, its owner's alone, in one step (temporary folder, rename), and returns it.

    If another process makes the same folder first, its result stands: both come from the same files and recipe.

    Raises:
        WorkError: the disk is full or not writable.
    """
    arrays = _arrays(prepared)
    try:
        private_folder(folder.parent)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as temporary:
            making = Path(temporary) / "case"
            _write(making, arrays, prepared.record)
            share_like(making, folder.parent)
            if not folder.is_dir():
                making.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise WorkError(
                f"{folder}: cannot be written ({error.strerror}); free space or name another folder"
            ) from error
    case = load_case(folder, entry)
    if case is None:
        raise WorkError(f"{folder}: was written but does not read back; check the disk")
    return case


def _arrays(prepared: PreparedCase) -> dict[str, NDArray[Any]]:
    limits = np.iinfo(np.int16)
    arrays: dict[str, NDArray[Any]] = {
        "image": np.clip(np.rint(prepared.image), limits.min, limits.max).astype(np.int16),
        "body": prepared.body.astype(np.uint8),
        "foreground": np.empty((0, 3), np.int32),
    }
    if prepared.label is not None:
        arrays["label"] = prepared.label.astype(np.uint8)
        arrays["foreground"] = np.argwhere(prepared.label).astype(np.int32)
    return arrays


def _write(folder: Path, arrays: dict[str, NDArray[Any]], record: PreprocessRecord) -> None:
    folder.mkdir(mode=0o700)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    (folder / "record.json").write_text(json.dumps(record.to_dict()), encoding="utf-8")
    checksums = {path.name: _checksum(path) for path in folder.iterdir()}
    (folder / CHECKSUMS_NAME).write_text(json.dumps(checksums), encoding="utf-8")
    close_to_others(folder)


def load_case(folder: Path, entry: CaseEntry) -> CachedCase | None:
    """Returns the case stored in `folder`, or None if it is missing, incomplete or damaged (by its checksums)."""
    try:
        expected = json.loads((folder / CHECKSUMS_NAME).read_text(encoding="utf-8"))
        if {name: _checksum(folder / name) for name in _file_names(entry)} != expected:
            return None
        record = PreprocessRecord.from_dict(json.loads((folder / "record.json").read_text(encoding="utf-8")))
        foreground = np.load(folder / "foreground.npy", allow_pickle=False)
        layouts = {name: _Layout.of(folder / f"{name}.npy") for name in ("image", "body", *_label_names(entry))}
    except (OSError, ValueError, KeyError, TypeError):  # remade from the source files, which are the truth
        return None
    return CachedCase(entry, record, foreground, folder, layouts)


def _file_names(entry: CaseEntry) -> tuple[str, ...]:
    return ("image.npy", "body.npy", "foreground.npy", "record.json", *(f"{name}.npy" for name in _label_names(entry)))


def _label_names(entry: CaseEntry) -> tuple[str, ...]:
    return () if entry.label is None else ("label",)


def _checksum(path: Path) -> int:
    return zlib.crc32(path.read_bytes())
