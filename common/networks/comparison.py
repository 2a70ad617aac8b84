"""MONAI's networks of the paper's Table 2, made to fit beside the others: instance norm, no lost biases, one logit out.

[C] Batch norm becomes instance norm, as a batch is one patch. A convolution that a norm follows has no bias, which the
norm would take away again. Neither has dropout. MONAI is imported here alone, where one of the two is asked for.
"""

from typing import cast

import torch
from torch import Tensor, nn

from common.networks.blocks import LEAK
from common.recipe import NetworkConfig
from common.settings import Triple


class AttentionUNet(nn.Module):
    """3D Attention U-Net (Oktay et al., arXiv 1804.03999) of any number of levels."""

    def __init__(self, config: NetworkConfig, patch_size: Triple) -> None:
        """`patch_size` is not looked at: `StageConfig` has checked that the strides divide it."""
        super().__init__()
        from monai.networks.nets import AttentionUnet

        self.network = AttentionUnet(3, config.in_channels, 1, channels=config.widths, strides=config.strides)
        _normalise_instances(self.network)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in_channels, z, y, x) normalised intensities to (b, 1, z, y, x) logits."""
        return cast(Tensor, self.network(x))


class UNetPlusPlus(nn.Module):
    """3D UNet++ (Zhou et al., arXiv 1807.10165) of five levels, in its "accurate mode": the mean of four outputs."""

    def __init__(self, config: NetworkConfig, patch_size: Triple) -> None:
        """`patch_size` is not looked at: `StageConfig` has checked that the strides divide it."""
        super().__init__()
        from monai.networks.nets import BasicUNetPlusPlus

        self.network = BasicUNetPlusPlus(
            3,
            config.in_channels,
            1,
            features=(*config.widths, config.widths[0]),
            deep_supervision=True,
            act=("LeakyReLU", {"negative_slope": LEAK, "inplace": True}),
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(b, in_channels, z, y, x) normalised intensities to (b, 1, z, y, x) logits."""
        return torch.stack(self.network(x)).mean(dim=0)


def _normalise_instances(network: nn.Module) -> None:
    """Puts an affine instance norm in every norm's place, and takes the bias of the convolution before it."""
    before: nn.Module | None = None
    for owner, name, layer in [*_leaves(network)]:
        if isinstance(layer, nn.BatchNorm3d | nn.InstanceNorm3d):
            setattr(owner, name, nn.InstanceNorm3d(layer.num_features, affine=True))
            if isinstance(before, nn.Conv3d | nn.ConvTranspose3d):
                before.bias = None
        before = layer


def _leaves(module: nn.Module) -> "list[tuple[nn.Module, str, nn.Module]]":
    """Every layer without layers of its own: its owner, its name there, itself; in the order of definition."""
    found: list[tuple[nn.Module, str, nn.Module]] = []
    for name, child in module.named_children():
        found += _leaves(child) if next(child.children(), None) is not None else [(module, name, child)]
    return found
