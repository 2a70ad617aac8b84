"""Structures to masks: contours in patient coordinates onto the voxel grid of an image (DICOM PS3.3 C.8.8.6)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.contours import fill_areas, fill_even_odd
from common.errors import LabelError
from common.volume import Geometry, patient_to_index

OFF_PLANE_SLICES = 0.5  # a contour may leave its plane by this much, in slices
HALF_WAY_SLICES = 0.01  # what rounding moves a plane that means half-way between two slices
SAME_PLANE_MM = 0.3  # coordinates are often written with one decimal
SAME_PLANE_SLICES = 0.25
USUAL_STEP = 0.75  # quantile: islands a little apart give as many small steps as large ones

Polygon = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Structure:
    """A region of interest."""

    number: int
    name: str
    contours: tuple[Polygon, ...]
    """Closed polygons, points (N, 3) as (x, y, z) in mm; points and open lines are left out."""
    exclusive: bool = False
    """Whether its contours are of type CLOSEDPLANAR_XOR."""
    num_left_out: int = 0
    """Contours that bound no area: points, open lines, closed ones of fewer than three points."""
    frame_uid: str = ""
    """Frame of reference that its points are in; empty if not given."""
    images: tuple[frozenset[str], ...] = ()
    """SOP instances that each contour names; none where not told."""


@dataclass(frozen=True, eq=False)
class DrawnMask:
    """A structure on a voxel grid."""

    mask: NDArray[np.bool_]
    """Voxels (z, y, x) whose centres lie in it."""
    remarks: tuple[str, ...]
    """What was odd about the contours, each as finding; what was done; remedy."""


def contours_to_mask(structure: Structure, geometry: Geometry) -> NDArray[np.bool_]:
    """Returns the mask of `draw_structure`, without its remarks."""
    return draw_structure(structure, geometry).mask


def draw_structure(structure: Structure, geometry: Geometry) -> DrawnMask:
    """Returns the voxels whose centres lie in the structure.

    Contours of one plane combine by even-odd, so that holes may be inner contours or keyholes. CLOSED_PLANAR contours
    that overlap in part or nearly coincide are joined instead, with a remark: the standard takes parts out by keyhole
    or by type CLOSEDPLANAR_XOR alone (C.8.8.6.3). A contour given twice counts once. Every plane goes to the slice
    nearest to it, the upper one at half-way; where several planes fall on a slice (contours drawn on a finer grid),
    the nearest plane counts, and the others are left out with a remark. Slices between contours that were skipped
    stay empty.

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
    overlapping = []
    once = list({polygon.tobytes(): polygon for polygon in polygons}.values())
    planes, num_between = _planes(structure.name, once, geometry)
    for index, plane in planes.items():
        outlines, shape = [polygon[:, 1:] for polygon in plane], geometry.size[1:]
        if structure.exclusive:
            mask[index] = fill_even_odd(outlines, shape)
        else:
            mask[index], joined = fill_areas(outlines, shape)
            overlapping += [index] if joined else []
    if not mask.any():
        raise LabelError(f"structure {structure.name!r} covers no voxel centre; expected a larger one; draw it again")
    return DrawnMask(mask, tuple(_remarks(structure, overlapping, num_between)))


def _remarks(structure: Structure, overlapping: Sequence[int], num_between: int) -> list[str]:
    found = []
    if structure.num_left_out:
        found.append(
            f"structure {structure.name!r} has {_counted(structure.num_left_out, 'contour')} bounding no area (points, "
            "open lines, fewer than three points); left out; delete what is not meant in the planning system"
        )
    if num_between:
        found.append(
            f"structure {structure.name!r} has {_counted(num_between, 'contour')} on planes between slices, where "
            "another plane is nearer to the slice; left out; export it on the planning CT's slices if it was drawn on "
            "them"
        )
    if overlapping:
        found.append(
            f"structure {structure.name!r} has contours that overlap in part or nearly coincide on "
            f"{_counted(len(overlapping), 'slice')} (the first is slice {min(overlapping)}, counted from 0); "
            "they were joined; see that no hole was meant"
        )
    return found


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _check_inside(name: str, polygons: Sequence[Polygon], geometry: Geometry) -> None:
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


def _planes(name: str, polygons: Sequence[Polygon], geometry: Geometry) -> tuple[dict[int, list[Polygon]], int]:
    """Returns the polygons of the plane nearest to each slice that has any, by slice, and how many are left out."""
    nearest: dict[int, tuple[float, list[Polygon]]] = {}
    num_left_out = 0
    for plane in _by_plane(polygons, [_place(name, polygon) for polygon in polygons], geometry.spacing_mm[0]):
        place = float(np.mean([polygon[:, 0].mean() for polygon in plane]))
        index = _slice_of(place, geometry.size[0])
        known = nearest.get(index)
        if known and abs(place - index) >= abs(known[0] - index) - HALF_WAY_SLICES:
            num_left_out += len(plane)
            continue
        num_left_out += len(known[1]) if known else 0
        nearest[index] = (place, plane)
    return {index: plane for index, (_, plane) in nearest.items()}, num_left_out


def _place(name: str, polygon: Polygon) -> float:
    """Returns where a polygon's plane lies, in slices (LabelError: it crosses them)."""
    if np.ptp(polygon[:, 0]) > OFF_PLANE_SLICES:
        raise LabelError(
            f"structure {name!r} has a contour that crosses {np.ptp(polygon[:, 0]):.1f} slices; expected contours "
            "parallel to the slices; export it on the planning CT's slices"
        )
    return float(polygon[:, 0].mean())


def _by_plane(polygons: Sequence[Polygon], places: Sequence[float], slice_mm: float) -> list[list[Polygon]]:
    """Returns the polygons of each plane, from the lowest plane to the highest.

    Islands and holes of one plane can lie a little apart: rounded coordinates, contours drawn on another image. So
    what is nearer than `SAME_PLANE_MM` is one plane, and what is nearer than half the usual step between the
    structure's planes, but never what is farther apart than `SAME_PLANE_SLICES`.
    """
    ordered = sorted(places)
    tolerance = min(SAME_PLANE_SLICES, SAME_PLANE_MM / slice_mm)
    steps = np.diff([plane[0] for plane in _grouped(ordered, tolerance)])
    if len(steps):
        usual = float(np.quantile(steps, USUAL_STEP))
        tolerance = max(tolerance, min(SAME_PLANE_SLICES, usual / 2))
    order = iter(np.argsort(places, kind="stable"))
    return [[polygons[next(order)] for _ in plane] for plane in _grouped(ordered, tolerance)]


def _grouped(ordered: Sequence[float], tolerance: float) -> list[list[float]]:
    """Returns sorted numbers in groups that reach no farther than a tolerance."""
    groups: list[list[float]] = []
    for value in ordered:
        if groups and value <= groups[-1][0] + tolerance + 1e-6:
            groups[-1].append(value)
        else:
            groups.append([value])
    return groups


def _slice_of(place: float, num_slices: int) -> int:
    """Returns the slice nearest to a plane; at half-way always the upper one, whatever was rounded on the way."""
    return min(int(np.floor(place + 0.5 + HALF_WAY_SLICES)), num_slices - 1)
