"""The couch of a planning CT: bed removal by Hough lines on the z-median axial projection (paper, section 2.C).

In the median over the slices only what is the same in most of them remains. The paper names the method; the numbers
are ours. A curved holder has no line, and is left to the body mask's morphology.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Segment = tuple[tuple[int, int], tuple[int, int]]  # left and right end, each (column, row)

SEGMENT_MM = 40.0
SEGMENT_SLOPE = 0.05
"""Largest rise of a couch surface per run (3 degrees)."""
COUCH_LEVEL_MM = 3.0
"""Segments this near in height are one surface, which a head rest may interrupt."""
COUCH_FREE_MM = 150.0
"""Least width of a couch surface with air over it. Couches are 400-530 mm wide; the wings of a head rest, behind which
the head may reach, have less than this free."""
FREE_ABOVE_MM = 5.0


def couch_row(projection: Bytes, spacing_mm: tuple[float, float]) -> int | None:
    """Returns the first row of the couch, from which on all is to be cut, or None without a straight couch.

    Straight segments count if near-horizontal and behind the projection's centre; a couch has enough of them, free of
    anything on top, at one height. The back of a broad body is as straight, but is never free.

    Args:
        projection: (y, x), ones where most slices hold tissue or couch, inside filled; row 0 is the most anterior.
        spacing_mm: (y, x).
    """
    if not projection.any():
        return None
    row_mm, column_mm = spacing_mm
    drawn = [
        (part, _free_columns(projection, part, FREE_ABOVE_MM / row_mm)) for part in _segments(projection, spacing_mm)
    ]
    surfaces = [(part, free) for part, free in drawn if free.any()]
    rows = []
    for (left, right), _ in surfaces:
        height = (left[1] + right[1]) / 2
        level = [
            (min(start[1], end[1]), free)
            for (start, end), free in surfaces
            if abs((start[1] + end[1]) / 2 - height) * row_mm <= COUCH_LEVEL_MM
        ]
        if np.count_nonzero(np.any([free for _, free in level], axis=0)) * column_mm >= COUCH_FREE_MM:
            rows.append(min(row for row, _ in level))
    return min(rows, default=None)


def _segments(projection: Bytes, spacing_mm: tuple[float, float]) -> list[Segment]:
    """Returns the near-horizontal straight edges behind the projection's centre, from left to right."""
    row_mm, column_mm = spacing_mm
    length = SEGMENT_MM / column_mm
    edges = cv2.Canny(projection * 255, 100, 200)
    found = cv2.HoughLinesP(edges, 1, np.pi / 720, round(length / 2), minLineLength=length, maxLineGap=length / 4)
    if found is None:
        return []
    centre = np.average(np.arange(len(projection)), weights=projection.sum(axis=1))
    ends = [sorted(((x1, y1), (x2, y2))) for x1, y1, x2, y2 in found.reshape(-1, 4).tolist()]
    return [
        (left, right)
        for left, right in ends
        if abs(right[1] - left[1]) * row_mm <= SEGMENT_SLOPE * (right[0] - left[0]) * column_mm
        and min(left[1], right[1]) > centre
    ]


def _free_columns(projection: Bytes, segment: Segment, above: float) -> NDArray[np.bool_]:
    """Returns, for every column of the projection, whether the segment runs there with air `above` rows before it."""
    (x1, y1), (x2, y2) = segment
    columns = np.arange(x1, x2 + 1)
    rows = np.rint(np.interp(columns, (x1, x2), (y1, y2)) - max(above, 2)).astype(int)
    free = np.zeros(projection.shape[1], np.bool_)
    free[columns] = projection[np.maximum(rows, 0), columns] == 0
    return free
