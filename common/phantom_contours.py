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


@dataclass(frozen=True)
class Outline:
    """One connected piece of a slice."""

    outer: Loop
    holes: tuple[Loop, ...]


def outlines(mask_yx: NDArray[np.bool_]) -> tuple[Outline, ...]:
    """Returns the pieces (pixels that share a side) of a slice with their holes; empty for an empty slice."""
    labels, num_pieces = ndimage.label(mask_yx)
    loops: list[list[Loop]] = [[] for _ in range(num_pieces)]
    for loop in _trace(mask_yx):
        loops[_label_inside(loop, labels) - 1].append(_corners(loop))
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


def _trace(mask_yx: NDArray[np.bool_]) -> list[list[_Corner]]:
    """Returns closed walks along pixel borders with the inside on the right: clockwise round pieces."""
    inside = np.pad(mask_yx, 1)
    starts: dict[_Corner, list[_Corner]] = defaultdict(list)
    for (dr, dc), (r0, c0), (r1, c1) in (
        ((-1, 0), (0, 0), (0, 1)),  # top border, to the right
        ((0, 1), (0, 1), (1, 1)),  # right border, down
        ((1, 0), (1, 1), (1, 0)),  # bottom border, to the left
        ((0, -1), (1, 0), (0, 0)),  # left border, up
    ):
        border = inside & ~np.roll(inside, (-dr, -dc), axis=(0, 1))
        for r, c in np.argwhere(border) - 1:
            starts[int(r) + r0, int(c) + c0].append((int(r) + r1, int(c) + c1))
    loops = []
    while starts:
        loops.append(_walk(starts))
    return loops


def _walk(starts: dict[_Corner, list[_Corner]]) -> list[_Corner]:
    """Takes one closed walk out of the directed borders; where two pieces touch at a corner it stays with its own."""
    here = first = next(iter(starts))
    loop: list[_Corner] = []
    before: _Corner | None = None
    while not loop or here != first or not _closes(loop, starts, before, here):
        ways = starts[here]
        way = ways[0] if len(ways) == 1 or before is None else max(ways, key=lambda end: _turn(before, here, end))
        ways.remove(way)
        if not ways:
            del starts[here]
        loop.append(here)
        before, here = here, way
    return loop


def _closes(loop: list[_Corner], starts: dict[_Corner, list[_Corner]], before: _Corner | None, here: _Corner) -> bool:
    """Whether the walk, back at its first corner, may end: nothing leaves to the right of its first step."""
    if here not in starts or before is None:
        return True
    return _turn(before, here, starts[here][0]) < _turn(before, here, loop[1])


def _turn(before: _Corner, here: _Corner, after: _Corner) -> int:
    """Returns 1 for a turn to the right, 0 for straight on, -1 for left (rows point down)."""
    return (here[1] - before[1]) * (after[0] - here[0]) - (here[0] - before[0]) * (after[1] - here[1])


def _label_inside(loop: list[_Corner], labels: NDArray[np.int32]) -> int:
    """Returns the label of the pixel to the right of the walk's first step."""
    (r, c), (r1, c1) = loop[0], loop[1]
    row, column = (r if c1 >= c else r - 1), (c if r1 <= r else c - 1)
    if c1 == c:  # up: the pixel on the right starts at this column, one row up; down: it lies on the left of the column
        row, column = (r - 1, c) if r1 < r else (r, c - 1)
    return int(labels[row, column])


def _corners(loop: list[_Corner]) -> Loop:
    """Leaves out the corners on straight stretches."""
    points = np.array(loop)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return np.asarray(points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]])


def _outline(loops: list[Loop]) -> Outline:
    """Sorts a piece's loops: the one of largest area is its border, the others are holes."""
    outer, *holes = sorted(loops, key=_area, reverse=True)
    return Outline(outer, tuple(holes))


def _area(loop: Loop) -> float:
    r, c = loop.T
    return abs(float(np.dot(r, np.roll(c, -1)) - np.dot(c, np.roll(r, -1)))) / 2
