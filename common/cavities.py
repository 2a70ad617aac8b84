"""Air spaces of the head that open to the outside: nose, mouth and ears belong to the body all the same.

Opening the mask takes thin walls, such as the nose's, and what lies behind them is then outside the outline.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from common.bounding import bounding_box

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

MOUTH_MM = 22.0
"""[C] Cavities are taken to be closed where their mouth is narrower than twice this in a slice."""
NEIGHBOURS_MM = 12.0
"""[C] Wider ones where the slices this far above and below are closed."""
RIM_MM = 12.0
"""[C] What lies deeper than this below the closed outline is body; shells, notches and shallow folds lie above."""
COARSE_MM = 3.5
WIDEST_MM = 260.0
"""Slices wider than a head hold shoulders or another part of the body, whose gaps are no cavities."""


def fill_cavities(mask: Mask, spacing_mm: tuple[float, float, float]) -> None:
    """Adds to the body mask (z, y, x), in place, what lies deep inside the closed outline of a slice of the head.

    Slices wider than `WIDEST_MM` stay as they are. Outlines are closed on a grid of `COARSE_MM`.

    Args:
        mask: the body, filled slice by slice.
        spacing_mm: (z, y, x).
    """
    heads = [z for z, layer in enumerate(mask) if 0 < _width(layer) * spacing_mm[2] <= WIDEST_MM]
    if not heads:
        return
    _, rows, columns = bounding_box(mask[heads])
    part = mask[:, rows, columns]
    factors = [max(1, round(COARSE_MM / spacing)) for spacing in spacing_mm[1:]]
    size = tuple(max(1, n // factor) for n, factor in zip(part.shape[:0:-1], factors[::-1], strict=True))
    coarse_mm = [factor * spacing for factor, spacing in zip(factors, spacing_mm[1:], strict=True)]
    mouth, rim = (_ellipse(radius_mm, coarse_mm) for radius_mm in (MOUTH_MM, RIM_MM))
    closed = {z: _closed(_resized(part[z].view(np.uint8), size), mouth) for z in heads}
    step = max(1, round(NEIGHBOURS_MM / spacing_mm[0]))
    for z in heads:
        hull = closed[z] | (closed.get(z - step, 0) & closed.get(z + step, 0))
        deep = cv2.erode(hull, rim, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        part[z] |= _resized(deep, part.shape[:0:-1]).view(np.bool_)


def _width(layer: Mask) -> int:
    columns = np.flatnonzero(layer.any(axis=0))
    return int(columns[-1] + 1 - columns[0]) if len(columns) else 0


def _resized(layer: Bytes, size: tuple[int, ...]) -> Bytes:
    """Returns the nearest pixels on a grid of `size` (columns, rows)."""
    return np.asarray(cv2.resize(layer, size, interpolation=cv2.INTER_NEAREST))


def _closed(layer: Bytes, mouth: Bytes) -> Bytes:
    """Returns the filled outline of the slice closed by the kernel."""
    room = max(mouth.shape)
    padded = cv2.copyMakeBorder(layer, room, room, room, room, cv2.BORDER_CONSTANT, value=0)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, mouth)
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    hull = cv2.drawContours(np.zeros_like(closed), contours, -1, 1, cv2.FILLED)
    return np.ascontiguousarray(hull[room:-room, room:-room])


def _ellipse(radius_mm: float, spacing_mm: list[float]) -> Bytes:
    radius_y, radius_x = (max(1, int(np.ceil(radius_mm / spacing))) for spacing in spacing_mm)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_x + 1, 2 * radius_y + 1)), np.uint8)
