"""The grid a phantom is drawn on: places shapes in millimetres, blends them in softly, and knows smooth noise."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.phantom_shapes import Field, Shape
from common.volume import Geometry

Window = tuple[slice, slice, slice]
EMPTY = -1000.0
"""HU of air, and the level far outside any shape."""


@dataclass(frozen=True)
class Pose:
    """How one patient differs from the anatomy that the shapes are given in."""

    stretch: tuple[float, float, float]
    """Factors of the patient's size along x, y and z."""
    yaw: float
    """Turn of the head and shoulders about z, in radians."""
    origin_mm: tuple[float, float, float]
    """Where the middle of the nasopharynx lies in the scanner's (x, y, z)."""


class Canvas:
    """A CT in the making: HU on a grid whose axes are LPS, filled with air at first."""

    def __init__(self, geometry: Geometry, pose: Pose, hu: Field | None = None) -> None:
        self.geometry = geometry
        self.hu: Field = np.full(geometry.size, EMPTY, np.float32) if hu is None else hu
        steps_xyz = geometry.spacing_mm[::-1]
        self._axes_xyz = [
            geometry.origin_mm[i] - pose.origin_mm[i] + steps_xyz[i] * np.arange(geometry.size[2 - i]) for i in range(3)
        ]
        x, y = self._axes_xyz[0][None, :], self._axes_xyz[1][:, None]
        cosine, sine = np.cos(pose.yaw), np.sin(pose.yaw)
        self._x_yx = ((cosine * x + sine * y) / pose.stretch[0]).astype(np.float32)
        self._y_yx = ((cosine * y - sine * x) / pose.stretch[1]).astype(np.float32)
        self._z = (self._axes_xyz[2] / pose.stretch[2]).astype(np.float32)
        self.edge_mm = max(1.2, geometry.spacing_mm[2])
        """Width of a surface's blend: a pixel, so that coarse grids show partial volumes instead of stairs."""

    def window(self, shape: Shape, margin_mm: float = 0.0) -> Window | None:
        """Returns the part of the grid within `margin_mm` of the shape's bounds; None: it lies outside."""
        (x0, y0, z0), (x1, y1, z1) = shape.bounds
        reach = margin_mm + self.edge_mm
        inside = (self._x_yx > x0 - reach) & (self._x_yx < x1 + reach)
        inside &= (self._y_yx > y0 - reach) & (self._y_yx < y1 + reach)
        near_z = (self._z > z0 - reach) & (self._z < z1 + reach)
        rows, columns, slices = inside.any(axis=1), inside.any(axis=0), near_z
        if not (rows.any() and slices.any()):
            return None
        return span(slices), span(rows), span(columns)

    @property
    def everywhere(self) -> Window:
        """The whole grid as a window."""
        z, y, x = self.geometry.size
        return slice(0, z), slice(0, y), slice(0, x)

    def coordinates(self, window: Window) -> tuple[Field, Field, Field]:
        """Returns anatomical z (z, 1, 1), y (1, y, x) and x (1, y, x) in mm."""
        z, y, x = window
        return self._z[z, None, None], self._y_yx[None, y, x], self._x_yx[None, y, x]

    def level(self, shape: Shape, window: Window) -> Field:
        """Returns the shape's level on a window, (z, y, x)."""
        sizes = [part.stop - part.start for part in window]
        return np.broadcast_to(shape.level(*self.coordinates(window)), sizes).astype(np.float32)

    def paint(self, shape: Shape, hu: float, edge_mm: float = 0.0) -> None:
        """Blends `hu` into the shape; its surface is `edge_mm` wide, a pixel at least."""
        window = self.window(shape, edge_mm)
        if window is None:
            return
        self.blend(window, self.coverage(self.level(shape, window), edge_mm), hu)

    def paint_all(self, shapes: Iterable[Shape], hu: float, edge_mm: float = 0.0) -> None:
        """Paints several shapes with the same HU."""
        for shape in shapes:
            self.paint(shape, hu, edge_mm)

    def blend(self, window: Window, share: Field, hu: float | Field) -> None:
        """Replaces a share (0-1) of what a window shows by `hu`, a value or an array of the window's size."""
        target = self.hu[window]
        target += share * (np.asarray(hu, np.float32) - target)

    def coverage(self, level: Field, edge_mm: float = 0.0) -> Field:
        """Returns the share of each voxel that a shape covers, from its level."""
        return np.asarray(np.clip(level * np.float32(1 / max(self.edge_mm, edge_mm)) + np.float32(0.5), 0, 1))

    def noise(self, noise: "SmoothNoise", window: Window | None = None) -> Field:
        """Returns smooth noise on a window (default: everywhere)."""
        parts = window or self.everywhere
        x, y, z = self._axes_xyz
        return noise.sample(z[parts[0]], y[parts[1]], x[parts[2]])


@dataclass(frozen=True)
class SmoothNoise:
    """Noise of mean about 0 and SD 1 that is a function of millimetres, so that every grid shows the same."""

    rng: np.random.Generator
    cell_mm: float
    """Distance of the random nodes."""
    reach_mm: tuple[float, float, float] = (340.0, 300.0, 300.0)
    """Nodes lie within +- this of the origin (z, y, x); noise repeats its last node further out."""
    nodes: Field = field(init=False)

    def __post_init__(self) -> None:
        shape = [int(np.ceil(2 * reach / self.cell_mm)) + 2 for reach in self.reach_mm]
        # Linear interpolation between nodes has an SD of (2/3)^(3/2) on average.
        object.__setattr__(self, "nodes", self.rng.standard_normal(shape, dtype=np.float32) * np.float32(1.8))

    def sample(self, *axes_zyx_mm: NDArray[np.floating[Any]]) -> Field:
        """Returns the noise on the grid that three axes in mm span, (z, y, x)."""
        result = self.nodes
        for axis, positions_mm in enumerate(axes_zyx_mm):
            place = (positions_mm + self.reach_mm[axis]) / self.cell_mm
            place = np.clip(place, 0, self.nodes.shape[axis] - 1.001)
            low = place.astype(int)
            share = (place - low).astype(np.float32)
            share = share * share * (3 - 2 * share)  # smoothstep: no kinks at the nodes
            share = share.reshape([-1 if i == axis else 1 for i in range(3)])
            below, above = np.take(result, low, axis=axis), np.take(result, low + 1, axis=axis)
            above -= below
            above *= share
            result = np.add(below, above, out=above)
        return result


def span(hits: NDArray[np.bool_]) -> slice:
    """Returns the range of indices from the first to the last True."""
    where = np.flatnonzero(hits)
    return slice(int(where[0]), int(where[-1]) + 1)
