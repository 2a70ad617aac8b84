"""Implicit shapes in millimetres: what the phantom's anatomy is drawn with.

A shape's level is positive inside and close to the distance to its surface in millimetres. Points are (x, y, z) in
anatomical millimetres: x to the patient's left, y to the back, z to the head, the origin in the middle of the
nasopharynx. Levels broadcast over z (z, 1, 1) and y, x (1, y, x).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

Field = NDArray[np.float32]
"""Levels, coordinates or HU."""
Point = tuple[float, float, float]
Bounds = tuple[Point, Point]
"""Lowest and highest (x, y, z) that a shape reaches."""


class Shape(Protocol):
    """Anything with bounds and a level."""

    @property
    def bounds(self) -> Bounds:
        """The box that holds every point of positive level."""
        ...

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """Returns about the distance to the surface in mm, positive inside."""
        ...


def _elliptic_level(terms: Sequence[tuple[Field, Field | float]]) -> Field:
    """Level of sum((offset / radius)^2) = 1, divided by its gradient: exact to first order at the surface."""
    inside = np.asarray(sum((offset / radius) ** 2 for offset, radius in terms), np.float32)
    slope = np.asarray(sum((offset / radius**2) ** 2 for offset, radius in terms), np.float32)
    radius = np.sqrt(inside + np.float32(1e-6)) / np.sqrt(slope + np.float32(1e-10))
    return np.asarray((1 - np.sqrt(inside)) * radius)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid along the axes."""

    centre: Point
    radii: Point

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        (cx, cy, cz), (rx, ry, rz) = self.centre, self.radii
        return (cx - rx, cy - ry, cz - rz), (cx + rx, cy + ry, cz + rz)

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        (cx, cy, cz), (rx, ry, rz) = self.centre, self.radii
        return _elliptic_level([(x - cx, rx), (y - cy, ry), (z - cz, rz)])


@dataclass(frozen=True)
class Column:
    """Ellipses stacked along z: at each knot's height a centre and radii, joined by monotone cubics."""

    knots: tuple[tuple[float, float, float, float, float], ...]
    """(z, centre x, centre y, radius x, radius y), rising in z."""

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        z, cx, cy, rx, ry = np.array(self.knots).T
        low = float(np.min(cx - rx)), float(np.min(cy - ry)), float(z[0])
        return low, (float(np.max(cx + rx)), float(np.max(cy + ry)), float(z[-1]))

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        table = np.array(self.knots)
        inside = np.clip(z, table[0, 0], table[-1, 0])
        cx, cy, rx, ry = np.moveaxis(PchipInterpolator(table[:, 0], table[:, 1:])(inside).astype(np.float32), -1, 0)
        side = _elliptic_level([(x - cx, rx), (y - cy, ry)])
        ends = np.minimum(z - self.knots[0][0], self.knots[-1][0] - z)
        return np.asarray(np.minimum(side, ends))


@dataclass(frozen=True)
class Box:
    """A box, turned about the x axis by `pitch` radians (positive: its top leans to the front)."""

    centre: Point
    half: Point
    pitch: float = 0.0

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        (cx, cy, cz), (hx, hy, hz) = self.centre, self.half
        sine, cosine = abs(np.sin(self.pitch)), abs(np.cos(self.pitch))
        dy, dz = hy * cosine + hz * sine, hy * sine + hz * cosine
        return (cx - hx, cy - dy, cz - dz), (cx + hx, cy + dy, cz + dz)

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        (cx, cy, cz), (hx, hy, hz) = self.centre, self.half
        sine, cosine = np.float32(np.sin(self.pitch)), np.float32(np.cos(self.pitch))
        across = hy - np.abs((y - cy) * cosine + (z - cz) * sine)
        along = hz - np.abs((z - cz) * cosine - (y - cy) * sine)
        return np.asarray(np.minimum(np.minimum(across, along), hx - np.abs(x - cx)))


