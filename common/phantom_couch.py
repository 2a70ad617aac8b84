"""What the phantom lies on and in: a flat or curved couch top, a head rest, a thermoplastic mask shell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.phantom_canvas import Canvas, Window
from common.phantom_institutions import Institution
from common.phantom_patient import Patient
from common.phantom_shapes import Bounds, Box, Field, Shape

COUCH_TOP_MM = 128.0
"""Anatomical y of the couch's surface under the spine; backs that reach further are flattened by it."""
SHELL_MM = 2.8
"""Thickness of the mask shell."""
_CURVE_RADIUS_MM = 620.0
_CARBON, _FOAM, _PLASTIC = -90.0, -945.0, -20.0


@dataclass(frozen=True)
class CouchTop:
    """A slab along z whose surface is flat, or rises to both sides."""

    curved: bool
    thickness_mm: float = 45.0
    half_width_mm: float = 260.0

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        width = self.half_width_mm
        low = COUCH_TOP_MM - self._rise(np.float32(width))
        return (-width, float(low), -1e3), (width, COUCH_TOP_MM + self.thickness_mm, 1e3)

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        below = self.depth(y, x)
        slab = np.minimum(np.minimum(below, self.thickness_mm - below), self.half_width_mm - np.abs(x))
        return np.asarray(slab + np.zeros_like(z))

    def depth(self, y: Field, x: Field) -> Field:
        """Returns how far a point lies below the surface, in mm."""
        return y - np.float32(COUCH_TOP_MM) + self._rise(x)

    def _rise(self, x: Field | np.float32) -> Field:
        return np.asarray(x * x * (1 / (2 * _CURVE_RADIUS_MM) if self.curved else 0), np.float32)


def couch_of(institution: Institution) -> CouchTop:
    """Returns the institution's couch."""
    return CouchTop(institution.couch == "curved", half_width_mm=205.0 if institution.couch == "curved" else 260.0)


def flatten_on_couch(couch: CouchTop, canvas: Canvas, body: Field) -> None:
    """Cuts the body's level, in place, at the couch's surface; the canvas must not be turned."""
    _, y, x = canvas.coordinates(canvas.everywhere)
    np.minimum(body, -couch.depth(y, x), out=body)


def paint_couch(canvas: Canvas, institution: Institution, patient: Patient, body: Field) -> NDArray[np.bool_]:
    """Paints couch, head rest and mask shell round the body and returns their mask (z, y, x)."""
    gap_mm = 0.0 if patient.couch_touches else 3.0
    mask = np.zeros(canvas.hu.shape, np.bool_)
    couch = couch_of(institution)
    window = _required(canvas, couch)
    _paint_hollow(canvas, window, canvas.level(couch, window), mask)
    window = _required(canvas, Box((0, 100, 25), (104, 29, 110)))
    _paint_hollow(canvas, window, _head_rest(canvas, window, couch, body[window], gap_mm), mask)
    if institution.mask_shell:
        window = _required(canvas, Box((0, -30, 16), (110, 90, 126)))
        sheet = _mask_shell(canvas, window, body[window], gap_mm * 0.7)
        canvas.blend(window, canvas.coverage(sheet), _PLASTIC)
        mask[window] |= sheet > 0
    return mask & ~(body > 0)


def _required(canvas: Canvas, shape: Shape) -> Window:
    window = canvas.window(shape)
    assert window is not None, "every grid shows couch and head"
    return window


def _paint_hollow(canvas: Canvas, window: Window, level: Field, mask: NDArray[np.bool_]) -> None:
    """Paints a foam core in a 2.5 mm shell of carbon fibre."""
    canvas.blend(window, canvas.coverage(level), _CARBON)
    canvas.blend(window, canvas.coverage(level - np.float32(2.5)), _FOAM)
    mask[window] |= level > 0


def _head_rest(canvas: Canvas, window: Window, couch: CouchTop, body: Field, gap_mm: float) -> Field:
    """Returns the level of a cradle from the neck up, hollowed by the head."""
    z, y, x = canvas.coordinates(window)
    block = np.minimum(np.minimum(y - 72, -couch.depth(y, x)), 104 - np.abs(x))
    level = np.minimum(block, np.minimum(z + 85, 135 - z))
    return np.asarray(np.minimum(level, -body - np.float32(gap_mm)))


def _mask_shell(canvas: Canvas, window: Window, body: Field, gap_mm: float) -> Field:
    """Returns the level of a sheet over face and neck, ending at the sides of the head rest."""
    z, y, _ = canvas.coordinates(window)
    half_mm = np.float32(SHELL_MM / 2)
    sheet = half_mm - np.abs(_distance_mm(body, canvas.geometry.spacing_mm) + half_mm + np.float32(gap_mm))
    return np.asarray(np.minimum(sheet, np.minimum(60 - y, np.minimum(z + 110, 142 - z))))


def _distance_mm(level: Field, spacing_mm: tuple[float, float, float]) -> Field:
    """Returns a level as the distance from its surface: parts that melt into one another change by less than 1 a mm."""
    slopes = np.gradient(level, *spacing_mm)
    steepness = np.sqrt(sum(np.square(slope) for slope in slopes))
    return np.asarray(level / np.maximum(steepness, np.float32(0.2)), np.float32)
