"""One prepared case through the cascade and back to its original grid (paper, section 2.E)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.cascade import Region, predict
from common.preprocess import PreprocessRecord, restore
from common.recipe import Recipe
from common.statistics import Normalisation

TOUCHES_CROP = "touches-crop"
"""The mask reaches a side of what stage 2 looked at, where the image goes on: so may the tumour."""


class Prepared(Protocol):
    """What `preprocess.prepare` and the cache give: HU on the target grid and the way back."""

    @property
    def image(self) -> NDArray[Any]:
        """(C, z, y, x) HU."""

    @property
    def record(self) -> PreprocessRecord:
        """The way back to the original grid."""


@dataclass(frozen=True)
class Segmentation:
    """A predicted mask on the scan's original grid.

    Attributes:
        mask: (z, y, x) bool.
        scores: (z, y, x) float32, fused, on the target grid.
        flags: what a reader should know, such as an empty stage 1 or a tumour that exceeds the crop.
    """

    mask: NDArray[np.bool_]
    scores: NDArray[np.float32]
    flags: tuple[str, ...]


def segment(
    case: Prepared,
    networks: Mapping[str, nn.Module],
    recipe: Recipe,
    normalisation: Normalisation,
    device: torch.device,
) -> Segmentation:
    """Returns the mask: scores are resampled to the original grid and thresholded there."""
    prediction = predict(normalisation.apply(np.asarray(case.image)), dict(networks), recipe, normalisation.air, device)
    restored = restore(prediction.scores, case.record)
    mask = restored >= recipe.inference.threshold
    touches = prediction.region and touches_side(prediction.scores >= recipe.inference.threshold, prediction.region)
    flags = (*case.record.flags, *prediction.flags, *((TOUCHES_CROP,) if touches else ()))
    return Segmentation(mask, prediction.scores, flags)


def touches_side(mask: NDArray[np.bool_], region: Region) -> bool:
    """Returns whether a mask (z, y, x) reaches a side of the region that lies inside the image."""
    box = tuple(slice(max(0, start), start + size) for start, size in zip(*region, strict=True))
    inner = mask[box]
    return any(
        (part.start > 0 and bool(inner.take(0, axis).any()))
        or (part.stop < mask.shape[axis] and bool(inner.take(-1, axis).any()))
        for axis, part in enumerate(box)
    )
