"""Memory that a recipe needs, counted by hand where a hand can."""

import pytest
import torch
from torch import nn

from common.footprint import host_bytes, kept_bytes, stage_bytes, training_bytes, weight_bytes
from common.recipe import NetworkConfig, Recipe, StageConfig

MIB, GIB = 2**20, 2**30


def test_the_papers_recipe_needs_what_is_known_of_it():
    """docs/algorithm.md: 93.4 M and 145.2 M parameters; fp32 activations of about 4.0 and 0.75 GiB."""
    recipe = Recipe()
    assert weight_bytes(recipe) == pytest.approx(4 * 238.6e6, rel=1e-3)
    with torch.device("meta"):
        pass
    assert training_bytes(recipe) == pytest.approx(1.25 * (910 * MIB + 2 * 356 * MIB + 3.957 * GIB), rel=0.01)
    assert host_bytes(recipe, on_cpu=False) == 4 * weight_bytes(recipe)
    assert host_bytes(recipe, on_cpu=True) == 4 * weight_bytes(recipe) + training_bytes(recipe)


def test_a_stage_alone_needs_no_room_for_the_other_s_weights():
    recipe = Recipe()
    assert stage_bytes(recipe, "stage1", 1) == pytest.approx(1.25 * (3 * 356 * MIB + 3.957 * GIB), rel=0.01)
    alone = recipe.model_copy(update={"stage2": None})
    assert stage_bytes(alone, "stage1", 1) == training_bytes(alone)


def test_devices_that_part_a_batch_hold_less_of_it():
    training = Recipe().training.model_copy(update={"batch_size": 4, "accumulation": 1})
    recipe = Recipe(training=training, stage2=None)
    one, two, four = (stage_bytes(recipe, "stage1", num_devices) for num_devices in (1, 2, 4))
    assert one - two == pytest.approx(2 * (two - four), abs=2)
    assert four == stage_bytes(Recipe(stage2=None), "stage1", 2)  # of batches of one, a device has whole ones


def test_kept_are_the_tensors_that_backward_reads():
    """Two 1 x 1 x 1 convolutions and a sigmoid between: kept are the input, and the sigmoid's output."""
    stage = StageConfig(network=NetworkConfig(widths=(2, 2), strides=((2, 2, 2),), aspp=None), patch_size=(4, 6, 8))
    with torch.device("meta"):
        network = nn.Sequential(nn.Conv3d(1, 5, 1), nn.Sigmoid(), nn.Conv3d(5, 1, 1))
    voxels = 4 * 6 * 8
    assert kept_bytes(network, stage, 1) == 4 * voxels * (1 + 5)
    assert kept_bytes(network, stage, 3) == 3 * 4 * voxels * (1 + 5)
    both = kept_bytes(network, stage, 1)
    assert both == kept_bytes(network, stage, 1)


def test_dropout_and_one_stage_are_no_obstacle():
    recipe = Recipe(stage1=Recipe().stage2, stage2=None)
    assert weight_bytes(recipe) == pytest.approx(4 * 145.2e6, rel=1e-3)
    assert training_bytes(recipe) < training_bytes(Recipe())
