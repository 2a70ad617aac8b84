"""VoxResNet (Chen et al., arXiv 1608.05895, figure 2): a residual encoder whose levels vote; the paper's "3D CNN".

[C] Where it departs from that paper: instance norm for batch norm, as a batch is one patch; the leaky ReLU of the
other networks; the votes are trained by their sum alone, without a loss of their own.
"""

from itertools import accumulate

from torch import Tensor, nn

from common.networks.blocks import (
    CUBE,
    POINT,
    UNIT,
    ConvBlock,
    activation,
    convolution,
    divided,
    normalisation,
    times,
)
from common.recipe import NetworkConfig
from common.settings import Triple

FLAT: Triple = (1, 3, 3)


class VoxRes(nn.Module):
    """Norm, act, 1 x 3 x 3, norm, act, 3 x 3 x 3, plus identity."""

    def __init__(self, channels: int, map_size: Triple) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            normalisation(channels, map_size),
            activation(),
            convolution(channels, channels, FLAT),
            normalisation(channels, map_size),
            activation(),
            convolution(channels, channels, CUBE),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, z, y, x) to the same shape."""
        result: Tensor = self.inner(x) + x
        return result


class VoxResNet(nn.Module):
    """Two convolutions on the patch's grid, then for every stride a strided one and two VoxRes modules.

    Each level's maps go through a transposed convolution (kernel and stride: the level's downsampling, to the first
    width [C]) and a 1 x 1 x 1 classifier; the logit is the classifiers' sum.
    """

    def __init__(self, config: NetworkConfig, patch_size: Triple) -> None:
        super().__init__()
        widths, first = config.widths, config.widths[0]
        downsampling = list(accumulate(config.strides, times, initial=UNIT))
        sizes = [divided(patch_size, factor) for factor in downsampling]
        self.stem = nn.Sequential(
            ConvBlock(config.in_channels, first, CUBE, patch_size), ConvBlock(first, first, FLAT, patch_size)
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                convolution(widths[i], widths[i + 1], CUBE, stride),
                VoxRes(widths[i + 1], sizes[i + 1]),
                VoxRes(widths[i + 1], sizes[i + 1]),
                normalisation(widths[i + 1], sizes[i + 1]),
                activation(),
            )
            for i, stride in enumerate(config.strides)
        )
        self.ups = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose3d(width, first, factor, factor, bias=False), activation())
            for width, factor in zip(widths[1:], downsampling[1:], strict=True)
        )
        self.classifiers = nn.ModuleList(nn.Conv3d(first, 1, POINT) for _ in widths)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in_channels, z, y, x) normalised intensities to (b, 1, z, y, x) logits."""
        x = self.stem(x)
        logits: Tensor = self.classifiers[0](x)
        for level, up, classifier in zip(self.levels, self.ups, self.classifiers[1:], strict=True):
            x = level(x)
            logits = logits + classifier(up(x))
        return logits
