"""Building blocks of the networks: Conv-block, Res-block and atrous pyramid (paper, section 2.D).

Shapes: b batch, c channels, (z, y, x) space. A level's `map_size` is the size of its feature maps when the network
sees a whole patch; norms and dilation rates depend on it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.networks.dropout import Dropout
from common.recipe import AsppConfig
from common.settings import Triple

LEAK = 0.01
"""[C] Negative slope of every leaky ReLU."""
CUBE: Triple = (3, 3, 3)
POINT: Triple = (1, 1, 1)
UNIT: Triple = (1, 1, 1)


def times(a: Triple, b: Triple) -> Triple:
    """Returns the product along each axis."""
    return (a[0] * b[0], a[1] * b[1], a[2] * b[2])


def divided(a: Triple, b: Triple) -> Triple:
    """Returns the whole quotient along each axis."""
    return (a[0] // b[0], a[1] // b[1], a[2] // b[2])


def activation() -> nn.Module:
    """Leaky ReLU in place: the norm before it keeps its own input for the backward pass, so nothing is lost."""
    return nn.LeakyReLU(LEAK, inplace=True)


def normalisation(channels: int, map_size: Triple) -> nn.Module:
    """Affine instance norm; over the channels where a map has a single voxel.

    Instance norm of one voxel is zero whatever the voxel holds, and torch refuses it while training.
    """
    if math.prod(map_size) == 1:
        return nn.GroupNorm(1, channels)
    return nn.InstanceNorm3d(channels, affine=True)


def convolution(
    in_channels: int, out_channels: int, kernel: Triple, stride: Triple = UNIT, dilation: Triple = UNIT
) -> nn.Conv3d:
    """A convolution that keeps the size (divides it by the stride); no bias, for a norm follows it."""
    padding = (dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2), dilation[2] * (kernel[2] // 2))
    return nn.Conv3d(in_channels, out_channels, kernel, stride, padding, dilation, bias=False)


class ConvBlock(nn.Sequential):
    """(Strided or dilated) convolution, instance norm, leaky ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Triple,
        map_size: Triple,
        *,
        stride: Triple = UNIT,
        dilation: Triple = UNIT,
    ) -> None:
        """`map_size` is that of the output."""
        super().__init__(
            convolution(in_channels, out_channels, kernel, stride, dilation),
            normalisation(out_channels, map_size),
            activation(),
        )


class ResBlock(nn.Module):
    """Conv, norm, act, conv, norm, plus identity, act [C]."""

    def __init__(self, channels: int, kernel: Triple, map_size: Triple) -> None:
        super().__init__()
        self.inner = ConvBlock(channels, channels, kernel, map_size)
        self.outer = nn.Sequential(convolution(channels, channels, kernel), normalisation(channels, map_size))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, z, y, x) to the same shape."""
        result: Tensor = self.activation(self.outer(self.inner(x)) + x)
        return result


class ImagePooling(nn.Module):
    """The mean over the map through a 1 x 1 convolution, spread over the map again (ASPP v3+, arXiv 1802.02611).

    It has a bias instead of a norm: the norm of a single voxel is constant.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(in_channels, out_channels, POINT)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, z, y, x) to (b, out_channels, z, y, x), constant over space."""
        pooled: Tensor = self.activation(self.convolution(x.mean(dim=(2, 3, 4), keepdim=True)))
        return pooled.expand(-1, -1, *x.shape[2:])


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: a 1 x 1 and dilated 3 x 3 x 3 branches, concatenated and projected.

    Every branch is a quarter as wide as the input [C]: this gives the known 93.4 M and 145.2 M parameters. It is at
    least `min_width` wide, which matters to small networks alone.
    """

    def __init__(self, channels: int, dilations: Sequence[Triple], map_size: Triple, config: AsppConfig) -> None:
        super().__init__()
        width = max(config.min_width, channels // 4)
        branches: list[nn.Module] = [ConvBlock(channels, width, POINT, map_size)]
        branches += [ConvBlock(channels, width, CUBE, map_size, dilation=dilation) for dilation in dilations]
        if config.image_pooling:
            branches.append(ImagePooling(channels, width))
        self.branches = nn.ModuleList(branches)
        self.projection = ConvBlock(width * len(branches), channels, POINT, map_size)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, z, y, x) to the same shape."""
        result: Tensor = self.dropout(self.projection(torch.cat([branch(x) for branch in self.branches], dim=1)))
        return result


def dilation_rates(rates: Sequence[int], remaining: Triple, map_size: Triple) -> tuple[Triple, ...]:
    """Returns each rate as a (z, y, x) dilation [C].

    An axis that is downsampled less below this level has coarser voxels here: its rate shrinks in proportion. A rate
    is clamped to (n - 1) // 2 of the n voxels along its axis, beyond which the outer taps see only padding; at
    least 1.

    Args:
        rates: in voxels of the finest axis.
        remaining: product of the strides below this level.
        map_size: of this level.
    """
    finest = max(remaining)

    def along(rate: int, axis: int) -> int:
        scaled = math.floor(rate * remaining[axis] / finest + 0.5)
        return max(1, min(scaled, (map_size[axis] - 1) // 2))

    return tuple((along(rate, 0), along(rate, 1), along(rate, 2)) for rate in rates)
