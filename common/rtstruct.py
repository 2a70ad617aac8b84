"""RTSTRUCTs: reading their structures, choosing the target by name, filling contours (DICOM PS3.3 C.8.8.5, C.8.8.6).

Writing stands in `rtstruct_writer` and is offered here too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from common.contours import fill_even_odd
from common.dicom import RT_STRUCTURE_SET
from common.errors import ConfigError, LabelError
from common.rtstruct_writer import write_rtstruct
from common.volume import Geometry, patient_to_index

__all__ = [
    "References",
    "RtStruct",
    "Structure",
    "choose_structure",
    "contours_to_mask",
    "read_references",
    "read_rtstruct",
    "write_rtstruct",
]

AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")  # contour types that bound an area; points and open lines do not
OFF_PLANE_SLICES = 0.5  # a contour may leave its plane by this much, in slices
SAME_PLANE_SLICES = 0.01


@dataclass(frozen=True, eq=False)
class Structure:
    """A region of interest."""

    number: int
    name: str
    contours: tuple[NDArray[np.float64], ...]
    """Closed polygons, points (N, 3) as (x, y, z) in mm; points and open lines are left out."""
    interpreted_type: str
    """Such as GTV or ORGAN; empty if not given. Not to be trusted: planning systems type whole breasts GTV."""


@dataclass(frozen=True)
class References:
    """What a structure set says it was drawn on."""

    frame_uids: tuple[str, ...]
    """Frames of reference named by its image references or its ROIs."""
    series_uids: tuple[str, ...]
    """CT series; often wrong after anonymisation."""


@dataclass(frozen=True, eq=False)
class RtStruct:
    """A structure set."""

    path: Path
    structures: tuple[Structure, ...]
    references: References


def read_rtstruct(path: Path) -> RtStruct:
    """Returns the structure set in a file.

    Raises:
        LabelError: the file is missing, no RTSTRUCT, or holds a contour that is not a list of triples.
    """
    dataset = _dataset(path)
    types = {
        int(item.ReferencedROINumber): str(item.get("RTROIInterpretedType") or "")
        for item in dataset.get("RTROIObservationsSequence") or ()
    }
    contours: dict[int, tuple[NDArray[np.float64], ...]] = {
        int(item.ReferencedROINumber): _areas(item, path) for item in dataset.get("ROIContourSequence") or ()
    }
    structures = []
    for item in dataset.get("StructureSetROISequence") or ():
        number = int(item.ROINumber)
        name = str(item.get("ROIName") or "").strip()
        structures.append(Structure(number, name, contours.get(number, ()), types.get(number, "")))
    return RtStruct(Path(path), tuple(structures), _references(dataset))


def read_references(path: Path) -> References:
    """Returns what the structure set in a file refers to, without its contours; errors as `read_rtstruct`."""
    return _references(_dataset(path, ["SOPClassUID", "ReferencedFrameOfReferenceSequence", "StructureSetROISequence"]))


def choose_structure(structures: Sequence[Structure], patterns: Sequence[str]) -> Structure:
    """Returns the only structure with contours whose name matches the first pattern that matches any.

    Patterns are regular expressions, searched without regard to case. Interpreted types play no part.

    Raises:
        LabelError: a pattern matches several structures, or none matches; lists them.
        ConfigError: a pattern is no regular expression.
    """
    drawn = [structure for structure in structures if structure.contours]
    for pattern in patterns:
        matching = [structure for structure in drawn if _matches(pattern, structure.name)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise LabelError(
                f"pattern {pattern!r} matches {len(matching)} structures: {_listed(matching)}; expected one; "
                "name the target exactly under ingest.structures in site.yaml"
            )
    empty = [structure for structure in structures if not structure.contours]
    without = f" (without contours: {_listed(empty)})" if empty else ""
    raise LabelError(
        f"no structure matches {' or '.join(map(repr, patterns))}; found {_listed(drawn) or 'none'}{without}; "
        "name the target under ingest.structures in site.yaml"
    )


def contours_to_mask(structure: Structure, geometry: Geometry) -> NDArray[np.bool_]:
    """Returns the voxels (z, y, x) whose centres lie in the structure.

    Contours of one plane combine by even-odd, so holes may be inner contours or keyholes; a contour given twice counts
    once. Every plane goes to the slice nearest to it; where several planes fall on a slice (contours drawn on a finer
    grid), the nearest plane counts. Slices between contours that were skipped stay empty.

    Raises:
        LabelError: no contours; a contour outside the image or not parallel to its slices; no voxel centre inside.
    """
    if not structure.contours:
        raise LabelError(
            f"structure {structure.name!r} has no contours; expected a drawn target; draw or choose another"
        )
    polygons = [patient_to_index(geometry, contour) for contour in structure.contours]
    _check_inside(structure.name, polygons, geometry)
    mask = np.zeros(geometry.size, bool)
    for index, plane in _planes(structure.name, polygons).items():
        mask[index] = fill_even_odd([polygon[:, 1:] for polygon in plane], geometry.size[1:])
    if not mask.any():
        raise LabelError(f"structure {structure.name!r} covers no voxel centre; expected a larger one; draw it again")
    return mask


def _dataset(path: Path, tags: list[str] | None = None) -> Dataset:
    try:
        dataset = dcmread(path, specific_tags=tags)
    except (OSError, InvalidDicomError, EOFError) as error:
        raise LabelError(f"{path}: not readable as DICOM; expected an RTSTRUCT; export it again") from error
    if dataset.get("SOPClassUID") != RT_STRUCTURE_SET:
        raise LabelError(f"{path}: no RTSTRUCT by its SOP class; expected one; give the structure set's file")
    return dataset


def _areas(item: Dataset, path: Path) -> tuple[NDArray[np.float64], ...]:
    """Returns the closed contours of an item of the ROI Contour Sequence."""
    found = []
    for contour in item.get("ContourSequence") or ():
        if contour.get("ContourGeometricType") not in AREAS:
            continue
        try:
            points = _numbers(contour).reshape(-1, 3)
        except ValueError as error:
            raise LabelError(
                f"{path}: ROI number {item.ReferencedROINumber} has contour data that is no list of x, y, z; "
                "export the structure set again"
            ) from error
        if len(points) >= 3:
            found.append(points)
    return tuple(found)


def _numbers(contour: Dataset) -> NDArray[np.float64]:
    """Returns the contour data; parsed from the raw bytes, since decimal strings one by one take 30 times longer."""
    element: Any = contour.get_item("ContourData")
    if element is None or element.value is None:
        return np.zeros(0)
    if isinstance(element.value, bytes):
        text = element.value.decode("ascii").strip(" \0")
        return np.array(text.split("\\") if text else [], np.float64)
    return np.array(element.value, np.float64)


def _references(dataset: Dataset) -> References:
    frames = []
    series = []
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        frames.append(frame.get("FrameOfReferenceUID"))
        for study in frame.get("RTReferencedStudySequence") or ():
            series += [item.get("SeriesInstanceUID") for item in study.get("RTReferencedSeriesSequence") or ()]
    frames += [item.get("ReferencedFrameOfReferenceUID") for item in dataset.get("StructureSetROISequence") or ()]
    return References(_once(frames), _once(series))


def _once(uids: Sequence[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(uid) for uid in uids if uid))


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name, re.IGNORECASE) is not None
    except re.error as error:
        raise ConfigError(
            f"ingest.structures: {pattern!r} is no regular expression ({error}); correct it in site.yaml"
        ) from error


def _listed(structures: Sequence[Structure]) -> str:
    return ", ".join(repr(structure.name) for structure in structures)


def _check_inside(name: str, polygons: Sequence[NDArray[np.float64]], geometry: Geometry) -> None:
    """Raises if a vertex lies beyond the faces of the image's outer voxels."""
    points = np.concatenate(polygons)
    size, spacing_mm = np.array(geometry.size), np.array(geometry.spacing_mm)
    excess = np.maximum(-0.5 - points.min(axis=0), points.max(axis=0) - (size - 0.5)) * spacing_mm
    axis = int(excess.argmax())
    if excess[axis] > 1e-3:
        raise LabelError(
            f"structure {name!r} reaches {excess[axis]:.1f} mm outside the image along {'zyx'[axis]}; expected it "
            "inside; export the CT series that it was drawn on, whole"
        )


def _planes(name: str, polygons: Sequence[NDArray[np.float64]]) -> dict[int, list[NDArray[np.float64]]]:
    """Returns the polygons of the plane nearest to each slice that has any, by slice."""
    nearest: dict[int, tuple[float, list[NDArray[np.float64]]]] = {}
    for polygon in {polygon.tobytes(): polygon for polygon in polygons}.values():
        if np.ptp(polygon[:, 0]) > OFF_PLANE_SLICES:
            raise LabelError(
                f"structure {name!r} has a contour that crosses {np.ptp(polygon[:, 0]):.1f} slices; expected contours "
                "parallel to the slices; export it on the planning CT's slices"
            )
        place = float(polygon[:, 0].mean())
        index = round(place)
        known = nearest.get(index)
        if known is None or abs(place - index) < abs(known[0] - index) - SAME_PLANE_SLICES:
            nearest[index] = (place, [polygon])
        elif abs(place - known[0]) <= SAME_PLANE_SLICES:
            known[1].append(polygon)
    return {index: plane for index, (_, plane) in nearest.items()}
