"""What looks implausible about a mask that a model made: flags for whoever reads it."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.bounding import bounding_box
from common.preprocess import PreprocessRecord
from common.volume import Volume, to_lps

NOTHING_FOUND = "nothing-found"
OUTSIDE_BODY = "outside-body"
IN_PIECES = "in-pieces"
TOUCHES_REGION = "touches-region"
IMPLAUSIBLE_VOLUME = "implausible-volume"
LEAST_ML, MOST_ML = 0.5, 300.0
"""[C] Gross tumours of the nasopharynx have 2 to 200 ml; no training volumes are known to compare with."""
EXPECTED = f"expected {LEAST_ML:g} to {MOST_ML:g} (gross tumours of the nasopharynx have 2 to 200)"

Mask = NDArray[np.bool_]


def result_flags(mask: Volume, removed_ml: float, record: PreprocessRecord) -> Iterator[str]:
    """Gives the flags of a mask on its scan's own grid.

    Two pieces are flagged however small one is: a gross tumour is drawn as one body, now and then with an island on
    slices where it leaves and enters again, and only a reader can tell an island from a false find.

    Args:
        mask: what the model found in the body.
        removed_ml: what it found outside, and was taken out.
        record: how the scan was prepared.
    """
    if removed_ml:
        yield f"{OUTSIDE_BODY}: {removed_ml:.2f} ml were taken out"
    sizes = piece_sizes(mask.array)
    if not len(sizes):
        yield NOTHING_FOUND
        return
    if len(sizes) > 1:
        yield f"{IN_PIECES}: {len(sizes)}, the largest holds {100 * sizes[0] / sizes.sum():.0f} % of the volume"
    if touches_region(to_lps(mask).array, record):
        yield TOUCHES_REGION
    volume_ml = float(sizes.sum()) * mask.geometry.voxel_ml
    if not LEAST_ML <= volume_ml <= MOST_ML:
        yield f"{IMPLAUSIBLE_VOLUME}: {volume_ml:.2f} ml, {EXPECTED}"


def piece_sizes(mask: Mask) -> NDArray[np.int64]:
    """Returns the voxels of every piece, the largest first; none for an empty mask.

    Voxels that touch by a corner belong together.
    """
    labels, _ = ndimage.label(mask[bounding_box(mask)], np.ones((3, 3, 3)))
    return np.sort(np.bincount(labels.ravel())[1:])[::-1]


def touches_region(mask_lps: Mask, record: PreprocessRecord) -> bool:
    """Returns whether an LPS mask reaches a side of the region of interest, beyond which nothing was looked at."""
    region = mask_lps[record.box]
    return any(bool(region.take(side, axis).any()) for axis in range(3) for side in (0, -1))
