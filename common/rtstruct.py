"""RTSTRUCTs: reading their structures and choosing the target by name (DICOM PS3.3 C.8.8.5, C.8.8.6).

Filling contours stands in `contour_mask`, writing in `rtstruct_writer`; both are offered here too.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from common.contour_mask import DrawnMask, Structure, contours_to_mask, draw_structure
from common.dicom_files import NoDicomError, open_dicom, reading
from common.dicom_slices import RT_STRUCTURE_SET
from common.errors import ConfigError, LabelError
from common.rtstruct_writer import MANUFACTURER, write_rtstruct

__all__ = [
    "DrawnMask",
    "References",
    "RtStruct",
    "Structure",
    "choose_structure",
    "contour_images",
    "contours_to_mask",
    "draw_structure",
    "name_matches",
    "read_references",
    "read_rtstruct",
    "write_rtstruct",
]

EXCLUSIVE = "CLOSEDPLANAR_XOR"
AREAS = ("CLOSED_PLANAR", EXCLUSIVE)  # contour types that bound an area; points and open lines do not
EXPECTED = "an RTSTRUCT"
EXACTLY = "name the target exactly under ingest.structures in site.yaml"
FRAMES = "ReferencedFrameOfReferenceSequence"
REFERENCE_TAGS = ["SOPClassUID", FRAMES, "StructureSetROISequence"]
OURS = ("Manufacturer", "StructureSetLabel", "StructureSetDescription", "SeriesDescription")
"""What we write our name into: a planning system that exports a set again puts its own into some of these."""


@dataclass(frozen=True)
class References:
    """What a structure set says it was drawn on."""

    frame_uids: tuple[str, ...]
    """Frames of reference named by its image references or its ROIs."""
    series_uids: tuple[str, ...]
    """CT series; often wrong after anonymisation."""
    images: Mapping[str, frozenset[str]]
    """SOP instances of each of these series."""


@dataclass(frozen=True, eq=False)
class RtStruct:
    """A structure set."""

    path: Path
    structures: tuple[Structure, ...]
    patient_id: str = ""
    by_model: bool = False
    """Whether `fedgtv-site segment` wrote it."""
    sop_uid: str = ""
    """Its own identity; empty if not given."""
    is_approved: bool = False
    """Whether its ApprovalStatus is APPROVED (DICOM PS3.3 C.8.8.16)."""


@dataclass(frozen=True, eq=False)
class _Contour:
    kind: str
    points: NDArray[np.float64] | None
    """None for a contour that bounds no area."""
    images: frozenset[str] = frozenset()


def read_rtstruct(path: Path) -> RtStruct:
    """Returns the structure set in a file.

    Raises:
        LabelError: the file is missing, damaged or no RTSTRUCT, gives two structures one number, or holds a contour
            that is no list of finite triples or of another length than it says.
    """
    with reading(path, LabelError, EXPECTED):
        dataset = _dataset(path)
        items = list(dataset.get("StructureSetROISequence") or ())
        _check_numbers(items, path)
        drawn = _contours(dataset, path)
        frames = _once([item.get("FrameOfReferenceUID") for item in dataset.get(FRAMES) or ()])
        frame = frames[0] if len(frames) == 1 else ""
        structures = tuple(_structure(item, drawn, frame) for item in items)
        patient_id = str(dataset.get("PatientID") or "").strip()
        by_model = any(MANUFACTURER in str(dataset.get(tag) or "") for tag in OURS)
        is_approved = str(dataset.get("ApprovalStatus") or "").strip() == "APPROVED"
        sop_uid = str(dataset.get("SOPInstanceUID") or "")
        return RtStruct(Path(path), structures, patient_id, by_model, sop_uid, is_approved)


def read_references(path: Path) -> References:
    """Returns what the structure set in a file refers to, without its contours; errors as `read_rtstruct`."""
    with reading(path, LabelError, EXPECTED):
        return _references(_dataset(path, REFERENCE_TAGS))


def contour_images(path: Path, number: int | None = None) -> frozenset[str]:
    """Returns the SOP instances that the contours of a ROI, or of all, refer to (DICOM PS3.3 C.8.8.6); LabelError."""
    with reading(path, LabelError, EXPECTED):
        dataset = _dataset(path, ["SOPClassUID", "ROIContourSequence"])
        return frozenset(
            str(image.get("ReferencedSOPInstanceUID"))
            for item in dataset.get("ROIContourSequence") or ()
            if number is None or int(item.ReferencedROINumber) == number
            for contour in item.get("ContourSequence") or ()
            for image in contour.get("ContourImageSequence") or ()
        )


def choose_structure(structures: Sequence[Structure], patterns: Sequence[str]) -> Structure:
    """Returns the only structure with contours whose name matches the first pattern that matches any.

    Patterns are regular expressions, searched without regard to case. Interpreted types play no part:
    planning systems type whole breasts GTV.

    Raises:
        LabelError: a pattern matches several structures, or none matches; lists them.
        ConfigError: a pattern is no regular expression.
    """
    drawn = [structure for structure in structures if structure.contours]
    for pattern in patterns:
        matching = [structure for structure in drawn if name_matches(pattern, structure.name)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            alike = len({structure.name.casefold() for structure in matching}) == 1  # no pattern tells them apart
            remedy = "rename or delete one in the planning system" if alike else EXACTLY
            raise LabelError(
                f"pattern {pattern!r} matches {len(matching)} structures: {_listed(matching)}; expected one; {remedy}"
            )
    empty = [structure for structure in structures if not structure.contours]
    without = f" (without contours: {_listed(empty)})" if empty else ""
    raise LabelError(
        f"no structure matches {' or '.join(map(repr, patterns))}; found {_listed(drawn) or 'none'}{without}; "
        "name the target under ingest.structures in site.yaml"
    )


def name_matches(pattern: str, name: str) -> bool:
    """Whether a structure's name matches a pattern, in any case (ConfigError: it is no regular expression)."""
    try:
        return re.search(pattern, name, re.IGNORECASE) is not None
    except re.error as error:
        raise ConfigError(
            f"ingest.structures: {pattern!r} is no regular expression ({error}); correct it in site.yaml"
        ) from error


