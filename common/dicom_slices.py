"""Slices of a CT series by their headers: what tells one, what is refused of it, and the grid that they make."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from common.dicom_files import bytes_after_header
from common.errors import ImageError
from common.volume import Geometry

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP classes, DICOM PS3.4 B.5
ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.1"
RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
CT_CLASSES = (CT_IMAGE, ENHANCED_CT_IMAGE)
MR_AND_PET_CLASSES = (
    *("1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1", "1.2.840.10008.5.1.4.1.1.4.4"),
    *("1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.128.1", "1.2.840.10008.5.1.4.1.1.130"),
)
"""Plain, enhanced and legacy ones: the images that an export holds beside the CT."""

SPACING_TOLERANCE_MM = 0.1  # positions are often written with one decimal
COSINE_TOLERANCE = 1e-3
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
PLACE = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}  # numbers that each tag holds
RESCALING = {"RescaleSlope": 1, "RescaleIntercept": 1}
TAGS = [  # what tells a file's kind, and what is checked of a slice; anything else is passed over
    *(*UIDS, "ImageType", *PLACE, "Rows", "Columns", "PatientID", "SeriesDescription"),
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "BitsAllocated", *RESCALING),
]
GREY = "MONOCHROME2"
UNCOMPRESSED = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)

Slice = tuple[Path, Dataset]


def is_ct_slice(header: Dataset) -> bool:
    """Whether a file is a CT image and no localiser."""
    return header.get("SOPClassUID") in CT_CLASSES and "LOCALIZER" not in (header.get("ImageType") or ())


def check_identity(path: Path, header: Dataset) -> None:
    """Raises ImageError for a damaged file: without SOP class (a DICOMDIR has none), or a CT slice of no series."""
    for tag in UIDS:
        if not isinstance(header.get(tag, ""), str | None):
            raise ImageError(f"{path}: its {tag} is no UID; expected one; it is damaged, copy it again")
    kind = header.get("SOPClassUID")
    if not kind and header.file_meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage:
        raise ImageError(f"{path}: DICOM without SOPClassUID; it was cut short, copy it again")
    if kind in CT_CLASSES and not header.get("SeriesInstanceUID"):
        raise ImageError(f"{path}: a CT slice without SeriesInstanceUID; it was cut short, copy it again")


def check_slice(path: Path, header: Dataset) -> None:
    """Raises ImageError for what cannot be a slice of a volume in HU."""
    if header.get("SOPClassUID") == ENHANCED_CT_IMAGE or int(header.get("NumberOfFrames") or 1) > 1:
        raise ImageError(f"{path}: a multi-frame CT; expected one slice a file; export as classic CT images")
    for tag in ("SOPInstanceUID", "StudyInstanceUID", "Rows", "Columns", *PLACE):
        if not header.get(tag):
            raise ImageError(f"{path}: has no {tag}; expected it in a CT slice; export the series again")
    for tag in RESCALING:
        if header.get(tag) is None:
            raise ImageError(f"{path}: has no {tag}, so its Hounsfield units are unknown; export the series again")
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise ImageError(f"{path}: {header.SamplesPerPixel} samples a pixel; expected 1; remove the colour image")
    if (header.get("PhotometricInterpretation") or GREY) != GREY:
        raise ImageError(
            f"{path}: PhotometricInterpretation is {header.PhotometricInterpretation!r}; expected {GREY!r}, in which a "
            "CT's Hounsfield units are written; export the series again"
        )
    _check_numbers(path, header)
    _check_whole(path, header)


def _check_numbers(path: Path, header: Dataset) -> None:
    """Raises unless place, size and rescaling of a slice are numbers that can be computed with."""
    for tag, num_values in (PLACE | RESCALING).items():
        value = header.get(tag)
        values = np.array(value, np.float64) if tag in PLACE else np.array([float(value)])
        if values.shape != (num_values,) or not np.isfinite(values).all():
            raise ImageError(
                f"{path}: {tag} is {header.get(tag)}; expected {num_values} finite numbers; export the series again"
            )
    for tag, values in {"PixelSpacing": header.PixelSpacing, "RescaleSlope": [abs(float(header.RescaleSlope))]}.items():
        if not min(values) > 0:
            raise ImageError(f"{path}: {tag} is {header.get(tag)}; expected it above zero; export the series again")


def _check_whole(path: Path, header: Dataset) -> None:
    """Raises if an uncompressed file is too short for its pixels, which GDCM would fill with rubbish in silence."""
    if header.file_meta.get("TransferSyntaxUID") not in UNCOMPRESSED:
        return
    num_bytes = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
    found = bytes_after_header(path)
    if found < num_bytes:
        raise ImageError(f"{path}: {found} bytes of pixels; expected {num_bytes}; it was cut short, copy it again")


def check_alike(slices: Sequence[Slice]) -> None:
    """Raises ImageError unless all slices share series, size, in-plane spacing, orientation, patient and frame."""
    first_path, first = slices[0]
    known: dict[str, Path] = {}
    for path, header in slices:
        other = known.setdefault(str(header.SOPInstanceUID), path)
        if other != path:
            place = other.name if other.parent == path.parent else other
            raise ImageError(
                f"{path}: has the SOPInstanceUID of {place}; expected one of its own; keep the right one alone, or "
                "export the series again"
            )
        for tag in ("SeriesInstanceUID", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
            value, expected = header[tag].value, first[tag].value
            if value != expected and not _nearly_equal(value, expected):
                raise ImageError(
                    f"{path}: {tag} is {value}; expected {expected} as in {first_path.name}; "
                    "export the series as one set of equal slices"
                )
    for tag, thing in {"PatientID": "patient", "FrameOfReferenceUID": "frame of reference"}.items():
        _check_one(slices, tag, thing)


def _check_one(slices: Sequence[Slice], tag: str, thing: str) -> None:
    """Raises ImageError if slices name two patients, or two frames of reference; the names stay unsaid."""
    known: dict[str, Path] = {}
    for path, header in slices:
        value = str(header.get(tag) or "").strip()
        if value:
            known.setdefault(value, path)
    if len(known) > 1:
        first, other = list(known.values())[:2]
        raise ImageError(
            f"{other}: {tag} is not that of {first.name}; expected slices of one {thing}; export the series of each "
            "on its own"
        )


def _nearly_equal(value: Any, expected: Any) -> bool:
    if isinstance(value, str | int):
        return False
    return bool(np.allclose(np.array(value, float), np.array(expected, float), rtol=0, atol=COSINE_TOLERANCE))


def stack(slices: Sequence[Slice]) -> tuple[list[Slice], Geometry]:
    """Returns the slices sorted along their normal, and the grid they make (ImageError: they make none)."""
    first_path, first = slices[0]
    if len(slices) < 2:
        raise ImageError(f"{first_path}: the only slice of its series; expected at least 2; export the whole series")
    cosines = _cosines(first_path, first)
    places = np.array([header.ImagePositionPatient for _, header in slices], np.float64) @ cosines
    order = np.argsort(places[:, 2], kind="stable")
    ordered = [slices[index] for index in order]
    _check_steps(places[order], [path for path, _ in ordered], tuple(map(float, first.PixelSpacing)))
    step = float(places[order[-1], 2] - places[order[0], 2]) / (len(slices) - 1)
    row_mm, column_mm = (float(value) for value in first.PixelSpacing)
    x, y, z = (float(value) for value in ordered[0][1].ImagePositionPatient)
    geometry = Geometry(
        size=(len(slices), int(first.Rows), int(first.Columns)),
        spacing_mm=(step, row_mm, column_mm),
        origin_mm=(x, y, z),
        direction=tuple(float(value) for value in (cosines + 0.0).ravel()),
    )
    return ordered, geometry


def _cosines(path: Path, header: Dataset) -> NDArray[np.float64]:
    """Returns orthonormal directions of a slice's columns, rows and normal, as columns of a matrix."""
    row, column = np.array(header.ImageOrientationPatient, np.float64).reshape(2, 3)
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if abs(row @ column) > COSINE_TOLERANCE or np.abs(lengths - 1).max() > COSINE_TOLERANCE:
        raise ImageError(
            f"{path}: ImageOrientationPatient is {header.ImageOrientationPatient}; expected two perpendicular unit "
            "vectors; export the series again"
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    return np.stack([row, column, np.cross(row, column)], axis=1)


def _check_steps(places: NDArray[np.float64], paths: Sequence[Path], pixel_mm: tuple[float, ...]) -> None:
    """Raises unless the slices stand at equal steps straight above each other; `places` is (N, 3) in their frame."""
    gaps = np.diff(places[:, 2])
    usual = float(np.median(gaps))
    twice = np.flatnonzero(gaps < 1e-3)
    if twice.size:
        raise ImageError(
            f"{paths[twice[0]]}: at the same position as {paths[twice[0] + 1].name}; expected one slice a position; "
            "remove the copies or the second acquisition"
        )
    worst = int(np.abs(gaps - usual).argmax())
    if abs(gaps[worst] - usual) > SPACING_TOLERANCE_MM:
        raise ImageError(
            f"{paths[worst]}: {gaps[worst]:.2f} mm to the next slice {paths[worst + 1].name}; expected {usual:.2f} mm "
            "as between the others; export the series without gaps"
        )
    shift = float(np.abs(places[:, :2] - places[0, :2]).max())
    if shift > max(SPACING_TOLERANCE_MM, 0.5 * min(pixel_mm)):
        raise ImageError(
            f"{paths[-1]}: shifted by {shift:.1f} mm across the slices' normal; expected slices straight above each "
            "other, without gantry tilt; export a resampled series"
        )
