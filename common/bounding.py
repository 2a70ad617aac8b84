"""The box that holds a mask: what is done with a tumour need not look at the whole scan."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


def bounding_box(mask_zyx: NDArray[Any]) -> Box:
    """Returns the smallest box that holds all that is not zero; empty slices for an empty mask.

    Each axis is searched inside what the axes before it left, so that most voxels are looked at once.
    """
    box: tuple[slice, ...] = ()
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        occupied = np.flatnonzero(mask_zyx[box].any(axis=others))
        box += (slice(int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else slice(0, 0),)
    z, y, x = box
    return z, y, x