@dataclass(frozen=True)
class Capsule:
    """All points within `radius` of a line from `start` to `end`."""

    start: Point
    end: Point
    radius: float

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        both = np.array([self.start, self.end])
        low, high = both.min(axis=0) - self.radius, both.max(axis=0) + self.radius
        return (low[0], low[1], low[2]), (high[0], high[1], high[2])

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        (ax, ay, az), (bx, by, bz) = self.start, self.end
        dx, dy, dz = bx - ax, by - ay, bz - az
        length2 = dx * dx + dy * dy + dz * dz
        share = np.clip(((x - ax) * dx + (y - ay) * dy + (z - az) * dz) / length2, 0, 1).astype(np.float32)
        squares = (x - ax - share * dx) ** 2 + (y - ay - share * dy) ** 2 + (z - az - share * dz) ** 2
        return np.asarray(self.radius - np.sqrt(squares))


@dataclass(frozen=True)
class Arch:
    """The front half of an elliptic ring, as thick as a jaw, between two heights."""

    centre: Point
    radii: tuple[float, float]
    thickness: float
    height: float

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        (cx, cy, cz), (rx, ry), reach = self.centre, self.radii, self.thickness / 2
        low = cx - rx - reach, cy - ry - reach, cz - self.height / 2
        return low, (cx + rx + reach, cy, cz + self.height / 2)

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        (cx, cy, cz), (rx, ry) = self.centre, self.radii
        ring = self.thickness / 2 - np.abs(_elliptic_level([(x - cx, rx), (y - cy, ry)]))
        return np.asarray(np.minimum(np.minimum(ring, cy - y), self.height / 2 - np.abs(z - cz)))


@dataclass(frozen=True)
class Above:
    """Everything above a plane that falls towards the back: z > height - slope * y."""

    height: float
    slope: float

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        return (-1e3, -1e3, -1e3), (1e3, 1e3, 1e3)

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        return np.asarray((z - self.height + self.slope * y) / np.float32(np.hypot(1, self.slope)))


@dataclass(frozen=True)
class Cut:
    """`shape`, less whatever lies in `others`."""

    shape: Shape
    others: tuple[Shape, ...]

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        return self.shape.bounds

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        result = self.shape.level(z, y, x)
        for other in self.others:
            result = np.minimum(result, -other.level(z, y, x))
        return result


@dataclass(frozen=True)
class Common:
    """What lies in both shapes; its bounds are the first one's."""

    first: Shape
    second: Shape

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        return self.first.bounds

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        return np.minimum(self.first.level(z, y, x), self.second.level(z, y, x))


@dataclass(frozen=True)
class Either:
    """What lies in any of the shapes."""

    shapes: tuple[Shape, ...]

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        x0, y0, z0 = np.min([shape.bounds[0] for shape in self.shapes], axis=0)
        x1, y1, z1 = np.max([shape.bounds[1] for shape in self.shapes], axis=0)
        return (x0, y0, z0), (x1, y1, z1)

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        result = self.shapes[0].level(z, y, x)
        for shape in self.shapes[1:]:
            result = np.maximum(result, shape.level(z, y, x))
        return result


@dataclass(frozen=True)
class Grown:
    """`shape` with its surface moved out by `margin` mm; in if negative."""

    shape: Shape
    margin: float

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        (x0, y0, z0), (x1, y1, z1) = self.shape.bounds
        m = self.margin
        return (x0 - m, y0 - m, z0 - m), (x1 + m, y1 + m, z1 + m)

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        return self.shape.level(z, y, x) + np.float32(self.margin)


@dataclass(frozen=True)
class Mirrored:
    """`shape` on the body's other side."""

    shape: Shape

    @property
    def bounds(self) -> Bounds:
        """See `Shape`."""
        (x0, y0, z0), (x1, y1, z1) = self.shape.bounds
        return (-x1, y0, z0), (-x0, y1, z1)

    def level(self, z: Field, y: Field, x: Field) -> Field:
        """See `Shape`."""
        return self.shape.level(z, y, -x)


def both_sides(*shapes: Shape) -> tuple[Shape, ...]:
    """Returns the shapes, given on the patient's left, and their mirror images."""
    return (*shapes, *(Mirrored(shape) for shape in shapes))
