"""The cascade with known logits: centroid, crop, both fusions, borders, small volumes; the recipes that use it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.cascade import EXCEEDS_CROP, STAGE1_EMPTY, predict
from common.networks import build_network, initialise
from common.recipe import InferenceConfig, NetworkConfig, Recipe, StageConfig
from common.settings import load_yaml

torch.set_num_threads(1)
CPU = torch.device("cpu")
RECIPES = Path(__file__).parents[1] / "configs" / "recipes"
NETWORK = NetworkConfig(widths=(2, 2), strides=((2, 2, 2),), aspp=None)
AIR = -3.0
LIMIT = 1 / (1 + np.exp(-8.0))  # the score of logit 8, and 1 - it of -8


class Channel(nn.Module):
    """Gives one channel of its input as logits, and counts its windows."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel
        self.num_windows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_windows += 1
        return x[:, self.channel : self.channel + 1]


def recipe(fusion: str = "safe", patch2: tuple[int, int, int] = (4, 4, 4), **inference: object) -> Recipe:
    return Recipe(
        stage1=StageConfig(network=NETWORK, patch_size=(8, 8, 8)),
        stage2=StageConfig(network=NETWORK, patch_size=patch2),
        inference=InferenceConfig(fusion=fusion, **inference),
    )


def blobs(shape: tuple[int, int, int], *boxes: tuple[slice, slice, slice]) -> NDArray[np.float32]:
    """Two channels of logits: stage 1 finds the boxes, stage 2 is sure everywhere."""
    image = np.full((2, *shape), -8.0, np.float32)
    for box in boxes:
        image[(0, *box)] = 8.0
    image[1] = 8.0
    return image


def networks() -> dict[str, nn.Module]:
    return {"stage1": Channel(0), "stage2": Channel(1)}


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return 1 / (1 + np.exp(-logits))


def expected(image: NDArray[np.float32], box: tuple[slice, slice, slice], weight: float = 0.5) -> NDArray[np.float32]:
    """(1 - w) S1 + w S2, S2 only in `box`."""
    scores = (1 - weight) * sigmoid(image[0])
    scores[box] += weight * sigmoid(image[1][box])
    return scores


@pytest.mark.parametrize("fusion", ["paper", "safe"])
def test_a_small_tumour_takes_one_crop_round_its_centroid(fusion: str) -> None:
    image = blobs((16, 18, 20), (slice(5, 8), slice(9, 12), slice(11, 14)), (slice(0, 1), slice(0, 2), slice(0, 2)))
    nets = networks()
    result = predict(image, nets, recipe(fusion), AIR, CPU)
    assert result.centroid == (6, 10, 12)
    assert result.flags == ()
    assert np.allclose(result.scores, expected(image, np.s_[4:8, 8:12, 10:14]), atol=1e-6)
    assert result.scores.dtype == np.float32
    assert nets["stage2"].num_windows == 1
    assert nets["stage1"].num_windows == 3 * 4 * 4  # starts 0 4 8; 0 4 8 10; 0 4 8 12
    assert result.scores[0, 0, 0] < 0.6  # the smaller component lies outside the crop


def test_the_weight_is_that_of_stage_2() -> None:
    image = blobs((8, 8, 8), np.s_[3:5, 3:5, 3:5])
    result = predict(image, networks(), recipe(stage2_weight=0.25), AIR, CPU)
    assert np.allclose(result.scores, expected(image, np.s_[2:6, 2:6, 2:6], 0.25), atol=1e-6)


def test_the_crop_is_shifted_inside_at_a_border() -> None:
    image = blobs((10, 10, 10), np.s_[0:2, 9:10, 4:6])
    result = predict(image, networks(), recipe(), AIR, CPU)
    assert result.centroid == (0.5, 9, 4.5)
    assert result.flags == ()
    assert np.allclose(result.scores, expected(image, np.s_[0:4, 6:10, 2:6]), atol=1e-6)


def test_paper_cuts_a_large_tumour_and_says_so() -> None:
    tumour = np.s_[6:9, 6:9, 2:14]
    image = blobs((16, 16, 16), tumour)
    result = predict(image, networks(), recipe("paper"), AIR, CPU)
    assert result.flags == (EXCEEDS_CROP,)
    assert np.allclose(result.scores, expected(image, np.s_[5:9, 5:9, 6:10]), atol=1e-6)
    assert (result.scores >= 0.6).sum() == 3 * 3 * 4  # of 3 x 3 x 12


def test_safe_tiles_the_large_tumour_with_its_margin() -> None:
    tumour = np.s_[6:9, 6:9, 2:14]
    image = blobs((16, 16, 24), tumour)
    nets = networks()
    result = predict(image, nets, recipe("safe"), AIR, CPU)
    assert result.flags == (EXCEEDS_CROP,)
    region = np.s_[2:13, 2:13, 0:18]  # component and 4 voxels, inside the volume
    assert np.allclose(result.scores, expected(image, region), atol=1e-6)
    assert (result.scores[tumour] >= 0.6).all()
    assert nets["stage2"].num_windows == 5 * 5 * 8


