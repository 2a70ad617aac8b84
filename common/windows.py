"""Sliding windows: where they lie, and the mean of a network's scores over them (paper, section 2.E).

Windows may leave the volume: what lies outside is normalised air, and scores outside are dropped. Along an axis shorter
than the patch the volume lies in the window's middle, as in training (`sampling.inside`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.config import Triple
from common.device import autocast
from common.errors import WorkError
from common.sampling import cut

Scores = NDArray[np.float32]


def tile(start: Triple, size: Triple, patch_size: Triple, overlap: float) -> tuple[Triple, ...]:
    """Returns where windows begin that cover the box at `start` of `size`, which is nowhere shorter than a patch.

    Neighbours overlap by the share `overlap` of a patch along each axis; the last is moved back to end with the box.
    """
    axes = [_steps(s, n, p, overlap) for s, n, p in zip(start, size, patch_size, strict=True)]
    return tuple((z, y, x) for z, y, x in product(*axes))


def _steps(start: int, size: int, patch: int, overlap: float) -> list[int]:
    stride = max(1, int(patch * (1 - overlap) + 0.5))
    return [*range(start, start + size - patch, stride), start + size - patch]


def mean_scores(
    image: NDArray[Any],
    network: nn.Module,
    patch_size: Triple,
    starts: Sequence[Triple],
    *,
    air: float,
    device: torch.device,
    precision: Literal["auto", "bf16", "off"] = "off",
    batch_size: int = 1,
) -> Scores:
    """Returns the plain mean of the sigmoid scores of all windows over each voxel, 0 where there is none.

    Args:
        image: (C, z, y, x), normalised.
        network: on `device`; runs in evaluation mode, and leaves in the mode it came in.
        patch_size: of every window.
        starts: first voxel of each window.
        air: fills what lies outside the volume.
        device: where the network computes; sums are fp32 on the CPU.
        precision: of the forward pass, see `device.autocast`.
        batch_size: windows a forward pass.

    Returns:
        (z, y, x) float32 in 0..1.

    Raises:
        WorkError: a score is not a number.
    """
    shape = image.shape[-3:]
    total, count = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    with evaluating(network), torch.inference_mode(), autocast(device, precision):
        for first in range(0, len(starts), batch_size):
            batch = starts[first : first + batch_size]
            windows = np.stack([cut(image, start, patch_size, air) for start in batch]).astype(np.float32, copy=False)
            scores = network(torch.from_numpy(windows).to(device))[:, 0].float().sigmoid().cpu().numpy()
            for start, window in zip(batch, scores, strict=True):
                inner, outer = _common_part(start, patch_size, shape)
                total[outer] += window[inner]
                count[outer] += 1
    if not np.isfinite(total).all():
        raise WorkError("scores: not numbers, the weights have diverged; use an earlier round or a lower lr0")
    total /= np.maximum(count, 1)
    return total


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switches dropout off inside."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _common_part(start: Triple, size: Triple, shape: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What window and volume share: as slices of the window, and of the volume."""
    ends = [(max(s, 0), max(min(s + p, n), 0)) for s, p, n in zip(start, size, shape, strict=True)]
    inner = tuple(slice(low - s, max(high, low) - s) for (low, high), s in zip(ends, start, strict=True))
    return inner, tuple(slice(low, max(high, low)) for low, high in ends)
