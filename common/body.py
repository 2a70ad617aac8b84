"""The body in a planning CT: body mask, neck, region of interest (paper, section 2.C).

Arrays are (z, y, x) in LPS order: slice 0 is the lowest, row 0 the most anterior. Sizes below are in mm, so that a
grid too coarse for a kernel simply goes without it. Where the paper says "Hough line detection, threshold, morphology"
and "minimum of the mask along the vertical", the numbers are ours; OpenCV works slice by slice, 40 times faster than
SimpleITK in three dimensions, which besides joins couch and head.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.config import RoiConfig
from common.couch import couch_row
from common.errors import ImageError
from common.foam import holder

Mask = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Labels = NDArray[np.uint16]
Spacing = tuple[float, float, float]
Slices = tuple[slice, slice, slice]

COUCH_CUT = "couch-cut"
PRONE = "prone"
TRUNCATED = "truncated"
NO_SHOULDERS = "no-shoulders"
NO_HEAD = "no-head"
CHEST_IN_VIEW = "chest-in-view"

OPENING_RADIUS_MM = 5.0
"""Couch shells, board covers and mask frames are thinner than twice this, and go."""
PADDING_SHARE = 0.1
CIRCLE_OUTSIDE = 0.23
"""Share of the image outside the largest circle in it (1 - pi/4), and a little more."""
AREA_SMOOTHING_MM = 8.0
NECK_DROP = 0.85
"""The head's maximum lies above the first slice whose area has dropped below this share of it."""
SHOULDER_RISE = 1.5
"""Shoulders: the area has risen to this many times the neck's."""
HEAD_WIDTH_MM = 260.0
"""No head is as wide, ears and mask included: what is, has been scanned upside down or is another part of the body."""
CHEST_MM = 250.0
"""A planning scan that ends at the shoulders reaches less far below the neck."""
TRUNCATED_MM = 20.0
"""Least length of the border of the field of view that the body fills in one slice for `truncated`."""


@dataclass(frozen=True, eq=False)
class BodyMask:
    """The patient without couch, with all inner air."""

    mask: Mask
    flags: tuple[str, ...] = ()
    """`couch-cut`: a couch surface was found and everything beyond it cut away; `prone`: it was found in front of the
    body; `truncated`: the body reaches the border of the image or of the scan circle."""
    padding_hu: float | None = None
    """What stands outside a masked field of view if it is no air (see `padding_value`)."""


