"""Contours of phantom masks, traced along pixel borders: even-odd filling at pixel centres gives back the same mask.

Corners are (row, column) with pixel (r, c) between corners (r, c) and (r + 1, c + 1).
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

Loop = NDArray[np.int64]
"""Corners (n, 2) of a closed polygon, the first not repeated."""
_Corner = tuple[int, int]
_Edge = tuple[_Corner, _Corner]
_BORDERS = (
    # The neighbour outside (rows, columns), and from which to which of a pixel's corners its border runs.
    ((-1, 0), (0, 0), (0, 1)),  # top, to the right
    ((0, 1), (0, 1), (1, 1)),  # right, down
    ((1, 0), (1, 1), (1, 0)),  # bottom, to the left
    ((0, -1), (1, 0), (0, 0)),  # left, up
)


@dataclass(frozen=True)
class Outline:
    """One connected piece of a slice."""

    outer: Loop
    holes: tuple[Loop, ...]


def outlines(mask_yx: NDArray[np.bool_]) -> tuple[Outline, ...]:
    """Returns the pieces (pixels that share a side) of a slice with their holes; empty for an empty slice."""
    if not mask_yx.any():
        return ()
    box = ndimage.find_objects(mask_yx.astype(np.uint8))[0]  # a slice is mostly empty
    offset = np.array([box[0].start, box[1].start])
    labels, num_pieces = ndimage.label(mask_yx[box])
    loops: list[list[Loop]] = [[] for _ in range(num_pieces)]
    for loop in _trace(mask_yx[box]):
        loops[labels[_pixel_inside(loop[0])] - 1].append(_corners(loop) + offset)
    return tuple(_outline(pieces) for pieces in loops)


def keyhole(outline: Outline) -> Loop:
    """Returns one polygon for piece and holes: each hole is reached and left along the same straight cut.

    Planning systems that know no inner contours write holes so; the nearest hole is joined first, so cuts never cross.
    """
    polygon, holes = outline.outer, list(outline.holes)
    while holes:
        distances = [cdist(polygon, hole) for hole in holes]
        nearest = int(np.argmin([distance.min() for distance in distances]))
        start, entry = np.unravel_index(int(distances[nearest].argmin()), distances[nearest].shape)
        hole = np.roll(holes.pop(nearest), -int(entry), axis=0)
        polygon = np.concatenate([polygon[: start + 1], hole, hole[:1], polygon[start:]])
    return polygon


def _trace(mask_yx: NDArray[np.bool_]) -> list[list[_Edge]]:
    """Returns closed walks along pixel borders with the inside on the right: clockwise round pieces."""
    inside = np.pad(mask_yx, 1)
    ends: dict[_Corner, list[_Corner]] = defaultdict(list)
    for (dr, dc), (r0, c0), (r1, c1) in _BORDERS:
        border = inside & ~np.roll(inside, (-dr, -dc), axis=(0, 1))
        for r, c in (np.argwhere(border) - 1).tolist():
            ends[r + r0, c + c0].append((r + r1, c + c1))
    left = {(start, end): None for start, corners in ends.items() for end in corners}  # a dict keeps its order
    loops = []
    while left:
        first = next(iter(left))
        loop = [first]
        while (edge := _next(loop[-1], ends)) != first:
            loop.append(edge)
        for edge in loop:
            del left[edge]
        loops.append(loop)
    return loops


def _next(edge: _Edge, ends: dict[_Corner, list[_Corner]]) -> _Edge:
    """Returns the border that goes on from an edge; where two pixels touch at a corner, round the same pixel."""
    start, corner = edge
    ways = ends[corner]
    return corner, ways[0] if len(ways) == 1 else max(ways, key=lambda end: _turn(start, corner, end))


def _turn(start: _Corner, corner: _Corner, end: _Corner) -> int:
    """Returns 1 for a turn to the right, 0 for straight on, -1 for left (rows point down)."""
    return (corner[1] - start[1]) * (end[0] - corner[0]) - (corner[0] - start[0]) * (end[1] - corner[1])


def _pixel_inside(edge: _Edge) -> _Corner:
    """Returns the pixel to the right of an edge."""
    (r, c), (r1, c1) = edge
    return (r if r1 > r or c1 > c else r - 1), (c if c1 > c or r1 < r else c - 1)


def _corners(loop: list[_Edge]) -> Loop:
    """Returns a walk's corners without those on straight stretches."""
    points = np.array([start for start, _ in loop])
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return np.asarray(points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]])


def _outline(loops: list[Loop]) -> Outline:
    """Sorts a piece's loops: the one of largest area is its border, the others are holes."""
    outer, *holes = sorted(loops, key=_area, reverse=True)
    return Outline(outer, tuple(holes))


def _area(loop: Loop) -> float:
    r, c = loop.T
    return abs(float(np.dot(r, np.roll(c, -1)) - np.dot(c, np.roll(r, -1)))) / 2
