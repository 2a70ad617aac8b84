"""CT series from folders of DICOM files: found by their headers, checked, and read as a volume in Hounsfield units.

Headers are read with pydicom, pixels with SimpleITK's GDCM, which decodes JPEG, JPEG-LS and JPEG 2000.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from common.errors import ImageError
from common.volume import Geometry, Volume

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # SOP classes, DICOM PS3.4 B.5
ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.1"
RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"

LOWEST_HU = -1024  # vendors pad outside the reconstruction circle with -2000 or -3024
SPACING_TOLERANCE_MM = 0.1  # positions are often written with one decimal
COSINE_TOLERANCE = 1e-3
TAGS = [  # what tells a file's kind, and what is checked of a slice; anything else is passed over
    *("SOPClassUID", "SOPInstanceUID", "ImageType", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "SeriesDescription"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"),
    *("SamplesPerPixel", "NumberOfFrames", "BitsAllocated", "RescaleIntercept", "RescaleSlope"),
]

Slice = tuple[Path, Dataset]


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
    """Frame of reference; empty where the series has none."""
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
    num_files: int
    """All files below the folder, DICOM or not."""


def scan_folder(folder: Path) -> DicomFolder:
    """Returns the CT series and RTSTRUCTs anywhere below `folder`; what is not DICOM is passed over.

    Raises:
        ImageError: `folder` is no folder.
    """
    series, structure_sets, num_files = _scan(folder)
    ct_series = {uid: tuple(path for path, _ in slices) for uid, slices in series.items()}
    headers = dict(structure_sets) | dict(each for slices in series.values() for each in slices)
    return DicomFolder(ct_series, tuple(path for path, _ in structure_sets), headers, num_files)


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
        _check_slice(path, header)
    _check_alike(slices)
    slices, geometry = _stack(slices)
    first = slices[0][1]
    return CtSeries(
        volume=Volume(_read_hu(slices), geometry),
        files=tuple(path for path, _ in slices),
        sop_uids=tuple(str(header.SOPInstanceUID) for _, header in slices),
        series_uid=str(first.SeriesInstanceUID),
        study_uid=str(first.StudyInstanceUID),
        frame_uid=str(first.get("FrameOfReferenceUID", "")),
        header=dcmread(slices[0][0], stop_before_pixels=True),
    )


def _slices(source: Path | Sequence[Path]) -> list[Slice]:
    """Returns the slices of the only series in a folder, or the given files as slices."""
    files = [source] if isinstance(source, Path) and source.is_file() else source
    return _only_series(files) if isinstance(files, Path) else [_given_slice(path) for path in files]


def _scan(folder: Path) -> tuple[dict[str, list[Slice]], list[Slice], int]:
    """Returns the CT slices below `folder` by series, the structure sets, and the number of files."""
    if not Path(folder).is_dir():
        raise ImageError(f"{folder}: no such folder; expected a folder of DICOM files")
    series: dict[str, list[Slice]] = {}
    structure_sets = []
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    for path, header in _headers(paths):
        if header.get("SOPClassUID") == RT_STRUCTURE_SET:
            structure_sets.append((path, header))
        elif _is_ct_slice(header):
            series.setdefault(str(header.SeriesInstanceUID), []).append((path, header))
    return series, structure_sets, len(paths)


def _ct_series(folder: Path) -> dict[str, list[Slice]]:
    series, _, num_files = _scan(folder)
    if not series:
        raise ImageError(f"{folder}: no CT slice among {num_files} files; export the planning CT into this folder")
    return series


def _headers(paths: Sequence[Path]) -> Iterator[Slice]:
    for path in paths:
        try:
            yield path, _header(path)
        except (InvalidDicomError, EOFError):
            continue


def _header(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True, specific_tags=TAGS)


def _is_ct_slice(header: Dataset) -> bool:
    kind = header.get("SOPClassUID")
    is_localiser = "LOCALIZER" in (header.get("ImageType") or ())
    return kind in (CT_IMAGE, ENHANCED_CT_IMAGE) and not is_localiser and "SeriesInstanceUID" in header


def _given_slice(path: Path) -> Slice:
    try:
        return path, _header(path)
    except (InvalidDicomError, EOFError) as error:
        raise ImageError(f"{path}: is no DICOM file; expected a CT slice, a folder of them, or NIfTI") from error


def _only_series(folder: Path) -> list[Slice]:
    series = _ct_series(folder)
    if len(series) > 1:
        listed = ", ".join(f"{uid} ({len(slices)} slices)" for uid, slices in series.items())
        raise ImageError(f"{folder}: {len(series)} CT series: {listed}; expected one; keep one in the folder")
    return next(iter(series.values()))


def _check_slice(path: Path, header: Dataset) -> None:
    if header.get("SOPClassUID") == ENHANCED_CT_IMAGE or int(header.get("NumberOfFrames") or 1) > 1:
        raise ImageError(f"{path}: a multi-frame CT; expected one slice a file; export as classic CT images")
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "StudyInstanceUID"):
        if not header.get(tag):
            raise ImageError(f"{path}: has no {tag}; expected it in a CT slice; export the series again")
    for tag in ("RescaleSlope", "RescaleIntercept"):
        if header.get(tag) is None:
            raise ImageError(f"{path}: has no {tag}, so its Hounsfield units are unknown; export the series again")
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise ImageError(f"{path}: {header.SamplesPerPixel} samples a pixel; expected 1; remove the colour image")
    _check_whole(path, header)


def _check_whole(path: Path, header: Dataset) -> None:
    """Raises if an uncompressed file is too short for its pixels, which GDCM would fill with rubbish in silence."""
    num_bytes = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
    if not header.file_meta.TransferSyntaxUID.is_compressed and path.stat().st_size < num_bytes:
        raise ImageError(
            f"{path}: {path.stat().st_size} bytes; expected {num_bytes} and more; it was cut short, copy it again"
        )


def _check_alike(slices: Sequence[Slice]) -> None:
    """Raises unless all slices share series, size, in-plane spacing and orientation with the first."""
    first_path, first = slices[0]
    for path, header in slices:
        for tag in ("SeriesInstanceUID", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"):
            value, expected = header[tag].value, first[tag].value
            if value != expected and not _nearly_equal(value, expected):
                raise ImageError(
                    f"{path}: {tag} is {value}; expected {expected} as in {first_path.name}; "
                    "export the series as one set of equal slices"
                )


def _nearly_equal(value: Any, expected: Any) -> bool:
    if isinstance(value, str | int):
        return False
    return bool(np.allclose(np.array(value, float), np.array(expected, float), rtol=0, atol=COSINE_TOLERANCE))


def _stack(slices: Sequence[Slice]) -> tuple[list[Slice], Geometry]:
    """Returns the slices sorted along their normal, and the grid they make."""
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
        reader.SetFileName(str(path))
        try:
            image = reader.Execute()
            decoded = sitk.GetArrayViewFromImage(image)[0]
            np.clip(decoded, LOWEST_HU, np.iinfo(np.int16).max, out=plane, casting="unsafe")
        except (RuntimeError, ValueError) as error:  # ValueError: another size than the header's
            reason = str(error).strip().splitlines()[-1].strip()
            raise ImageError(f"{path}: pixels cannot be decoded ({reason}); export uncompressed") from error
    return hu