def body_mask(hu_zyx: NDArray[Any], spacing_mm: Spacing, config: RoiConfig) -> BodyMask:
    """Returns the largest connected body above the threshold, its outer contours filled slice by slice.

    A thermoplastic mask pressed on the skin stays: no thicker than the skin and as dense, CT does not tell them apart.

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
    if padding_hu is None:
        mask &= ~holder(hu_zyx, mask, config.body_threshold_hu, spacing_mm)
    if _is_truncated(hu_zyx, mask, spacing_mm[2]):
        flags = (*flags, TRUNCATED)
    return BodyMask(mask, flags, padding_hu)


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


def _is_truncated(hu_zyx: NDArray[Any], mask: Mask, column_mm: float) -> bool:
    """Returns whether the body lies along the border of the image, or of a circle outside of which all is filled."""
    corner = hu_zyx[0, 0, 0]
    view = np.any(hu_zyx[:: max(1, len(mask) // 16)] != corner, axis=0)
    if np.count_nonzero(~view) > CIRCLE_OUTSIDE * view.size:  # masked round the body: its outline is no border
        view = np.ones_like(view)
    inner = cv2.erode(view.view(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    border = np.nonzero(view & (inner == 0))
    longest = mask[:, border[0], border[1]].sum(axis=1).max()
    return bool(longest * column_mm >= TRUNCATED_MM)


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
    return _filled_slice((tissue.sum(axis=0, dtype=np.uint32) > len(tissue) / 2).astype(np.uint8))


def _opened(tissue: Bytes, spacing_mm: Spacing) -> Bytes:
    """Returns every slice opened by an ellipse of `OPENING_RADIUS_MM`; untouched where that is below a voxel."""
    radius_y, radius_x = (int(OPENING_RADIUS_MM / spacing) for spacing in spacing_mm[1:])
    if not radius_x and not radius_y:
        return tissue
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_x + 1, 2 * radius_y + 1))
    return np.stack([cv2.morphologyEx(layer, cv2.MORPH_OPEN, kernel) for layer in tissue])


def largest_component(mask_zyx: Bytes | Mask) -> Bytes:
    """Returns the largest component (in-plane 8-connected, 6-connected along z) as zeros and ones; empty stays empty.

    Slices are labelled by OpenCV and their pieces joined where they overlap the next slice's: a graph of some
    hundred nodes instead of a search over all voxels.
    """
    layers = np.ascontiguousarray(mask_zyx).view(np.uint8)
    pieces, sizes = zip(*(_pieces(layer) for layer in layers), strict=True)
    starts = np.cumsum([0, *map(len, sizes)])  # node of slice z, label k: starts[z] + k
    links = [_overlaps(pieces[z : z + 2], sizes[z : z + 2]) + starts[z : z + 2, None] for z in range(len(layers) - 1)]
    rows, columns = np.concatenate([*links, np.zeros((2, 0), int)], axis=1)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(starts[-1], starts[-1]))
    _, groups = connected_components(graph, directed=False)
    kept = groups == np.bincount(groups, weights=np.concatenate(sizes)).argmax()
    return np.stack([_selected(layers[z], pieces[z], kept[starts[z] : starts[z + 1]]) for z in range(len(layers))])


def _pieces(layer: Bytes) -> tuple[Labels, NDArray[np.int_]]:
    """Returns the slice's labelled pieces and the voxels of each label; the background, label 0, counts none."""
    _, tree = cv2.findContours(layer, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tree is not None and np.count_nonzero(tree[0, :, 3] < 0) == 1:  # one piece: a third of the time
        return layer.astype(np.uint16), np.array([0, cv2.countNonZero(layer)])
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(layer, connectivity=8, ltype=cv2.CV_16U)
    sizes = statistics[:, cv2.CC_STAT_AREA].astype(int)
    sizes[0] = 0
    return labels, sizes


def _overlaps(pieces: tuple[Labels, ...], sizes: tuple[NDArray[np.int_], ...]) -> NDArray[np.int_]:
    """Returns the pairs of labels, shape (2, N), of two neighbouring slices that share a column of voxels."""
    if len(sizes[0]) == len(sizes[1]) == 2:  # the usual case, one piece each, needs no list of voxels
        return np.full((2, int(cv2.countNonZero(cv2.min(*pieces)) > 0)), 1)
    both = np.flatnonzero(cv2.min(*pieces))
    pairs = pieces[0].ravel()[both].astype(int) * len(sizes[1]) + pieces[1].ravel()[both]
    counts = np.bincount(pairs, minlength=len(sizes[0]) * len(sizes[1]))
    return np.array(np.nonzero(counts.reshape(len(sizes[0]), len(sizes[1]))))


def _selected(layer: Bytes, pieces: Labels, kept: Mask) -> Bytes:
    """Returns the slice's kept pieces; the usual slice keeps all or none and needs no look-up."""
    if kept[1:].all():
        return layer
    return np.asarray((kept & (np.arange(len(kept)) > 0))[pieces], np.uint8) if kept[1:].any() else np.zeros_like(layer)


def _filled(mask: Bytes) -> Mask:
    return np.stack([_filled_slice(layer) for layer in mask]).view(np.bool_)


def _filled_slice(layer: Bytes) -> Bytes:
    """Returns the slice with the inside of its outer contours filled."""
    contours, _ = cv2.findContours(layer, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(np.zeros_like(layer), contours, -1, 1, cv2.FILLED), np.uint8)


def neck_slice(mask: Mask, spacing_mm: Spacing) -> tuple[int, tuple[str, ...]]:
    """Returns the slice of least area between the head's maximum and the shoulders, and flags.

    Walking down from the top: the maximum before the area first drops below `NECK_DROP` of it is the head's; the
    minimum before it rises above `SHOULDER_RISE` times itself is the neck's. A bare minimum would be the vertex. With
    no such rise there are no shoulders in view: the lowest slice of the body, and the flag `no-shoulders`. The lowest
    slice and `no-head` where the part above is wider than any head. `chest-in-view`: the scan reaches far below.

    Raises:
        ImageError: the mask is empty.
    """
    inhabited = _inhabited(mask, (1, 2))
    lowest, highest = int(inhabited[0]), int(inhabited[-1])
    area = np.count_nonzero(mask[lowest : highest + 1], axis=(1, 2)).astype(float)
    descent = gaussian_filter1d(area, AREA_SMOOTHING_MM / spacing_mm[0], mode="nearest")[::-1]
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
    inhabited = _inhabited(mask, (1, 2))
    flags: tuple[str, ...] = ()
    bottom, below_mm = int(inhabited[0]), config.margin_mm
    if config.crop_at_neck:
        bottom, flags = neck_slice(mask, spacing_mm)
        below_mm = config.neck_margin_mm
    margins = [int(np.ceil(config.margin_mm / spacing)) for spacing in spacing_mm]
    start = max(0, bottom - int(np.ceil(below_mm / spacing_mm[0])))
    z = slice(start, min(len(mask), int(inhabited[-1]) + 1 + margins[0]))
    return (z, _span(mask[z], 1, margins[1]), _span(mask[z], 2, margins[2])), flags


def _span(mask: Mask, axis: int, margin: int) -> slice:
    """Returns where the mask lies along `axis`, with the margin, inside the array."""
    inhabited = _inhabited(mask, tuple({0, 1, 2} - {axis}))
    return slice(max(0, int(inhabited[0]) - margin), min(mask.shape[axis], int(inhabited[-1]) + 1 + margin))


def _inhabited(mask: Mask, over: tuple[int, ...]) -> NDArray[np.int_]:
    """Returns the indices, along the axis left, that hold any of the mask."""
    indices = np.flatnonzero(mask.any(axis=over))
    if not len(indices):
        raise ImageError("the body mask is empty; expected a patient; check the image and roi.body_threshold_hu")
    return indices
