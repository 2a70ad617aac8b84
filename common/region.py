"""The region of interest: from below the neck up, round the body there (paper, section 2.C).

Arrays are (z, y, x) in LPS order: slice 0 is the lowest. Where the paper says "minimum of the mask along the vertical",
the numbers are ours.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from common.errors import ImageError
from common.recipe import RoiConfig

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]
Slices = tuple[slice, slice, slice]

NO_SHOULDERS = "no-shoulders"
NO_HEAD = "no-head"
CHEST_IN_VIEW = "chest-in-view"

AREA_SMOOTHING_MM = 8.0
NECK_DROP = 0.85
"""The head's maximum lies above the first slice whose area has dropped below this share of it."""
SHOULDER_RISE = 1.5
"""Shoulders: the area has risen to this many times the neck's."""
HEAD_WIDTH_MM = 260.0
"""No head is as wide, ears and mask included: what is, has been scanned upside down or is another part of the body."""
CHEST_MM = 250.0
"""A planning scan that ends at the shoulders reaches less far below the neck."""


def neck_slice(mask: Mask, spacing_mm: Spacing) -> tuple[int, tuple[str, ...]]:
    """Returns the slice of least area between the head's maximum and the shoulders, and flags.

    Walking down from the top: the maximum before the area first drops below `NECK_DROP` of it is the head's; the
    minimum before it rises above `SHOULDER_RISE` times itself is the neck's. A bare minimum would be the vertex. With
    no such rise there are no shoulders in view: the lowest slice of the body, and the flag `no-shoulders`. The lowest
    slice and `no-head` where the part above is wider than any head. `chest-in-view`: the scan reaches far below.

    Raises:
        ImageError: the mask is empty.
    """
    area = _area(mask)
    lowest, highest = _ends(area)
    descent = gaussian_filter1d(area[lowest : highest + 1], AREA_SMOOTHING_MM / spacing_mm[0], mode="nearest")[::-1]
    head, neck = 0, None
    for index, value in enumerate(descent):
        if neck is None:
            head = index if value > descent[head] else head
            neck = index if value < NECK_DROP * descent[head] else None
        elif value < descent[neck]:
            neck = index
        elif value > SHOULDER_RISE * descent[neck]:
            return _checked(mask, lowest, highest - neck, spacing_mm)
    return lowest, (NO_SHOULDERS,)


def _checked(mask: Mask, lowest: int, neck: int, spacing_mm: Spacing) -> tuple[int, tuple[str, ...]]:
    """Returns the neck if a head may lie above it, else the lowest slice; and flags."""
    if mask[neck:].any(axis=1).sum(axis=1).max() * spacing_mm[2] > HEAD_WIDTH_MM:
        return lowest, (NO_HEAD,)
    return neck, (CHEST_IN_VIEW,) if (neck - lowest) * spacing_mm[0] > CHEST_MM else ()


def region_of_interest(mask: Mask, spacing_mm: Spacing, config: RoiConfig) -> tuple[Slices, tuple[str, ...]]:
    """Returns the slices (z, y, x) to keep: from below the neck up, round the body there, with the margins; and flags.

    Raises:
        ImageError: the mask is empty.
    """
    lowest, highest = _ends(_area(mask))
    flags: tuple[str, ...] = ()
    bottom, below_mm = lowest, config.margin_mm
    if config.crop_at_neck:
        bottom, flags = neck_slice(mask, spacing_mm)
        below_mm = config.neck_margin_mm
    margins = [int(np.ceil(config.margin_mm / spacing)) for spacing in spacing_mm]
    start = max(0, bottom - int(np.ceil(below_mm / spacing_mm[0])))
    z = slice(start, min(len(mask), highest + 1 + margins[0]))
    outline = np.asarray(mask[z].any(axis=0))
    return (z, _span(outline.max(axis=1), margins[1]), _span(outline.max(axis=0), margins[2])), flags


def _area(mask: Mask) -> NDArray[np.float64]:
    """Returns the voxels of every slice; OpenCV counts them five times as fast as NumPy."""
    return np.array([cv2.countNonZero(np.ascontiguousarray(layer).view(np.uint8)) for layer in mask], float)


def _ends(values: NDArray[Any]) -> tuple[int, int]:
    """Returns the first and the last index that is not zero; ImageError where all are."""
    indices = np.flatnonzero(values)
    if not len(indices):
        raise ImageError("the body mask is empty; expected a patient; check the image and roi.body_threshold_hu")
    return int(indices[0]), int(indices[-1])


def _span(held: NDArray[Any], margin: int) -> slice:
    """Returns from the first to the last, with the margin, inside the array."""
    first, last = _ends(held)
    return slice(max(0, first - margin), min(len(held), last + 1 + margin))
