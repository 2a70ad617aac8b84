"""The hand that contours: turns the true tumour into what an institution's physicians would draw."""

import numpy as np
from numpy.typing import NDArray

from common.phantom_canvas import Canvas, SmoothNoise, Window
from common.phantom_institutions import Institution
from common.phantom_shapes import Field

FEWEST_SLICES = 5
"""A tumour in fewer slices keeps its ends."""


def delineate(
    canvas: Canvas,
    window: Window,
    level: Field,
    air: NDArray[np.bool_],
    institution: Institution,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Returns the contoured mask on the window, (z, y, x).

    Args:
        canvas: the grid.
        window: the part of it that `level` and `air` cover.
        level: the true tumour's level in mm.
        air: where the window shows air.
        institution: whose margin, jitter and habits apply.
        rng: of the contour's jitter, which is smooth over 12 mm.
    """
    jitter = np.float32(institution.jitter_mm) * canvas.noise(SmoothNoise(rng, 12.0, (90.0, 90.0, 90.0)), window)
    mask = level + jitter + np.float32(institution.margin_mm) > 0
    if not institution.takes_in_air:
        mask &= ~air
    if institution.skips_end_slices:
        _skip_ends(mask)
    return np.asarray(mask)


def _skip_ends(mask: NDArray[np.bool_]) -> None:
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    if len(slices) >= FEWEST_SLICES:
        mask[[slices[0], slices[-1]]] = False
