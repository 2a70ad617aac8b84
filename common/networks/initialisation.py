"""Kaiming-normal initialisation from a seed, the same on every device and independent of torch's global generator."""

import math

import torch
from torch import nn

from common.networks.blocks import LEAK


@torch.no_grad()
def initialise(module: nn.Module, seed: int) -> None:
    """Sets every weight in place: convolutions Kaiming normal (paper, section 3.A.1), biases 0, norms 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d | nn.ConvTranspose3d):
            sd = math.sqrt(2 / (1 + LEAK**2) / _fan_in(layer))
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * sd)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, nn.InstanceNorm3d | nn.GroupNorm):
            layer.weight.fill_(1.0)
            layer.bias.zero_()


def _fan_in(layer: nn.Conv3d | nn.ConvTranspose3d) -> float:
    """Inputs of one output voxel; of a transposed kernel, their mean: the channels where it equals its stride."""
    num_inputs = layer.in_channels * math.prod(layer.kernel_size)
    return num_inputs / math.prod(layer.stride) if isinstance(layer, nn.ConvTranspose3d) else num_inputs
