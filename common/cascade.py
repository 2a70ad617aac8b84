"""Two-stage inference: windows of stage 1, its centroid, crop of stage 2, fusion (paper, section 2.E).

The paper's S = (1 - w) S1 + w S2 has no S2 outside the crop, so S <= 1 - w there: with w 0.5 and threshold 0.6 a tumour
larger than the crop is cut. `fusion: safe` [C] lets stage 2 cover the whole stage-1 component where that exceeds the
crop; `fusion: paper` keeps the cut. Both flag it.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.components import Component, component_of_maximum, largest_component
from common.recipe import Recipe, StageConfig
from common.sampling import inside
from common.settings import Triple
from common.windows import Scores, mean_scores, tile

STAGE1_EMPTY = "stage1-empty"
"""No score of stage 1 reaches the centroid threshold; the component around its maximum was taken."""
EXCEEDS_CROP = "tumour-exceeds-crop"
"""The stage-1 component leaves the stage-2 crop: cut with `fusion: paper`, tiled with `fusion: safe`."""
TILING_MARGIN = 4
"""[C] Voxels round the component that tiling covers too, for stage 2 may find more than stage 1."""
Region = tuple[Triple, Triple]
"""First voxel and size, as an ITK region."""


@dataclass(frozen=True)
class Prediction:
    """What the cascade says of one image.

    Attributes:
        scores: (z, y, x) float32 in 0..1; to be resampled back, and thresholded there.
        centroid: index (z, y, x) of the stage-1 component.
        flags: `STAGE1_EMPTY`, `EXCEEDS_CROP`.
        region: what stage 2 looked at; None without a stage 2.
    """

    scores: Scores
    centroid: tuple[float, float, float]
    flags: tuple[str, ...]
    region: Region | None = None


def predict(
    image: NDArray[Any],
    networks: dict[str, nn.Module],
    recipe: Recipe,
    air: float,
    device: torch.device,
    precision: Literal["auto", "bf16", "off"] | None = None,
) -> Prediction:
    """Returns the fused scores of an image of any size, even one smaller than a patch.

    Args:
        image: (C, z, y, x), normalised, on the recipe's grid.
        networks: by stage, on `device`; logits come out.
        recipe: without a stage 2, the scores are those of stage 1.
        air: the normalised intensity of air, which surrounds the image.
        device: where the networks compute.
        precision: of the forward passes; None: as in training.

    Raises:
        WorkError: a network gives no numbers.
    """
    precision = precision or recipe.training.autocast

    def scores_in(
        stage: str, config: StageConfig, region: Region, onto: Scores | None = None, weight: float = 1.0
    ) -> Scores:
        starts = tile(*region, config.patch_size, recipe.inference.window_overlap)
        return mean_scores(
            image,
            networks[stage],
            config.patch_size,
            starts,
            air=air,
            device=device,
            precision=precision,
            batch_size=recipe.inference.windows_per_batch,
            onto=onto,
            weight=weight,
        )

    scores = scores_in("stage1", recipe.stage1, _whole(_shape(image), recipe.stage1.patch_size))
    component, flags = find_tumour(scores, recipe.inference.centroid_threshold)
    if recipe.stage2 is None:
        return Prediction(scores, component.centroid, flags)
    region = crop(component.centroid, recipe.stage2.patch_size, _shape(image))
    if not flags and _exceeds(component, region):
        flags = (EXCEEDS_CROP,)
        region = _grown(region, component, _shape(image)) if recipe.inference.fusion == "safe" else region
    weight = recipe.inference.stage2_weight
    scores *= np.float32(1 - weight)
    scores_in("stage2", recipe.stage2, region, scores, weight)
    return Prediction(scores, component.centroid, flags, region)


def find_tumour(scores: Scores, threshold: float) -> tuple[Component, tuple[str, ...]]:
    """Returns the largest component at or above `threshold`, or the one around the maximum with `STAGE1_EMPTY`."""
    component = largest_component(scores, threshold)
    return (component, ()) if component else (component_of_maximum(scores), (STAGE1_EMPTY,))


def crop(centroid: tuple[float, float, float], patch_size: Triple, shape: Triple) -> Region:
    """Returns the patch whose voxel size // 2 is at the centroid, shifted inside the volume, as in training."""
    return inside([round(c) - p // 2 for c, p in zip(centroid, patch_size, strict=True)], patch_size, shape), patch_size


def _whole(shape: Triple, patch_size: Triple) -> Region:
    z, y, x = (max(n, p) for n, p in zip(shape, patch_size, strict=True))
    return inside((0, 0, 0), patch_size, shape), (z, y, x)


def _exceeds(component: Component, region: Region) -> bool:
    axes = zip(component.low, component.high, *region, strict=True)
    return any(low < start or high > start + size for low, high, start, size in axes)


def _grown(region: Region, component: Component, shape: Triple) -> Region:
    """The smallest region round `region` and the component with its margin, inside the volume where `region` is."""

    def along(axis: int) -> tuple[int, int]:
        start, stop = region[0][axis], region[0][axis] + region[1][axis]
        low = min(start, max(component.low[axis] - TILING_MARGIN, 0))
        high = max(stop, min(component.high[axis] + TILING_MARGIN, shape[axis]))
        return low, high - low

    (z, dz), (y, dy), (x, dx) = (along(axis) for axis in range(3))
    return (z, y, x), (dz, dy, dx)


def _shape(image: NDArray[Any]) -> Triple:
    z, y, x = image.shape[-3:]
    return z, y, x
