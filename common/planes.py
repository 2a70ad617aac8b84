"""The three planes of a picture: where they cut a volume, and which part of each is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.bounding import Box, bounding_box

FIELD_MM = 180.0
"""[C] Side of the view round the target: 2-3 times the extent of the paper's tumours; a larger target widens it."""
LEAST_MARGIN = 2
"""Voxels that are shown round a mask."""

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Plane:
    """One view: which axis it is cut across, and what its four sides are on an LPS grid."""

    name: str
    axis: int
    head_up: bool
    sides: str
    """Letters at left, right, top and bottom."""

    def cut(self, array: Array, centre: Sequence[int], window: Box) -> Array:
        """Returns the plane of `array` (z, y, x) through `centre`, as much of it as the window shows."""
        shown: Array = array[window].take(centre[self.axis] - window[self.axis].start, axis=self.axis)
        return shown

    def extent(self, window: Box, spacing_mm: Sequence[float]) -> tuple[float, float, float, float]:
        """Returns left, right, bottom and top of the shown plane in mm from the volume's corner, as for `imshow`."""
        row, column = self.axes
        top, bottom = window[row].start * spacing_mm[row], window[row].stop * spacing_mm[row]
        if self.head_up:
            top, bottom = bottom, top
        return window[column].start * spacing_mm[column], window[column].stop * spacing_mm[column], bottom, top

    @property
    def axes(self) -> tuple[int, int]:
        """Those that run down and across the plane."""
        row, column = (axis for axis in range(3) if axis != self.axis)
        return row, column


PLANES = (
    Plane("axial", 0, False, "RLAP"),
    Plane("coronal", 1, True, "RLHF"),
    Plane("sagittal", 2, True, "APHF"),
)


def target_centre(shape: Sequence[int], truth: Mask | None, prediction: Mask | None) -> tuple[int, int, int]:
    """Returns the voxel (z, y, x) that the three planes go through, the image's middle where there is no target.

    Along each axis it is the plane nearest to the target's centroid of those that meet the target.
    """
    for mask in (truth, prediction):
        if mask is not None and mask.any():
            box = bounding_box(mask)
            z, y, x = (_nearest(index) + part.start for index, part in zip(np.nonzero(mask[box]), box, strict=True))
            return z, y, x
    return shape[0] // 2, shape[1] // 2, shape[2] // 2


def _nearest(indices: NDArray[np.intp]) -> int:
    """The one nearest to their mean: with skipped slices, or two targets, the mean itself may be none of them."""
    return int(indices[np.abs(indices - indices.mean()).argmin()])


def field(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    centre: Sequence[int],
    masks: Sequence[Mask],
    side_mm: float = FIELD_MM,
    margin_mm: float = 0.0,
) -> Box:
    """Returns the part of the image to show: `side_mm` round the centre, and every mask with a margin round it."""
    window = []
    boxes = [bounding_box(mask) for mask in masks if mask.any()]
    for axis in range(3):
        half = max(1, round(side_mm / spacing_mm[axis] / 2))
        margin = max(LEAST_MARGIN, round(margin_mm / spacing_mm[axis]))
        low, high = centre[axis] - half, centre[axis] + half + 1
        low = min([low, *(box[axis].start - margin for box in boxes)])
        high = max([high, *(box[axis].stop + margin for box in boxes)])
        window.append(slice(max(0, low), min(shape[axis], high)))
    return window[0], window[1], window[2]


def whole_box(shape: Sequence[int]) -> Box:
    """Returns the box of all voxels."""
    depth, height, width = shape
    return slice(0, depth), slice(0, height), slice(0, width)
