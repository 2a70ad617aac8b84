"""Head rests and curved couches, which no straight line shows: foam in a thin shell, pressed on the skin.

Shell and skin cannot be told apart where they touch, but foam is denser than air, and a shell has it behind. [C] The
paper does not say how such holders are taken out of the mask; the numbers are ours.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.statistics import AIR_HU

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

FOAM_ABOVE_AIR_HU = 25.0
"""Foam of holders has -980 to -900 HU. Averaged over `_COARSE_MM` and 3 x 3, noise of 14 HU is below 3."""
AIR_RANGE_HU = 30.0
"""Scanners calibrate air to within this."""
FOAM_HIGHEST_HU = -850.0
REACH_MM = 20.0
"""Foam further from the body does not touch it."""
WALL_MM = 3.0
"""Thickness of a holder's shell."""
IN_FRONT = 3
"""Blankets lie on both sides of a patient, couch and head rest on one."""
NUB_MM = 40.0
"""Foam on both sides within this encloses walls that meet or little foam; a head loses 2.5 mm at most."""
_COARSE_MM = 2.0
_CORE_PIXELS = 5
"""Least width of foam on the coarse grid; rims of partial volume round body and shells have at most 2."""
_RIM_PIXELS = 4
"""The foam's edge as found lies this far inside at most: a mixed pixel, the average and the shell."""


def clear_holder(hu_zyx: NDArray[Any], mask: Mask, threshold_hu: float, spacing_mm: tuple[float, float, float]) -> bool:
    """Clears the walls of foam-filled holders from the body mask, in place; nothing of what lies deeper than a wall.

    Returns whether the holders lie in front of the body, `IN_FRONT` times as much as behind it.

    Args:
        hu_zyx: HU, LPS order.
        mask: the body, filled, with the walls that touch it.
        threshold_hu: below it a voxel is foam or air.
        spacing_mm: (z, y, x).
    """
    outline: Mask = np.asarray(mask.any(axis=0))
    window = _window(outline, spacing_mm[1:])
    limits = _air_level(hu_zyx, outline) + FOAM_ABOVE_AIR_HU, FOAM_HIGHEST_HU
    hollow = [
        _hollow(hu[window], body[window], limits, threshold_hu, spacing_mm[1:])
        for hu, body in zip(hu_zyx, mask, strict=True)
    ]
    kernel = _ellipse(*(int(np.ceil(WALL_MM / spacing)) for spacing in spacing_mm[1:]))
    reach = int(np.ceil(WALL_MM / spacing_mm[0]))
    in_front = _in_front(hollow, outline[window])
    for z in range(len(mask)):
        near = [layer for layer in hollow[max(0, z - reach) : z + reach + 1] if layer is not None]
        if near:
            _clear(mask[(z, *window)], np.maximum.reduce(near), kernel)
    return in_front


def _in_front(hollow: list[Bytes | None], outline: Mask) -> bool:
    """Returns whether most of the hollow lies before the middle of the body's outline."""
    held = np.flatnonzero(outline.any(axis=1))
    middle = (int(held[0]) + int(held[-1])) // 2
    layers = [layer for layer in hollow if layer is not None]
    front, behind = (
        sum(cv2.countNonZero(layer[part]) for layer in layers) for part in (np.s_[:middle], np.s_[middle:])
    )
    return bool(layers) and front > IN_FRONT * behind


def _clear(body: Mask, hollow: Bytes, kernel: Bytes) -> None:
    """Clears what the kernel reaches from the hollow."""
    left, top, width, height = cv2.boundingRect(hollow)
    room_y, room_x = (size // 2 for size in kernel.shape)
    part = slice(max(0, top - room_y), top + height + room_y), slice(max(0, left - room_x), left + width + room_x)
    body[part] &= cv2.dilate(hollow[part], kernel) == 0


def _hollow(
    hu: NDArray[Any], body: Mask, limits: tuple[float, float], threshold_hu: float, spacing_mm: tuple[float, float]
) -> Bytes | None:
    """Returns what is neither body nor shell in and right beside a slice's foam, and nubs within; None without foam."""
    height, width = hu.shape
    factors = [max(1, round(_COARSE_MM / spacing)) for spacing in spacing_mm]
    size = max(1, width // factors[1]), max(1, height // factors[0])
    values = hu if hu.dtype == np.int16 else hu.astype(np.float32)  # what OpenCV takes
    mean = cv2.blur(cv2.resize(values, size, interpolation=cv2.INTER_AREA), (3, 3))
    foam = cv2.inRange(mean, *limits)
    foam &= cv2.resize(body.view(np.uint8), size, interpolation=cv2.INTER_NEAREST) - np.uint8(1)
    foam = np.asarray(cv2.morphologyEx(foam, cv2.MORPH_OPEN, np.ones((_CORE_PIXELS, _CORE_PIXELS), np.uint8)), np.uint8)
    if not foam.any():
        return None
    grown = cv2.dilate(foam, _ellipse(_RIM_PIXELS, _RIM_PIXELS))
    near = cv2.resize(grown, (width, height), interpolation=cv2.INTER_NEAREST)
    hollow = ((near > 0) & (hu <= threshold_hu) & ~body).view(np.uint8)
    for last in np.flatnonzero(body.any(axis=1))[-1:]:  # further back there is no body that a nub could hang from
        nub = np.ones((1, 2 * int(NUB_MM / 2 / spacing_mm[1]) + 1), np.uint8)
        hollow[: last + 1] = cv2.morphologyEx(hollow[: last + 1], cv2.MORPH_CLOSE, nub)
    return np.asarray(hollow)


def _air_level(hu_zyx: NDArray[Any], outline: Mask) -> float:
    """Returns the median HU of the air in front of the body; what fills the outside of a scan circle is left out."""
    front = int(np.flatnonzero(outline.any(axis=1))[0])
    width = outline.shape[1]
    strip = hu_zyx[::4, : front // 2 : 4, width // 3 : width - width // 3 : 4]
    air = strip[strip != hu_zyx[0, 0, 0]]
    return float(np.clip(np.median(air), AIR_HU - AIR_RANGE_HU, AIR_HU + AIR_RANGE_HU)) if air.size else AIR_HU


def _window(outline: Mask, spacing_mm: tuple[float, float]) -> tuple[slice, slice]:
    """Returns the rows and columns round the body with `REACH_MM` more."""
    parts = []
    for axis, spacing in enumerate(spacing_mm):
        held, margin = np.flatnonzero(outline.any(axis=1 - axis)), int(REACH_MM / spacing)
        parts.append(slice(max(0, int(held[0]) - margin), int(held[-1]) + 1 + margin))
    return parts[0], parts[1]


def _ellipse(radius_y: int, radius_x: int) -> Bytes:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_x + 1, 2 * radius_y + 1)), np.uint8)
