"""Connected components of the scores: where stage 2 has to look (paper, section 2.E).

Found by runs of voxels along x and a graph of those that touch, so that memory holds some numbers a run and no volume
of labels, however far apart the components lie.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.settings import Triple


@dataclass(frozen=True)
class Component:
    """A set of voxels that touch by their faces.

    Attributes:
        centroid: mean index (z, y, x).
        low: first index along each axis.
        high: one past the last.
    """

    centroid: tuple[float, float, float]
    low: Triple
    high: Triple


def largest_component(scores: NDArray[np.float32], threshold: float) -> Component | None:
    """Returns the component of most voxels at or above `threshold`, the first of equals in array order; or None."""
    runs = _Runs.of(scores, threshold)
    if not len(runs.start):
        return None
    labels = runs.labels()
    return runs.component(labels == int(np.argmax(np.bincount(labels, weights=runs.end - runs.start))))


def component_of_maximum(scores: NDArray[np.float32]) -> Component:
    """Returns the component of scores at or above half of the maximum [C] that holds the maximum."""
    z, y, x = np.unravel_index(int(np.argmax(scores)), scores.shape)
    runs = _Runs.of(scores, scores[z, y, x] / 2)
    labels = runs.labels()
    holder = int(np.searchsorted(runs.keys(runs.start), (z * runs.rows + y) * runs.length + x, side="right")) - 1
    return runs.component(labels == labels[holder])


@dataclass(frozen=True, eq=False)
class _Runs:
    """Stretches of voxels along x, in array order."""

    z: NDArray[np.int64]
    y: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    """One past the last voxel."""
    rows: int
    """Of a slice, and one: so the last row of a slice is no neighbour of the next slice's first."""
    length: int
    """Of a row, and one."""

    @classmethod
    def of(cls, scores: NDArray[np.float32], threshold: float) -> "_Runs":
        _, height, width = scores.shape
        found = []
        for z, plane in enumerate(scores):
            edges = np.diff((plane >= threshold).view(np.int8), axis=1, prepend=0, append=0)
            y, start = np.nonzero(edges == 1)
            found.append((np.full(len(y), z), y, start, np.nonzero(edges == -1)[1]))
        slices, rows, starts, ends = (np.concatenate(parts).astype(np.int64) for parts in zip(*found, strict=True))
        return cls(slices, rows, starts, ends, height + 1, width + 1)

    def keys(self, x: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns places along x of the runs' rows as numbers that grow in array order."""
        return (self.z * self.rows + self.y) * self.length + x

    def labels(self) -> NDArray[np.int32]:
        """Returns the number of each run's component, from 0 in the order of their first runs."""
        starts, ends, size = self.keys(self.start), self.keys(self.end), len(self.start)
        links = [_overlaps(starts, ends, step * self.length) for step in (1, self.rows)]
        a, b = np.concatenate(links, axis=1)
        graph = coo_array((np.ones(len(a), np.bool_), (a, b)), shape=(size, size))
        labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
        return labels

    def component(self, chosen: NDArray[np.bool_]) -> Component:
        """Returns the component that the chosen runs make."""
        z, y, start, end = (values[chosen] for values in (self.z, self.y, self.start, self.end))
        weights = end - start
        middle = (float(np.average(values, weights=weights)) for values in (z, y, (start + end - 1) / 2))
        centroid_z, centroid_y, centroid_x = middle
        return Component(
            (centroid_z, centroid_y, centroid_x),
            (int(z.min()), int(y.min()), int(start.min())),
            (int(z.max()) + 1, int(y.max()) + 1, int(end.max())),
        )


def _overlaps(starts: NDArray[np.int64], ends: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """Returns the pairs of runs, shape (2, N), that share an x where the second one's row lies `step` keys further."""
    first = np.searchsorted(ends, starts + step, side="right")
    counts = np.searchsorted(starts, ends + step, side="left") - first
    a = np.repeat(np.arange(len(starts)), counts)
    within = np.arange(len(a)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([a, np.repeat(first, counts) + within])
