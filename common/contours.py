"""Masks of closed polygons and outlines of masks, exactly: a pixel belongs to a polygon if its centre does.

Polygons are (N, 2) arrays of (row, column) in pixels; whole numbers are pixel centres. A centre on an edge belongs to
the polygon at whose upper or left edge it lies, so that neighbours share no pixel. cv2.fillPoly, by contrast, rounds
its vertices and counts every pixel that the outline touches.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from contourpy import FillType, contour_generator
from numpy.typing import NDArray

OUTLINE_LEVEL = 0.51  # between 1 at centres inside and 0 outside
WITHIN = 0.9  # of a polygon's pixels: with this many in another it counts as a hole, though it may touch the rim
REPEATED = 0.8  # of the pixels of two polygons, shared by both: above, they are one area drawn twice, and no hole
DECIMALS = 6  # of a pixel: vertices that mean a pixel centre land on it in spite of rounding in patient coordinates


def fill_even_odd(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the pixels (rows, columns) whose centres lie within an odd number of the polygons.

    So an inner polygon is a hole, and the two coincident sides of a keyhole's channel cancel. Parts outside the array
    are cut off; no polygons give an empty mask.
    """
    num_rows, num_columns = shape
    edges = [np.hstack([polygon, np.roll(polygon, -1, axis=0)]) for polygon in polygons if len(polygon)]
    if not edges:
        return np.zeros(shape, bool)
    start_row, start_column, end_row, end_column = np.round(np.concatenate(edges), DECIMALS).T
    first = np.clip(np.ceil(np.minimum(start_row, end_row)), 0, num_rows).astype(np.int64)
    last = np.clip(np.ceil(np.maximum(start_row, end_row)), 0, num_rows).astype(np.int64)  # half-open: [first, last)
    edge = np.repeat(np.arange(len(first)), last - first)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[edge]
    slope = (end_column - start_column)[edge] / (end_row - start_row)[edge]
    crossing = np.round(start_column[edge] + (row - start_row[edge]) * slope, DECIMALS)
    column = np.clip(np.ceil(crossing), 0, num_columns).astype(np.int64)
    counts = np.bincount(row * (num_columns + 1) + column, minlength=num_rows * (num_columns + 1))
    inside = np.cumsum(counts.reshape(num_rows, num_columns + 1)[:, :-1], axis=1) % 2
    return inside.astype(bool)


def fill_areas(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, int]) -> tuple[NDArray[np.bool_], bool]:
    """Returns the pixels of polygons that each bound an area (DICOM CLOSED_PLANAR), and whether any were joined.

    A polygon clearly smaller than another and within it is a hole, or an island in a hole: planning systems write them
    so although the standard asks for keyholes. Polygons that overlap in part, or nearly coincide, are joined first;
    those that cover the same pixels count once.
    """
    if not _boxes_overlap(polygons):
        return fill_even_odd(polygons, shape), False
    areas: list[NDArray[np.bool_]] = []
    joined = False
    for polygon in polygons:
        area = fill_even_odd([polygon], shape)
        if any(np.array_equal(area, other) for other in areas):
            continue
        while others := [other for other in areas if _belong_together(area, other)]:
            area, joined = np.logical_or.reduce([area, *others]), True
            areas = [kept for kept in areas if not any(kept is other for other in others)]
        areas.append(area)
    return np.logical_xor.reduce(areas), joined


def _boxes_overlap(polygons: Sequence[NDArray[np.float64]]) -> bool:
    """Whether the bounding boxes of any two polygons share a point."""
    low = np.array([polygon.min(axis=0) for polygon in polygons]).reshape(-1, 2)
    high = np.array([polygon.max(axis=0) for polygon in polygons]).reshape(-1, 2)
    shared = ((low[:, None] <= high[None]) & (low[None] <= high[:, None])).all(axis=2)
    return bool(shared.sum() > len(polygons))


def _belong_together(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    """Whether two areas share pixels, but neither is a clearly smaller one (nearly) all within the other."""
    num_shared = int(np.count_nonzero(one & other))
    in_part = 0 < num_shared < WITHIN * min(np.count_nonzero(one), np.count_nonzero(other))
    return bool(in_part or num_shared > REPEATED * np.count_nonzero(one | other))


def outline(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Returns closed polygons, one an island, that `fill_even_odd` turns back into exactly this mask.

    Edges run 0.49 pixels from the centres inside: half-way, but a little nearer to them, so that a reader that rounds
    vertices to pixels and fills with the outline (cv2.fillPoly) finds the same mask. Holes are joined to their island
    by a keyhole: a channel of no width (DICOM PS3.3 C.8.8.6.3). An empty mask gives no polygon.
    """
    if not mask.any():
        return []
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    top, left = rows[0] - 1, columns[0] - 1
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1).astype(np.float64)
    generator = contour_generator(z=box, fill_type=FillType.OuterOffset)
    islands = []
    for points, offsets in zip(*generator.filled(OUTLINE_LEVEL, np.inf), strict=True):
        rings = [_without_collinear(points[a : b - 1, ::-1]) for a, b in pairwise(offsets)]
        islands.append(_keyhole(rings[0], rings[1:]) + np.array([top, left]))
    return islands


def _without_collinear(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns an open ring without the points that lie between their neighbours."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9]


def _keyhole(outer: NDArray[np.float64], holes: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Returns one ring: the outer one with a detour there and back to every hole, from the nearest vertex.

    The hole that lies nearest comes first: a channel to another may otherwise lead across it, which readers that fill
    with the outline would see.
    """
    ring, left = outer, list(holes)
    while left:
        distances = [np.linalg.norm(ring[:, None] - hole[None], axis=2) for hole in left]
        nearest = int(np.argmin([each.min() for each in distances]))
        hole, found = left.pop(nearest), distances[nearest]
        at, start = np.unravel_index(int(found.argmin()), found.shape)
        detour = np.roll(hole, -start, axis=0)
        ring = np.concatenate([ring[: at + 1], detour, detour[:1], ring[at:]])
    return ring
