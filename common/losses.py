"""The training loss: cross-entropy plus soft Dice (paper, section 3.A.1)."""

import torch
from torch import Tensor
from torch.nn import functional

SMOOTH = 1.0
"""[C] Added to the Dice ratio's numerator and denominator, in voxels: a patch without tumour has a gradient too."""


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Returns mean cross-entropy plus mean soft Dice loss, a fp32 scalar, in fp32 even inside autocast.

    Args:
        logits: (b, 1, z, y, x), any floating dtype.
        target: same shape, 0 or 1 (or a probability), any dtype.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.float(), target.float()
        cross_entropy = functional.binary_cross_entropy_with_logits(logits, target)
        return cross_entropy + soft_dice_loss(logits.sigmoid(), target)


def soft_dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    """Returns 1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s), over each sample's voxels, then averaged over samples.

    s is `SMOOTH`. Nothing predicted and nothing there: 0.
    """
    p, t = probabilities.flatten(1), target.flatten(1)
    overlap = (p * t).sum(1)
    return (1 - (2 * overlap + SMOOTH) / (p.sum(1) + t.sum(1) + SMOOTH)).mean()
