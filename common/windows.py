"""Sliding windows: where they lie, and the mean of a network's scores over them (paper, section 2.E).

Windows may leave the volume: what lies outside is normalised air, and scores outside are dropped. Along an axis shorter
than the patch the volume lies in the window's middle, as in training (`sampling.inside`).
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.device import autocast
from common.errors import OutOfMemoryError, WorkError
from common.logs import LOGGER
from common.settings import Triple
from common.shortage import is_out_of_memory

log = logging.getLogger(LOGGER)
Scores = NDArray[np.float32]
Place = tuple[tuple[slice, ...], tuple[slice, ...]]
"""A part of a window, and the same voxels in the volume."""


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
    onto: Scores | None = None,
    weight: float = 1.0,
) -> Scores:
    """Returns the plain mean of the sigmoid scores of all windows over each voxel, 0 where there is none.

    Beside the forward passes, memory holds the one volume returned and a batch of windows: each window is added in the
    share that it has in the mean, so that there is neither a volume of counts nor one for each stage.

    Args:
        image: (C, z, y, x), normalised.
        network: on `device`; runs in evaluation mode, and leaves in the mode it came in.
        patch_size: of every window.
        starts: first voxel of each window, as `tile` gives them: each step along an axis with each along the others.
        air: fills what lies outside the volume.
        device: where the network computes; sums are fp32 on the CPU.
        precision: of the forward pass, see `device.autocast`.
        batch_size: windows a forward pass; half as many, and so on, where the device's memory is too small for them.
        onto: (z, y, x), the scores to which this mean is added in place; None: zeros.
        weight: factor on the mean.

    Returns:
        (z, y, x) float32 in 0..1: `onto` where it is given.

    Raises:
        WorkError: a score is not a number.
        OutOfMemoryError: not even one window fits into the device's memory.
    """
    shape = image.shape[-3:]
    total = np.zeros(shape, np.float32) if onto is None else onto
    shares = [_shares({start[axis] for start in starts}, patch_size[axis]) for axis in range(3)]
    with evaluating(network), torch.inference_mode(), autocast(device, precision):
        todo = list(starts)
        while todo:
            batch = todo[:batch_size]
            places = [_common_part(start, patch_size, shape) for start in batch]
            scores = _scores_if_they_fit(network, _windows(image, places, patch_size, air), device)
            if scores is None:
                batch_size = _smaller(len(batch), patch_size, device)
                continue
            factors = [[share[step] for share, step in zip(shares, start, strict=True)] for start in batch]
            _add(total, scores, places, factors, np.float32(weight))
            del todo[: len(batch)]
    if np.isnan(total.max()):
        raise WorkError("scores: not numbers, the weights have diverged; use an earlier round or a lower lr0")
    return np.minimum(total, 1, out=total)  # shares are rounded: three thirds may be more than one


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Switches dropout off inside; each module leaves in the mode it came in.

    A network already in evaluation mode is only looked through: `eval` and `train` set every module anew, and that took
    a third of all that a small network's forward passes do not.
    """
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _shares(steps: Collection[int], patch: int) -> dict[int, NDArray[np.float32]]:
    """Of the window at each step along an axis: one over the number of windows that hold each of its voxels."""
    covered = Counter(voxel for step in steps for voxel in range(step, step + patch))
    return {step: np.array([1 / covered[step + k] for k in range(patch)], np.float32) for step in steps}


def _windows(image: NDArray[Any], places: Sequence[Place], patch_size: Triple, air: float) -> Scores:
    """The batch (b, C, z, y, x) for a forward pass."""
    windows = np.full((len(places), image.shape[0], *patch_size), air, np.float32)
    for window, (inner, outer) in zip(windows, places, strict=True):
        window[:, *inner] = image[:, *outer]
    return windows


def _scores(network: nn.Module, windows: Scores, device: torch.device) -> Scores:
    """The batch's scores (b, z, y, x)."""
    logits = network(torch.from_numpy(windows).to(device))
    scores: Scores = logits[:, 0].float().sigmoid().cpu().numpy()
    return scores


def _scores_if_they_fit(network: nn.Module, windows: Scores, device: torch.device) -> Scores | None:
    """The batch's scores, or None where memory ran out; what was taken for them is free again then."""
    try:
        return _scores(network, windows, device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    if device.type == "cuda":
        torch.cuda.empty_cache()  # here, where no frame of the failed pass holds its tensors any more
    return None


def _smaller(num_windows: int, patch_size: Triple, device: torch.device) -> int:
    """Half as many windows (OutOfMemoryError: it was one)."""
    if num_windows == 1:
        raise OutOfMemoryError(
            f"{device}: has no memory for one window of {' x '.join(map(str, patch_size))} voxels; end what else uses "
            "it, or take another device"
        )
    log.warning("memory is too small for %d windows at a time; going on with %d", num_windows, num_windows // 2)
    return num_windows // 2


def _add(
    total: Scores,
    windows: Scores,
    places: Sequence[Place],
    factors: Sequence[Sequence[NDArray[np.float32]]],
    weight: np.float32,
) -> None:
    """Adds what lies inside the volume, times the weight and each window's factors along each axis.

    `windows` are changed.
    """
    for window, (inner, outer), (z, y, x) in zip(windows, places, factors, strict=True):
        np.multiply(window, (z * weight)[:, None, None], out=window)
        np.multiply(window, y[:, None] * x, out=window)
        total[outer] += window[inner]


def _common_part(start: Triple, size: Triple, shape: Sequence[int]) -> Place:
    """What window and volume share."""
    ends = [(max(s, 0), max(min(s + p, n), 0)) for s, p, n in zip(start, size, shape, strict=True)]
    inner = tuple(slice(low - s, max(high, low) - s) for (low, high), s in zip(ends, start, strict=True))
    return inner, tuple(slice(low, max(high, low)) for low, high in ends)
