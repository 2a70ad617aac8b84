"""The networks: built from a configuration, initialised from a seed, counted."""

from collections.abc import Callable

import torch
from torch import nn

from common.networks.comparison import AttentionUNet, UNetPlusPlus
from common.networks.dropout import draw_whole_batches, seed_dropout
from common.networks.initialisation import initialise
from common.networks.mdr_unet import MdrUNet
from common.networks.voxresnet import VoxResNet
from common.recipe import NetworkConfig
from common.settings import Triple

__all__ = ["NETWORKS", "build_network", "count_parameters", "draw_whole_batches", "initialise", "seed_dropout"]
NETWORKS: dict[str, Callable[[NetworkConfig, Triple], nn.Module]] = {
    "mdr-unet": MdrUNet,
    "voxresnet": VoxResNet,
    "attention-unet": AttentionUNet,
    "unet++": UNetPlusPlus,
}
"""By `NetworkConfig.kind`."""


def build_network(config: NetworkConfig, patch_size: Triple) -> nn.Module:
    """Returns the network for patches of `patch_size` (z, y, x); call `initialise` for reproducible weights.

    It maps (b, in_channels, z, y, x) to logits (b, 1, z, y, x). The multiple that `patch_size` must be of is checked
    by `StageConfig`.
    """
    return NETWORKS[config.kind](config, patch_size)


def count_parameters(config: NetworkConfig, patch_size: Triple) -> int:
    """Returns how many numbers the network learns; it is laid out for that, but takes no memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(config, patch_size).parameters())
