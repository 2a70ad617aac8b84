"""Maps of the finest skip connection by forward hooks: shapes, values, and a network that is left as it was."""

import numpy as np
import torch

from common.feature_maps import skip_maps
from common.networks import build_network, initialise
from common.recipe import AsppConfig, NetworkConfig

PATCH = (8, 8, 8)
CPU = torch.device("cpu")


def network(aspp):
    config = NetworkConfig(widths=(3, 4), strides=((2, 2, 2),), aspp=aspp, encoder_dropout=0.5)
    made = build_network(config, PATCH)
    initialise(made, 1)
    return made


def patch():
    return np.random.default_rng(0).normal(size=(1, *PATCH)).astype(np.float32)


def test_with_an_aspp_there_are_two_maps_of_the_patch_s_size():
    made = network(AsppConfig())
    maps = skip_maps(made, patch(), CPU)
    assert maps.before.shape == maps.after.shape == (3, *PATCH)
    with torch.inference_mode():
        made.eval()
        before = made.encoder[0](torch.from_numpy(patch()[None]))
        np.testing.assert_array_equal(maps.before, before[0].numpy())
        np.testing.assert_array_equal(maps.after, made.skips[0](before)[0].numpy())


def test_without_an_aspp_there_is_one():
    maps = skip_maps(network(None), patch(), CPU)
    assert (maps.before.shape, maps.after) == ((3, *PATCH), None)


def test_a_network_that_never_gets_smaller_has_none():
    assert skip_maps(torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.ReLU()), patch(), CPU) is None


def test_no_hook_stays_and_dropout_is_on_again():
    made = network(None).train()
    skip_maps(made, patch(), CPU)
    assert not any(module._forward_hooks for module in made.modules())
    assert all(module.training for module in made.modules())
