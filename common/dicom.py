"""CT series from folders of DICOM files: found by their headers, checked, and read as a volume in Hounsfield units.

Headers are read with pydicom, pixels with SimpleITK's GDCM, which decodes RLE, JPEG lossless and JPEG 2000.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from numpy.typing import NDArray
from pydicom import Dataset

from common.dicom_files import NoDicomError, open_dicom, reading
from common.dicom_slices import (
    MR_AND_PET_CLASSES,
    RT_STRUCTURE_SET,
    TAGS,
    Slice,
    check_alike,
    check_identity,
    check_slice,
    is_ct_slice,
    stack,
)
from common.errors import ImageError
from common.file_tree import list_files
from common.text import counted
from common.volume import Volume, itk_name

EXPECTED = "a CT slice"
LOWEST_HU = -1024  # vendors pad outside the reconstruction circle with -2000 or -3024


@dataclass(frozen=True, eq=False)
class CtSeries:
    """A CT series, sorted from the first to the last slice along z."""

    volume: Volume
    """HU as int16, or float32 where the rescale slope is no whole number."""
    files: tuple[Path, ...]
    """One a slice, in the array's order, as are `sop_uids`."""
    sop_uids: tuple[str, ...]
    series_uid: str
    study_uid: str
    frame_uid: str
    """Frame of reference, as the first slice that names one has it; empty where none does."""
    header: Dataset
    """The first slice's tags without pixels, for what an RTSTRUCT repeats of patient and study."""


@dataclass(frozen=True)
class DicomFolder:
    """What a folder holds, by headers alone."""

    ct_series: Mapping[str, tuple[Path, ...]]
    """Files of each CT series, by SeriesInstanceUID; localisers and secondary captures are left out."""
    structure_sets: tuple[Path, ...]
    headers: Mapping[Path, Dataset]
    """`TAGS` of each of these files, as far as it has them."""
    other_images: tuple[Path, ...]
    """Slices of MR and PET."""
    files: tuple[Path, ...]
    """All files below the folder, DICOM or not, sorted."""
    unreadable: tuple[tuple[Path, str], ...] = ()
    """DICOM files that are damaged, and files and folders that cannot be read at all, each with the reason in one line
    that begins with its path."""
    denied: frozenset[Path] = frozenset()
    """Those of `unreadable` that the system keeps from this account: nobody knows what is in them."""
    linked: tuple[Path, ...] = ()
    """Links to folders, which are not followed."""


def scan_folder(folder: Path) -> DicomFolder:
    """Returns the CT series and RTSTRUCTs anywhere below `folder`; what is not DICOM is passed over.

    Links to files are read, links to folders are not followed.

    Raises:
        ImageError: `folder` is no folder, or cannot be read.
    """
    return _scan(folder)[0]


