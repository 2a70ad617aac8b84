"""The body in a planning CT, without couch, head rest and mask shell (paper, section 2.C).

Arrays are (z, y, x) in LPS order: slice 0 is the lowest, row 0 the most anterior. Sizes below are in mm, so that a
grid too coarse for a kernel simply goes without it. Where the paper says "Hough line detection, threshold, morphology",
the numbers are ours; OpenCV works slice by slice, 40 times faster than SimpleITK in three dimensions, which besides
joins couch and head.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.cavities import fill_cavities
from common.couch import couch_row
from common.errors import ImageError
from common.foam import clear_holder
from common.pieces import largest_component
from common.recipe import RoiConfig
from common.region import CHEST_IN_VIEW, HEAD_WIDTH_MM, NO_HEAD, NO_SHOULDERS, neck_slice
from common.shell import clear_shell
from common.statistics import AIR_HU

Mask = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Spacing = tuple[float, float, float]
Slices = tuple[slice, slice, slice]

COUCH_CUT = "couch-cut"
PRONE = "prone"
TRUNCATED = "truncated"
MASK_SHELL = "mask-shell"

OPENING_RADIUS_MM = 5.0
"""Couch shells, board covers and mask frames are thinner than twice this, and go."""
PADDING_SHARE = 0.1
CIRCLE_OUTSIDE = 0.23
"""Share of the image outside the largest circle in it (1 - pi/4), and a little more."""
LUNG_HU = -500.0
LUNG_SHARE = 0.28
"""Of a slice wider than a head, at the heart's height; apices, which most planning scans show, have up to 0.25."""
LOOK_MM = 10.0
"""Distance of the slices where lungs are looked for."""
TRUNCATED_MM = 20.0
"""Least length of the border of the field of view that the body fills in one slice for `truncated`."""


@dataclass(frozen=True, eq=False)
class BodyMask:
    """The patient without couch, with all inner air."""

    mask: Mask
    flags: tuple[str, ...] = ()
    """`couch-cut`: a couch surface was found and all beyond it cut away; `prone`: it, or a foam-filled holder, was
    found in front of the body; `truncated`: the body reaches the border of the image or of the scan circle;
    `mask-shell`: a mask over the face was found and taken off; `chest-in-view`: lungs were seen."""
    padding_hu: float | None = None
    """What stands outside a masked field of view if it is no air (see `padding_value`)."""
    border_slice: int | None = None
    """The slice on which most of a `truncated` body lies along the border."""


def body_mask(hu_zyx: NDArray[Any], spacing_mm: Spacing, config: RoiConfig) -> BodyMask:
    """Returns the largest connected body above the threshold, its outer contours filled slice by slice.

    Args:
        hu_zyx: HU, LPS order; outside a masked field of view anything below the threshold, or one constant.
        spacing_mm: (z, y, x).
        config: the threshold.

    Raises:
        ImageError: nothing solid lies above the threshold.
    """
    tissue = (hu_zyx > config.body_threshold_hu).view(np.uint8)
    padding_hu = padding_value(hu_zyx, config.body_threshold_hu)
    if padding_hu is not None:
        tissue[hu_zyx == padding_hu] = 0
    flags = _without_couch(tissue, spacing_mm[1:])
    window = _window(tissue, spacing_mm)
    opened = _opened(tissue[window], spacing_mm)
    if not opened.any():
        raise ImageError(
            f"no body above {config.body_threshold_hu:g} HU (highest value {np.max(hu_zyx):g}); expected a CT in "
            "Hounsfield units; check the rescale slope and intercept or roi.body_threshold_hu"
        )
    mask = np.zeros(tissue.shape, np.bool_)
    mask[window] = _filled(largest_component(opened))
    scanned = hu_zyx if padding_hu is None else np.where(hu_zyx == padding_hu, hu_zyx.dtype.type(AIR_HU), hu_zyx)
    if clear_holder(scanned, mask, config.body_threshold_hu, spacing_mm) and PRONE not in flags:
        flags = (*flags, PRONE)
    border_slice = _border_slice(hu_zyx, mask, spacing_mm[2])
    if border_slice is not None:
        flags = (*flags, TRUNCATED)
    if _peeled(hu_zyx, mask, spacing_mm):
        flags = (*flags, MASK_SHELL)
    fill_cavities(mask, spacing_mm)
    if _shows_lungs(hu_zyx, mask, spacing_mm):
        flags = (*flags, CHEST_IN_VIEW)
    return BodyMask(mask, flags, padding_hu, border_slice)


