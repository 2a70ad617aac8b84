"""Connected components of the scores: where stage 2 has to look (paper, section 2.E)."""

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


def largest_component(mask: NDArray[np.bool_]) -> Component | None:
    """Returns the component of most voxels, the first of equals in array order; None for an empty mask."""
    labels, num_components = ndimage.label(mask)
    if not num_components:
        return None
    return _component(labels, 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def component_of_maximum(scores: NDArray[np.float32]) -> Component:
    """Returns the component of scores at or above half of the maximum [C] that holds the maximum."""
    highest = np.unravel_index(int(np.argmax(scores)), scores.shape)
    labels, _ = ndimage.label(scores >= scores[highest] / 2)
    return _component(labels, int(labels[highest]))


def _component(labels: NDArray[Any], label: int) -> Component:
    box = ndimage.find_objects(labels, max_label=label)[label - 1]
    z, y, x = (axis.mean() + part.start for axis, part in zip(np.nonzero(labels[box] == label), box, strict=True))
    low, high = (tuple(getattr(part, end) for part in box) for end in ("start", "stop"))
    return Component((float(z), float(y), float(x)), (low[0], low[1], low[2]), (high[0], high[1], high[2]))