def find_ct_series(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Returns the files of every CT series below `folder`, by SeriesInstanceUID.

    Raises:
        ImageError: there is no such folder, or no CT in it.
    """
    return {uid: tuple(path for path, _ in slices) for uid, slices in _ct_series(folder).items()}


def read_ct_series(source: Path | Sequence[Path]) -> CtSeries:
    """Returns the CT series in a folder, or made of the given files.

    Padding below -1024 HU becomes -1024. The z axis runs along the slices' normal (DICOM PS3.3 C.7.6.2.1.1).

    Raises:
        ImageError: no CT, or more than one series in the folder; slices that differ in size, spacing, orientation
            or series; without position or rescale; twice at a position; missing; sheared by a gantry tilt;
            undecodable pixels.
    """
    slices = _slices(source)
    for path, header in slices:
        with reading(path, ImageError, EXPECTED):
            check_slice(path, header)
    with reading(slices[0][0].parent, ImageError, EXPECTED):
        check_alike(slices)
        slices, geometry = stack(slices)
    first = slices[0][1]
    return CtSeries(
        volume=Volume(_read_hu(slices), geometry),
        files=tuple(path for path, _ in slices),
        sop_uids=tuple(str(header.SOPInstanceUID) for _, header in slices),
        series_uid=str(first.SeriesInstanceUID),
        study_uid=str(first.StudyInstanceUID),
        frame_uid=next((uid for _, header in slices if (uid := str(header.get("FrameOfReferenceUID") or ""))), ""),
        header=_whole_header(slices[0][0]),
    )


def _slices(source: Path | Sequence[Path]) -> list[Slice]:
    """Returns the slices of the only series in a folder, or the given files as slices."""
    files = [source] if isinstance(source, Path) and source.is_file() else source
    return _only_series(files) if isinstance(files, Path) else [_given_slice(path) for path in files]


def _scan(folder: Path) -> tuple[DicomFolder, dict[str, list[Slice]]]:
    """Returns what is below `folder`, and its CT slices by series."""
    tree = list_files(Path(folder))
    series: dict[str, list[Slice]] = {}
    structure_sets, other_images = [], []
    unreadable = [(path, f"{path}: {reason}") for path, reason in tree.closed]
    denied = {path for path, _ in tree.closed}
    for path in tree.files:
        try:
            header = _header(path)
            with reading(path, ImageError, EXPECTED):
                is_ct = is_ct_slice(header)
        except NoDicomError:
            continue
        except ImageError as error:
            unreadable.append((path, str(error)))
            denied |= {path} if isinstance(error.__cause__, PermissionError) else set()
            continue
        if header.get("SOPClassUID") == RT_STRUCTURE_SET:
            structure_sets.append((path, header))
        elif is_ct:
            series.setdefault(str(header.SeriesInstanceUID), []).append((path, header))
        elif header.get("SOPClassUID") in MR_AND_PET_CLASSES:
            other_images.append(path)
    files = {uid: tuple(path for path, _ in slices) for uid, slices in series.items()}
    headers = dict(structure_sets) | dict(each for slices in series.values() for each in slices)
    sets = tuple(path for path, _ in structure_sets)
    others = tuple(other_images)
    found = DicomFolder(files, sets, headers, others, tree.files, tuple(unreadable), frozenset(denied), tree.linked)
    return found, series


def _ct_series(folder: Path) -> dict[str, list[Slice]]:
    found, series = _scan(folder)
    if not series:
        raise ImageError(
            f"{folder}: no CT slice among {counted(len(found.files), 'file')}; export the planning CT into this folder"
        )
    return series


def _header(path: Path) -> Dataset:
    """Returns a file's `TAGS`, decoded (NoDicomError: it is no DICOM file; ImageError: it is damaged)."""
    with reading(path, ImageError, EXPECTED):
        header = open_dicom(path, TAGS, stop_before_pixels=True)
        for tag in TAGS:
            header.get(tag)
        check_identity(path, header)
        return header


def _whole_header(path: Path) -> Dataset:
    with reading(path, ImageError, EXPECTED):
        return open_dicom(path, stop_before_pixels=True)


def _given_slice(path: Path) -> Slice:
    try:
        return path, _header(path)
    except NoDicomError as error:
        raise ImageError(f"{path}: is no DICOM file; expected a CT slice, a folder of them, or NIfTI") from error


def _only_series(folder: Path) -> list[Slice]:
    series = _ct_series(folder)
    if len(series) > 1:
        listed = ", ".join(f"{uid} ({counted(len(slices), 'slice')})" for uid, slices in series.items())
        raise ImageError(f"{folder}: {len(series)} CT series: {listed}; expected one; keep one in the folder")
    return next(iter(series.values()))


def _read_hu(slices: Sequence[Slice]) -> NDArray[Any]:
    """Returns the slices' HU (z, y, x), decoded one by one: a whole series in float32 would be copied twice."""
    rescaling = [float(value) for _, header in slices for value in (header.RescaleSlope, header.RescaleIntercept)]
    first = slices[0][1]
    whole = all(value.is_integer() for value in rescaling)
    hu = np.empty((len(slices), int(first.Rows), int(first.Columns)), np.int16 if whole else np.float32)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    for (path, _), plane in zip(slices, hu, strict=True):
        reader.SetFileName(itk_name(path))
        try:
            image = reader.Execute()
            decoded = sitk.GetArrayViewFromImage(image)[0]
            np.clip(decoded, LOWEST_HU, np.iinfo(np.int16).max, out=plane, casting="unsafe")
        except (RuntimeError, ValueError) as error:  # ValueError: another size than the header's
            reason = str(error).strip().splitlines()[-1].strip()
            raise ImageError(f"{path}: pixels cannot be decoded ({reason}); export uncompressed") from error
    return hu