def _dataset(path: Path, tags: list[str] | None = None) -> Dataset:
    try:
        dataset = open_dicom(path, tags)
    except NoDicomError as error:
        raise LabelError(f"{path}: is no DICOM file; expected {EXPECTED}; give the structure set's file") from error
    if dataset.get("SOPClassUID") != RT_STRUCTURE_SET:
        raise LabelError(f"{path}: no RTSTRUCT by its SOP class; expected one; give the structure set's file")
    return dataset


def _check_numbers(items: Sequence[Dataset], path: Path) -> None:
    """Raises if two structures have one number: whose are the contours?"""
    for number, count in Counter(int(item.ROINumber) for item in items).items():
        if count > 1:
            raise LabelError(
                f"{path}: {count} structures have the ROI number {number}; expected a number of its own for each; "
                "export the structure set again"
            )


def _structure(item: Dataset, drawn: Mapping[int, Sequence[_Contour]], frame_uid: str) -> Structure:
    """`frame_uid`: of the whole set, for a structure that names none."""
    number = int(item.ROINumber)
    contours = drawn.get(number, [])
    areas = tuple(contour.points for contour in contours if contour.points is not None)
    name = item.get("ROIName") or ""
    return Structure(
        number=number,
        name=(name if isinstance(name, str) else "\\".join(map(str, name))).strip(),
        contours=areas,
        exclusive=any(contour.kind == EXCLUSIVE for contour in contours),
        num_left_out=len(contours) - len(areas),
        frame_uid=str(item.get("ReferencedFrameOfReferenceUID") or frame_uid),
        images=tuple(contour.images for contour in contours if contour.points is not None),
    )


def _contours(dataset: Dataset, path: Path) -> dict[int, list[_Contour]]:
    """Returns all contours by ROI number; several items of one number are added up."""
    found: dict[int, list[_Contour]] = {}
    for item in dataset.get("ROIContourSequence") or ():
        number = int(item.ReferencedROINumber)
        contours = [_contour(contour, number, path) for contour in item.get("ContourSequence") or ()]
        found.setdefault(number, []).extend(contours)
    return found


def _contour(contour: Dataset, number: int, path: Path) -> _Contour:
    kind = str(contour.get("ContourGeometricType") or "")
    if kind not in AREAS:
        return _Contour(kind, None)
    try:
        points = _numbers(contour).reshape(-1, 3)
    except ValueError as error:
        raise _odd_data(path, number, "contour data that is no list of x, y, z") from error
    said = contour.get("NumberOfContourPoints")
    if said is not None and int(said) != len(points):
        raise _odd_data(path, number, f"a contour of {len(points)} points that says it has {said}")
    if not np.isfinite(points).all():
        raise _odd_data(path, number, "a contour with a coordinate that is no finite number")
    return _Contour(kind, points if len(points) >= 3 else None, _images(contour))


def _odd_data(path: Path, number: int, what: str) -> LabelError:
    return LabelError(f"{path}: ROI number {number} has {what}; export the structure set again")


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
    images: dict[str, frozenset[str]] = {}
    for frame in dataset.get(FRAMES) or ():
        frames.append(frame.get("FrameOfReferenceUID"))
        for study in frame.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                uid = str(item.get("SeriesInstanceUID") or "")
                images[uid] = images.get(uid, frozenset()) | _images(item)
    frames += [item.get("ReferencedFrameOfReferenceUID") for item in dataset.get("StructureSetROISequence") or ()]
    return References(_once(frames), _once(list(images)), images)


def _images(item: Dataset) -> frozenset[str]:
    return frozenset(str(image.get("ReferencedSOPInstanceUID")) for image in item.get("ContourImageSequence") or ())


def _once(uids: Sequence[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(uid) for uid in uids if uid))


def _listed(structures: Sequence[Structure]) -> str:
    return ", ".join(repr(structure.name) for structure in structures)