def test_windows_of_stage_2_are_averaged() -> None:
    """A ramp over the window tells windows apart: each voxel is the mean of those that hold it."""

    class Ramp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.arange(4.0).expand(x.shape[0], 1, 4, 4, 4)

    image = blobs((4, 4, 6), np.s_[0:4, 0:4, 0:6])
    nets = {"stage1": Channel(0), "stage2": Ramp()}
    result = predict(image, nets, recipe("safe"), AIR, CPU)
    ramp = sigmoid(np.arange(4, dtype=np.float32))  # windows start at x = 0 and 2
    by_hand = [ramp[0], ramp[1], (ramp[2] + ramp[0]) / 2, (ramp[3] + ramp[1]) / 2, ramp[2], ramp[3]]
    assert np.allclose(result.scores[1, 2], 0.5 * LIMIT + 0.5 * np.array(by_hand), atol=1e-6)


def test_an_empty_stage_1_goes_to_its_maximum() -> None:
    image = blobs((12, 12, 12))
    image[0, 3:5, 3:5, 3:5] = -1.0
    image[0, 8:11, 8:11, 8:11] = -1.5
    result = predict(image, networks(), recipe(), AIR, CPU)
    assert result.flags == (STAGE1_EMPTY,)
    assert result.centroid == (3.5, 3.5, 3.5)
    assert np.allclose(result.scores, expected(image, np.s_[2:6, 2:6, 2:6]), atol=1e-6)


def test_a_blank_image_still_gives_scores() -> None:
    nets = networks()
    result = predict(blobs((12, 12, 12)), nets, recipe(), AIR, CPU)
    assert result.flags == (STAGE1_EMPTY,)
    assert result.centroid == (5.5, 5.5, 5.5)
    assert nets["stage2"].num_windows == 1


@pytest.mark.parametrize("shape", [(3, 5, 2), (9, 3, 30), (1, 1, 1)])
def test_volumes_smaller_than_a_patch(shape: tuple[int, int, int]) -> None:
    image = blobs(shape, np.s_[0:1, 0:1, 0:1])
    result = predict(image, networks(), recipe(patch2=(4, 8, 8)), AIR, CPU)
    assert result.scores.shape == shape
    assert result.centroid == (0, 0, 0)
    assert np.allclose(result.scores, expected(image, np.s_[0:4, 0:8, 0:8]), atol=1e-6)


def test_without_stage_2_the_scores_are_those_of_stage_1() -> None:
    image = blobs((9, 10, 11), np.s_[3:5, 3:5, 3:5])
    single = recipe().model_copy(update={"stage2": None})
    result = predict(image, {"stage1": Channel(0)}, single, AIR, CPU)
    assert np.allclose(result.scores, sigmoid(image[0]), atol=1e-6)
    assert result.centroid == (3.5, 3.5, 3.5)


def test_precision_is_the_recipes_unless_given() -> None:
    class Dtype(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.mm(x[0, 0, 0, :2, :2], x[0, 0, 0, :2, :2]).dtype)
            return x

    seen: list[torch.dtype] = []
    single = recipe().model_copy(update={"stage2": None})
    image = np.zeros((1, 8, 8, 8), np.float32)
    off = single.model_copy(update={"training": single.training.model_copy(update={"autocast": "off"})})
    predict(image, {"stage1": Dtype()}, off, AIR, CPU)
    predict(image, {"stage1": Dtype()}, off, AIR, CPU, "bf16")
    assert seen == [torch.float32, torch.bfloat16]


def test_the_full_recipe_is_the_default() -> None:
    assert load_yaml(RECIPES / "cmdr_unet.yaml", Recipe) == Recipe()


@pytest.mark.parametrize(
    ("name", "stages", "pyramid"),
    [
        ("cmdr_unet", ["stage1", "stage2"], True),
        ("mdr_unet", ["stage1"], True),
        ("res_unet", ["stage1"], False),
        ("small_cmdr_unet", ["stage1", "stage2"], True),
    ],
)
def test_recipes_load(name: str, stages: list[str], pyramid: bool) -> None:
    loaded = load_yaml(RECIPES / f"{name}.yaml", Recipe)
    assert list(loaded.stages) == stages
    assert (loaded.stage1.network.aspp is not None) == pyramid
    assert loaded.inference.threshold == (0.6 if loaded.stage2 else 0.5)


def test_the_small_recipe_runs_end_to_end() -> None:
    loaded = load_yaml(RECIPES / "small_cmdr_unet.yaml", Recipe)
    small = loaded.model_copy(
        update={"inference": InferenceConfig(fusion="paper")}
    )  # one crop: untrained, all is tumour
    nets = {stage: build_network(config.network, config.patch_size) for stage, config in small.stages.items()}
    for network in nets.values():
        initialise(network, 1)
        assert sum(parameter.numel() for parameter in network.parameters()) < 2_000_000
    image = np.random.default_rng(1).normal(size=(1, 20, 30, 50)).astype(np.float32)
    first, second = (predict(image, nets, small, AIR, CPU, "off") for _ in range(2))
    assert first.scores.shape == (20, 30, 50)
    assert np.array_equal(first.scores, second.scores)
    assert 0 <= first.scores.min() <= first.scores.max() <= 1
