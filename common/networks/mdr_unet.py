"""MDR-UNet (paper, section 2.D): encoder and decoder of Conv- and Res-blocks, ASPP in every skip connection.

Without the ASPP it is the Res-UNet.
"""

from itertools import accumulate

import torch
from torch import Tensor, nn

from common.networks.blocks import CUBE, POINT, UNIT, Aspp, ConvBlock, ResBlock, dilation_rates, divided, times
from common.networks.dropout import Dropout
from common.recipe import NetworkConfig
from common.settings import Triple


class MdrUNet(nn.Module):
    """Six levels by default: six encoder and five decoder Res-blocks, five ASPP blocks, one logit.

    `patch_size` fixes dilation rates and norms; other sizes run as long as the strides divide them.
    """

    def __init__(self, config: NetworkConfig, patch_size: Triple) -> None:
        super().__init__()
        widths = config.widths
        num_levels = len(widths)
        downsampling = list(accumulate(config.strides, times, initial=UNIT))
        sizes = [divided(patch_size, factor) for factor in downsampling]
        kernels = [config.first_kernel, *[CUBE] * (num_levels - 1)]
        inputs = [config.in_channels, *widths[:-1]]
        strides = [UNIT, *config.strides]
        self.encoder = nn.ModuleList(
            nn.Sequential(
                ConvBlock(inputs[i], widths[i], kernels[i], sizes[i], stride=strides[i]),
                ResBlock(widths[i], kernels[i], sizes[i]),
            )
            for i in range(num_levels)
        )
        self.dropout = Dropout(config.encoder_dropout)
        self.skips = nn.ModuleList(
            _skip(config, widths[i], divided(downsampling[-1], downsampling[i]), sizes[i])
            for i in range(num_levels - 1)
        )
        self.ups = nn.ModuleList(
            nn.ConvTranspose3d(widths[i + 1], widths[i], strides[i + 1], strides[i + 1], bias=False)
            for i in range(num_levels - 1)
        )
        self.decoder = nn.ModuleList(
            nn.Sequential(
                ConvBlock(2 * widths[i], widths[i], kernels[i], sizes[i]), ResBlock(widths[i], kernels[i], sizes[i])
            )
            for i in range(num_levels - 1)
        )
        self.head = nn.Conv3d(widths[0], 1, POINT)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in_channels, z, y, x) normalised intensities to (b, 1, z, y, x) logits."""
        maps: list[Tensor] = []
        for level in self.encoder:
            x = level(x)
            maps.append(x)
        x = self.dropout(maps.pop())
        for i in reversed(range(len(maps))):
            x = self.decoder[i](torch.cat([self.ups[i](x), self.skips[i](maps.pop())], dim=1))
        logits: Tensor = self.head(x)
        return logits


def _skip(config: NetworkConfig, channels: int, remaining: Triple, map_size: Triple) -> nn.Module:
    if config.aspp is None:
        return nn.Identity()
    return Aspp(channels, dilation_rates(config.aspp.rates, remaining, map_size), map_size, config.aspp)