def _window(tissue: Bytes, spacing_mm: Spacing) -> Slices:
    """Returns all slices, and the rows and columns that hold tissue in any, with room for the opening; all if none."""
    outline = tissue.max(axis=0)
    parts = [slice(None)]
    for axis, spacing in enumerate(spacing_mm[1:]):
        held, room = np.flatnonzero(outline.any(axis=1 - axis)), int(OPENING_RADIUS_MM / spacing) + 1
        parts.append(slice(max(0, int(held[0]) - room), int(held[-1]) + 1 + room) if len(held) else slice(None))
    return parts[0], parts[1], parts[2]


def _without_couch(tissue: Bytes, spacing_mm: tuple[float, float]) -> tuple[str, ...]:
    """Clears the couch and what lies beyond it, in place, behind the body or else in front of it; returns flags."""
    projection = _median_projection(tissue)
    row = couch_row(projection, spacing_mm)
    if row is not None:
        tissue[:, row:] = 0
        return (COUCH_CUT,)
    row = couch_row(np.ascontiguousarray(projection[::-1]), spacing_mm)
    if row is not None:
        tissue[:, : tissue.shape[1] - row] = 0
        return COUCH_CUT, PRONE
    return ()


def _border_slice(hu_zyx: NDArray[Any], mask: Mask, column_mm: float) -> int | None:
    """Returns where most of the body lies along the border of the image, or of a circle outside of which all is filled.

    None where it is less than `TRUNCATED_MM` on every slice.
    """
    corner = hu_zyx[0, 0, 0]
    view = np.any(hu_zyx[:: max(1, len(mask) // 16)] != corner, axis=0)
    if np.count_nonzero(~view) > CIRCLE_OUTSIDE * view.size:  # masked round the body: its outline is no border
        view = np.ones_like(view)
    inner = cv2.erode(view.view(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    border = np.nonzero(view & (inner == 0))
    lengths = mask[:, border[0], border[1]].sum(axis=1)
    longest = int(lengths.argmax())
    return longest if lengths[longest] * column_mm >= TRUNCATED_MM else None


def _peeled(hu_zyx: NDArray[Any], mask: Mask, spacing_mm: Spacing) -> bool:
    """Takes a mask shell off the body, in place, where a head and shoulders are in view; returns whether it did."""
    neck, flags = neck_slice(mask, spacing_mm)
    if {NO_HEAD, NO_SHOULDERS} & set(flags):
        return False
    return clear_shell(hu_zyx, mask, neck, spacing_mm)


def _shows_lungs(hu_zyx: NDArray[Any], mask: Mask, spacing_mm: Spacing) -> bool:
    """Returns whether a slice wider than a head is air to a good part."""
    step = max(1, round(LOOK_MM / spacing_mm[0]))
    for hu, body in zip(hu_zyx[::step], mask[::step], strict=True):
        if np.count_nonzero(body.any(axis=0)) * spacing_mm[2] > HEAD_WIDTH_MM:
            air = np.count_nonzero(body & (hu < LUNG_HU))
            if air > LUNG_SHARE * np.count_nonzero(body):
                return True
    return False


def padding_value(hu_zyx: NDArray[Any], threshold_hu: float) -> float | None:
    """Returns the HU that fill the outside of a masked image if they would pass for tissue (often 0), else None.

    It is the value of most corners and of at least `PADDING_SHARE` of all voxels; no tissue is as uniform.
    """
    values, counts = np.unique(hu_zyx[np.ix_([0, -1], [0, -1], [0, -1])], return_counts=True)
    value = float(values[counts.argmax()])
    if value <= threshold_hu or np.count_nonzero(hu_zyx == value) < PADDING_SHARE * hu_zyx.size:
        return None
    return value


def _median_projection(tissue: Bytes) -> Bytes:
    """Returns what is tissue in most slices, filled (y, x)."""
    counts = tissue.sum(axis=0, dtype=np.uint8 if len(tissue) < 256 else np.uint16)  # narrow sums are twice as fast
    return _filled_slice((counts > len(tissue) / 2).astype(np.uint8))


def _opened(tissue: Bytes, spacing_mm: Spacing) -> Bytes:
    """Returns every slice opened by an ellipse of `OPENING_RADIUS_MM`; untouched where that is below a voxel."""
    radius_y, radius_x = (int(OPENING_RADIUS_MM / spacing) for spacing in spacing_mm[1:])
    if not radius_x and not radius_y:
        return tissue
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_x + 1, 2 * radius_y + 1))
    return np.stack([cv2.morphologyEx(layer, cv2.MORPH_OPEN, kernel) for layer in tissue])


def _filled(mask: Bytes) -> Mask:
    return np.stack([_filled_slice(layer) for layer in mask]).view(np.bool_)


def _filled_slice(layer: Bytes) -> Bytes:
    """Returns the slice with the inside of its outer contours filled."""
    contours, _ = cv2.findContours(layer, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros_like(layer), contours, -1, 1, cv2.FILLED), np.uint8)
