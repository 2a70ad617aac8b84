"""Connected components of the scores: where stage 2 has to look (paper, section 2.E)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.config import Triple


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
    labels, low = _labels(scores, threshold)
    if not labels.size:
        return None
    sizes = np.zeros(int(labels.max()) + 1, np.int64)
    for plane in labels:  # bincount copies what it counts, to int64
        sizes += np.bincount(plane.ravel(), minlength=len(sizes))
    return _component(labels, low, 1 + int(np.argmax(sizes[1:])))


def component_of_maximum(scores: NDArray[np.float32]) -> Component:
    """Returns the component of scores at or above half of the maximum [C] that holds the maximum."""
    highest = np.unravel_index(int(np.argmax(scores)), scores.shape)
    labels, low = _labels(scores, scores[highest] / 2)
    place = tuple(int(index) - start for index, start in zip(highest, low, strict=True))
    return _component(labels, low, int(labels[place]))


def _labels(scores: NDArray[np.float32], threshold: float) -> tuple[NDArray[Any], list[int]]:
    """Components numbered from 1 in the box that holds them all, and where it begins: labels of a tumour are small."""
    box: tuple[slice, ...] = ()
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        occupied = np.flatnonzero(scores[box].max(axis=others, initial=-np.inf) >= threshold)
        box += (slice(int(occupied[0]), int(occupied[-1]) + 1) if occupied.size else slice(0, 0),)
    labels, _ = ndimage.label(scores[box] >= threshold)
    return labels, [part.start for part in box]


def _component(labels: NDArray[Any], offset: Sequence[int], label: int) -> Component:
    box = ndimage.find_objects(labels, max_label=label)[label - 1]
    mask = labels[box] == label
    low = [part.start + start for part, start in zip(box, offset, strict=True)]
    high = [start + size for start, size in zip(low, mask.shape, strict=True)]
    z, y, x = (_mean_index(mask, axis) + start for axis, start in enumerate(low))
    return Component((z, y, x), (low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _mean_index(mask: NDArray[np.bool_], axis: int) -> float:
    counts = np.count_nonzero(mask, axis=tuple(k for k in range(3) if k != axis))
    return float(np.average(np.arange(len(counts)), weights=counts))
