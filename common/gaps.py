"""Slices that a target spans without a contour: planning systems let a physician draw every second slice."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.volume import Geometry

WIDEST_GAP_MM = 12.0
"""Between two drawn slices; wider, and it is more likely two targets: every third slice of 4 mm is still one."""


def num_empty_slices(mask: NDArray[np.bool_]) -> int:
    """Returns how many empty slices lie between the first and the last of a mask (z, y, x); 0 for an empty mask."""
    drawn = np.flatnonzero(mask.any(axis=(1, 2)))
    return int(drawn[-1] - drawn[0] + 1 - len(drawn)) if len(drawn) else 0


def interpolate_gaps(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.bool_]:
    """Returns a mask (z, y, x) with its empty slices filled where drawn ones lie at most `WIDEST_GAP_MM` apart.

    Shape-based (Raya and Udupa 1990, doi 10.1109/42.52980): a voxel is inside where the signed distances to the
    neighbouring drawn outlines, in mm and weighted by nearness, add up to more than zero. Slices far apart in their
    plane are not joined, drawn slices stay as they are.
    """
    filled = mask.copy()
    drawn = np.flatnonzero(mask.any(axis=(1, 2)))
    for below, above in pairwise(drawn):
        if above - below < 2 or (above - below) * geometry.spacing_mm[0] > WIDEST_GAP_MM:
            continue
        low, high = (_signed_distance_mm(mask[index], geometry.spacing_mm[1:]) for index in (below, above))
        for index in range(below + 1, above):
            nearness = (index - below) / (above - below)
            filled[index] = (1 - nearness) * low + nearness * high > 0
    return filled


def _signed_distance_mm(mask_yx: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Returns the distance to the outline, positive inside; half-way between voxel centres it is zero."""
    inside = ndimage.distance_transform_edt(np.pad(mask_yx, 1), sampling=spacing_mm)[1:-1, 1:-1]
    outside = ndimage.distance_transform_edt(~mask_yx, sampling=spacing_mm)
    return np.asarray(inside - outside)
