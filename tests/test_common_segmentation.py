"""A case through the cascade and back onto its own grid: what is thresholded, and where."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.cascade import EXCEEDS_CROP
from common.preprocess import PreprocessRecord
from common.recipe import InferenceConfig, NetworkConfig, Recipe, StageConfig, TrainingConfig
from common.segmentation import TOUCHES_CROP, segment, touches_side
from common.statistics import Normalisation
from common.volume import Geometry

torch.set_num_threads(1)
RECIPE = Recipe(
    stage1=StageConfig(network=NetworkConfig(widths=(2, 4), strides=((2, 2, 2),), aspp=None), patch_size=(4, 4, 4)),
    stage2=None,
    training=TrainingConfig(autocast="off"),
    inference=InferenceConfig(threshold=0.5),
)
NORMALISATION = Normalisation(100.0, 50.0)
SPACING = (3.0, 2.0, 2.0)


class Identity(nn.Module):
    """The normalised intensity is the logit."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclass
class Prepared:
    image: NDArray[Any]
    record: PreprocessRecord


def case(start: int = 0, flags: tuple[str, ...] = ()) -> Prepared:
    """A block of 120 HU in 50 HU on the region's grid, which lies `start` voxels inside a scan of the same spacing."""
    image = np.full((1, 6, 6, 6), 50, np.int16)
    image[0, 2:4, 1:5, 2:5] = 120
    size = (6 + 2 * start,) * 3
    crop = ((start, start + 6),) * 3
    return Prepared(image, PreprocessRecord(Geometry(size, SPACING), crop, (6, 6, 6), SPACING, flags=flags))


def run(prepared: Prepared, recipe: Recipe = RECIPE) -> Any:
    return segment(prepared, {"stage1": Identity()}, recipe, NORMALISATION, torch.device("cpu"))


def test_what_scores_above_the_threshold_is_the_mask() -> None:
    """120 HU are a logit of 0.4, a score of 0.599; 50 HU of -1, 0.269."""
    prepared = case()
    result = run(prepared)
    assert np.array_equal(result.mask, prepared.image[0] == 120)
    assert result.mask.dtype == np.bool_
    assert result.scores[2, 1, 2] == pytest.approx(0.598688, abs=1e-5)
    assert result.scores[0, 0, 0] == pytest.approx(0.268941, abs=1e-5)


@pytest.mark.parametrize(("threshold", "num_voxels"), [(0.25, 216), (0.5, 24), (0.6, 0)])
def test_the_recipes_threshold_decides(threshold: float, num_voxels: int) -> None:
    recipe = RECIPE.model_copy(update={"inference": InferenceConfig(threshold=threshold)})
    assert run(case(), recipe).mask.sum() == num_voxels


def test_the_mask_lies_on_the_original_grid_with_nothing_outside_the_region() -> None:
    result = run(case(start=3))
    expected = np.zeros((12, 12, 12), bool)
    expected[5:7, 4:8, 5:8] = True
    assert np.array_equal(result.mask, expected)
    assert result.scores.shape == (6, 6, 6)


def test_flags_of_preparation_and_prediction_are_both_told() -> None:
    prepared = case(flags=("couch-cut",))
    assert run(prepared).flags == ("couch-cut",)
    blank = replace(prepared, image=np.full((1, 6, 6, 6), 50, np.int16))
    assert run(blank).flags == ("couch-cut", "stage1-empty")


@pytest.mark.parametrize(
    ("block", "region", "touches"),
    [
        (((3, 5), (3, 5), (3, 5)), ((2, 2, 2), (4, 4, 4)), False),
        (((2, 5), (3, 5), (3, 5)), ((2, 2, 2), (4, 4, 4)), True),
        (((3, 5), (3, 6), (3, 5)), ((2, 2, 2), (4, 4, 4)), True),
        (((3, 5), (3, 5), (3, 6)), ((2, 2, 2), (4, 4, 4)), True),
        (((0, 5), (3, 5), (3, 5)), ((0, 2, 2), (6, 4, 4)), False),  # where the image ends, so does the tumour
        (((3, 5), (3, 5), (3, 8)), ((2, 2, 2), (4, 4, 6)), False),
        (((3, 5), (3, 5), (3, 8)), ((-2, -2, -2), (12, 12, 12)), False),  # a padded small image
        (((7, 8), (3, 5), (3, 5)), ((2, 2, 2), (4, 4, 4)), False),  # beside the region
    ],
)
def test_a_mask_touches_a_side_of_the_crop_where_the_image_goes_on(block: Any, region: Any, touches: bool) -> None:
    mask = np.zeros((8, 8, 8), bool)
    mask[tuple(slice(*part) for part in block)] = True
    assert touches_side(mask, region) is touches


def test_a_tumour_cut_by_the_crop_of_stage_2_is_flagged() -> None:
    """The block is 2 x 4 x 3 voxels; a crop of 6 x 6 x 6 is all of the image, one of 2 x 4 x 2 cuts it."""
    flags = {}
    for size in ((6, 6, 6), (2, 4, 2)):
        network = NetworkConfig(widths=(2, 4), strides=((1, 1, 1),), aspp=None)
        inference = InferenceConfig(threshold=0.55, fusion="paper")
        recipe = RECIPE.model_copy(
            update={"stage2": StageConfig(network=network, patch_size=size), "inference": inference}
        )
        networks = {"stage1": Identity(), "stage2": Identity()}
        flags[size] = segment(case(), networks, recipe, NORMALISATION, torch.device("cpu")).flags
    assert flags == {(6, 6, 6): (), (2, 4, 2): (EXCEEDS_CROP, TOUCHES_CROP)}
