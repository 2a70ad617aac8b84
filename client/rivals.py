"""Several structure sets of one CT that hold a target: what tells them apart, for the person who must choose."""

from collections.abc import Sequence
from itertools import count

import numpy as np

from common.contour_mask import Structure, draw_structure
from common.errors import LabelError
from common.rtstruct import RtStruct
from common.text import clean_text
from common.volume import Geometry

PIXEL_MM = 0.5
MOST_VOXELS = 50_000_000
Rival = tuple[RtStruct, Sequence[Structure]]
"""A structure set and the structures in it that could be the target."""


def rivals_refusal(rivals: Sequence[Rival]) -> str:
    """Returns the line with which a case of several rivals is refused: each with file, names, volumes and approval."""
    named = zip(places([each for each, _ in rivals]), rivals, strict=True)
    shown = ", ".join(f"{place} ({_facts(each, found)})" for place, (each, found) in named)
    names = {structure.name for _, found in rivals for structure in found}
    remedies = ["leave out of the export what is outdated"]
    if sum(each.is_approved for each, _ in rivals) == 1:
        remedies.append("set ingest.prefer_approved: true in site.yaml to take the approved one")
    if len(names) > 1:
        remedies.append("name the target exactly under ingest.structures in site.yaml")
    return f"{len(rivals)} structure sets of this CT hold a target: {shown}; expected one; " + ", or ".join(remedies)


def places(sets: Sequence[RtStruct]) -> list[str]:
    """Returns each file with its folder, and with as many above it as tell all of them apart.

    Exports often name all files of a kind alike, and all folders of a kind too.
    """
    paths = [each.path.parts for each in sets]
    num_parts = next(num for num in count(2) if len({parts[-num:] for parts in paths}) == len(set(paths)))
    return ["/".join(parts[-num_parts:]) for parts in paths]


def volume_ml(structure: Structure) -> float | None:
    """Returns a structure's volume by pixels of half a mm between its planes; None if these are not planes of z.

    So it can be told without the CT. A slice's thickness is the usual step between planes.
    """
    points = np.concatenate(structure.contours)
    planes = np.unique(np.round(points[:, 2], 1))
    low, high = points.min(axis=0) - PIXEL_MM, points.max(axis=0) + PIXEL_MM
    if len(planes) < 2 or any(np.ptp(contour[:, 2]) > 0.1 for contour in structure.contours):
        return None
    step_mm = float(np.median(np.diff(planes)))
    extent = np.array([np.ptp(planes), *(high - low)[1::-1]]) / (step_mm, PIXEL_MM, PIXEL_MM)
    depth, height, width = (int(size) + 1 for size in np.ceil(extent))
    if depth * height * width > MOST_VOXELS:
        return None
    x, y, z = float(low[0]), float(low[1]), float(planes[0])
    geometry = Geometry((depth, height, width), (step_mm, PIXEL_MM, PIXEL_MM), (x, y, z))
    try:
        return int(draw_structure(structure, geometry).mask.sum()) * geometry.voxel_ml
    except LabelError:  # too odd to draw: whoever chooses it is told when it is imported
        return None


def _facts(structure_set: RtStruct, found: Sequence[Structure]) -> str:
    approval = "approved" if structure_set.is_approved else "not approved"
    return ", ".join([*(_named(each) for each in found), approval])


def _named(structure: Structure) -> str:
    volume = volume_ml(structure)
    num = len(structure.contours)
    size = f"{num} contour{'' if num == 1 else 's'}" if volume is None else f"about {volume:.1f} ml"
    return f"{clean_text(structure.name, None)} of {size}"
