"""A model's layers, read part by part: whoever checks, adds up or writes a model need not have it whole in memory.

Memory that is fresh from the system costs more time than what is done with the numbers in it.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

PART = 1 << 17
"""Numbers of a layer that are looked at together: with their difference in fp64 they fit into a core's own cache."""


@dataclass(frozen=True)
class Layers:
    """What the layers are, and how their numbers are come by."""

    shapes: Mapping[str, tuple[int, ...]]
    """By name, in order."""
    dtype: np.dtype[Any]
    """Of what `part` returns."""
    part: Callable[[str, slice], NDArray[Any]]
    """Returns some numbers of a layer, flat; they may not be writable."""

    @classmethod
    def of(cls, weights: Mapping[str, NDArray[Any]]) -> "Layers":
        """Returns the layers of a model in memory, in a dtype that all its arrays fit into."""
        dtype = np.result_type(*{array.dtype for array in weights.values()} or {np.dtype(np.float32)})
        shapes = {name: array.shape for name, array in weights.items()}
        return cls(shapes, dtype, lambda name, part: weights[name].reshape(-1)[part].astype(dtype, copy=False))

    def size(self, name: str) -> int:
        """Returns how many numbers a layer has."""
        return math.prod(self.shapes[name])

    def parts(self, name: str) -> Iterator[slice]:
        """Gives where a layer's parts are."""
        size = self.size(name)
        for start in range(0, size, PART):
            yield slice(start, min(start + PART, size))

    def array(self, name: str) -> NDArray[Any]:
        """Returns a layer as an array."""
        return self.part(name, slice(0, self.size(name))).reshape(self.shapes[name])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns all layers as arrays."""
        return {name: self.array(name) for name in self.shapes}

    def ordered(self, names: Iterable[str]) -> "Layers":
        """Returns these layers, in this order."""
        return replace(self, shapes={name: self.shapes[name] for name in names})

    def not_finite(self) -> str | None:
        """Returns the name of the first layer with NaN or infinity in it; None: there is none."""
        for name in self.shapes:
            if not all(np.isfinite(self.part(name, part)).all() for part in self.parts(name)):
                return name
        return None
