"""Training patches of cached cases, normalised and padded with normalised air (paper, section 3.A.1).

A patch lies inside the volume along every axis that is at least as long as it; along a shorter axis the volume lies in
the patch's middle, as MONAI's sliding window places it at inference.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.errors import LabelError
from common.settings import Triple
from common.statistics import AIR_HU, Normalisation

if TYPE_CHECKING:  # cutting patches needs no image library
    from common.cache import CachedCase

Patch = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Image (C, z, y, x), normalised, and label (1, z, y, x) of 0 and 1."""


def random_patch(
    case: "CachedCase",
    patch_size: Triple,
    rng: np.random.Generator,
    foreground: bool,
    normalisation: Normalisation,
) -> Patch:
    """Returns a patch at a random place.

    Args:
        case: with a label; LabelError without.
        patch_size: voxels (z, y, x).
        rng: the source of randomness.
        foreground: one random voxel of the target lies inside, at a random place of the patch. A case whose label is
            empty gives any patch.
        normalisation: of the image.
    """
    if foreground and len(case.foreground_voxels):
        voxel = case.foreground_voxels[rng.integers(len(case.foreground_voxels))]
        start = [v - int(rng.integers(p)) for v, p in zip(voxel.tolist(), patch_size, strict=True)]
    else:
        start = [int(rng.integers(max(n - p, 0) + 1)) for n, p in zip(case.shape, patch_size, strict=True)]
    return _patch_at(case, start, patch_size, normalisation)


def centred_patch(
    case: "CachedCase", patch_size: Triple, centre: Sequence[float], normalisation: Normalisation
) -> Patch:
    """Returns the patch whose middle voxel (index size // 2) is the one at `centre`, shifted inside the volume.

    Args:
        case: with a label; LabelError without.
        patch_size: voxels (z, y, x).
        centre: index (z, y, x), such as `jittered_centre` gives.
        normalisation: of the image.
    """
    start = [round(c) - p // 2 for c, p in zip(centre, patch_size, strict=True)]
    return _patch_at(case, start, patch_size, normalisation)


def jittered_centre(case: "CachedCase", jitter_voxels: int, rng: np.random.Generator) -> Triple:
    """Returns the voxel at the target's centroid, moved by up to `jitter_voxels` along each axis (paper: 3)."""
    moves = rng.integers(-jitter_voxels, jitter_voxels + 1, size=3).tolist()
    z, y, x = (round(c) + move for c, move in zip(case.centroid, moves, strict=True))
    return z, y, x


def inside(start: Sequence[int], patch_size: Sequence[int], shape: Sequence[int]) -> Triple:
    """Returns `start` shifted so that the patch lies inside the volume, or the volume in the patch's middle."""
    z, y, x = (
        min(max(s, 0), n - p) if n >= p else -((p - n) // 2) for s, p, n in zip(start, patch_size, shape, strict=True)
    )
    return z, y, x


def cut(array: NDArray[Any], start: Sequence[int], size: Sequence[int], fill: float) -> NDArray[Any]:
    """Returns a copy of `array` (..., z, y, x) from `start` on, (..., *size), with `fill` where it leaves the array."""
    result = np.full((*array.shape[:-3], *size), fill, array.dtype)
    source: list[Any] = [...]
    target: list[Any] = [...]
    for s, p, n in zip(start, size, array.shape[-3:], strict=True):
        low, high = max(s, 0), max(min(s + p, n), 0)
        source.append(slice(low, high))
        target.append(slice(low - s, max(high - s, low - s)))
    result[tuple(target)] = array[tuple(source)]
    return result


def _patch_at(case: "CachedCase", start: Sequence[int], patch_size: Triple, normalisation: Normalisation) -> Patch:
    label = case.label
    if label is None:
        raise LabelError(f"case {case.case_id}: has no label; expected one for training; import its contours")
    start = inside(start, patch_size, case.shape)
    image = normalisation.apply(cut(case.image, start, patch_size, AIR_HU))
    return image, cut(label, start, patch_size, 0)[None].astype(np.float32)
