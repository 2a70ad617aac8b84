"""Models: weights from a seed, there and back, refused by name where they are another network's."""

import numpy as np
import pytest
import torch

from common.checkpoint import Weights
from common.errors import CheckpointError
from common.model import build_model, load_model, model_weights
from common.recipe import NetworkConfig, Recipe, StageConfig

torch.set_num_threads(1)
CPU = torch.device("cpu")


def recipe(width: int = 2, cascade: bool = True) -> Recipe:
    network = NetworkConfig(widths=(width, 4), strides=((2, 2, 2),), aspp=None)
    stage = StageConfig(network=network, patch_size=(8, 8, 8))
    return Recipe(stage1=stage, stage2=stage if cascade else None)


def same(one: Weights, two: Weights) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_the_same_seed_gives_the_same_weights_whatever_torch_drew_before() -> None:
    first = model_weights(build_model(recipe(), 3))
    torch.manual_seed(12)
    assert same(first, model_weights(build_model(recipe(), 3)))
    assert not same(first, model_weights(build_model(recipe(), 4)))


def test_stages_and_neighbouring_seeds_share_no_weights() -> None:
    made = [model_weights(build_model(recipe(), seed)) for seed in range(3)]
    kernels = [weights[name].tobytes() for weights in made for name in weights if name.endswith("encoder.1.0.0.weight")]
    assert len(kernels) == 6
    assert len(set(kernels)) == 6


def test_weights_are_fp32_copies_under_their_stages_prefix() -> None:
    networks = build_model(recipe(), 1)
    networks["stage2"].to(torch.bfloat16)
    weights = model_weights(networks)
    assert {name.split(".")[0] for name in weights} == {"stage1", "stage2"}
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    before = {name: value.copy() for name, value in weights.items()}
    with torch.no_grad():
        for parameter in networks["stage1"].parameters():
            parameter.add_(1.0)
    assert same(weights, before)


@pytest.mark.parametrize("cascade", [True, False])
def test_there_and_back(cascade: bool) -> None:
    made = recipe(cascade=cascade)
    weights = model_weights(build_model(made, 7))
    assert same(model_weights(load_model(made, weights, CPU)), weights)


def test_another_networks_weights_are_refused_by_name() -> None:
    with pytest.raises(CheckpointError, match=r"another network: stage1\.encoder.*shape \(2, .*expected \(3, "):
        load_model(recipe(3), model_weights(build_model(recipe(2))), CPU)


def test_a_single_stages_weights_are_refused_for_a_cascade() -> None:
    with pytest.raises(CheckpointError, match=r"another network: stage2\..* is missing; use the recipe"):
        load_model(recipe(), model_weights(build_model(recipe(cascade=False))), CPU)


def test_a_renamed_weight_is_refused() -> None:
    weights = model_weights(build_model(recipe()))
    weights["stage1.other"] = np.zeros(1, np.float32)
    with pytest.raises(CheckpointError, match=r"stage1\.other is not part of this network"):
        load_model(recipe(), weights, CPU)


def test_a_cascades_weights_are_refused_without_a_cascade() -> None:
    with pytest.raises(CheckpointError, match=r"stage2\..* is not part of this model"):
        load_model(recipe(cascade=False), model_weights(build_model(recipe())), CPU)
