"""Random changes of a training patch: one fused affine and elastic resampling, a flip, noise (paper, section 3.A.1).

Scale, rotation and displacement act in mm about the patch's middle, so an anisotropic grid is rotated and not sheared.
Image and label go through a single trilinear `grid_sample`; what comes from outside the patch is normalised air.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from common.recipe import AugmentationConfig


@dataclass(frozen=True, eq=False)
class Change:
    """What happens to a patch, as drawn: to draw it takes little, to apply it much, and draws nothing."""

    affine: NDArray[np.float64] | None = None
    """(3, 3), as `sampling_grid` takes it; None: neither scaled nor rotated."""
    elastic: NDArray[np.float32] | None = None
    """Control points, as `sampling_grid` takes them; None: not deformed."""
    flip: bool = False
    noise: NDArray[np.float32] | None = None
    """(C, z, y, x), added at last; None: none."""


def draw_change(
    shape: tuple[int, ...], spacing_mm: tuple[float, float, float], config: AugmentationConfig, rng: np.random.Generator
) -> Change:
    """Returns a random change; each of scale, rotation, elastic deformation, flip and noise has `config.probability`.

    Args:
        shape: of the patch (C, z, y, x).
        spacing_mm: (z, y, x) of the patch.
        config: ranges; nothing changes if it is not enabled.
        rng: the only source of randomness.
    """
    if not config.enabled:
        return Change()
    size_mm = tuple(n * s for n, s in zip(shape[1:], spacing_mm, strict=True))
    affine = _random_affine(config, rng)
    elastic = _random_control_points(size_mm, config, rng) if _happens(config, rng) else None
    flip = config.flip_left_right and _happens(config, rng)
    return Change(affine, elastic, flip, _random_noise(shape, config, rng) if _happens(config, rng) else None)


def augment(
    image: Tensor, label: Tensor, change: Change, spacing_mm: tuple[float, float, float], air: float
) -> tuple[Tensor, Tensor]:
    """Returns the changed image (C, z, y, x) and label (1, z, y, x) of the same sizes; the inputs stay as they are.

    Args:
        image: (C, z, y, x) float32, normalised.
        label: (1, z, y, x) float32 of 0 and 1; interpolated as the image is and cut at 0.5.
        change: drawn for the image's shape.
        spacing_mm: (z, y, x) of the patch.
        air: what -1000 HU is after normalisation; fills what comes from outside the patch.
    """
    if change.affine is not None or change.elastic is not None:
        affine = np.eye(3) if change.affine is None else change.affine
        grid = sampling_grid(image.shape[1:], spacing_mm, affine, change.elastic)
        image, label = resample_patch(image, label, grid, air)
    if change.flip:
        image, label = image.flip(-1), label.flip(-1)
    if change.noise is not None:
        image = image + torch.from_numpy(change.noise).to(image)
    return image, label


def rotation_matrix(angles_deg: tuple[float, float, float]) -> NDArray[np.float64]:
    """Returns the proper rotation of (z, y, x) vectors by angles about the x, then the y, then the z axis.

    Args:
        angles_deg: about (z, y, x); positive from the first to the second axis of the (y, x), (z, x) and (z, y) planes.
    """
    result = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        i, j = (k for k in range(3) if k != axis)
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        result = result @ turn
    return result


def sampling_grid(
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float, float],
    matrix: NDArray[np.float64],
    control_points: NDArray[np.float32] | None,
) -> Tensor:
    """Returns where each voxel of the result is read, as `grid_sample` wants it (align_corners=False).

    Args:
        shape: voxels (z, y, x).
        spacing_mm: (z, y, x).
        matrix: (3, 3); the result at p mm (z, y, x) from the patch's middle is read at matrix . p.
        control_points: (2, kz, ky, kx) in-plane displacement (y, x) in mm that is added to where the patch is read; the
            outermost points lie at the patch's outermost voxels. None: no displacement.

    Returns:
        (1, z, y, x, 3) float32; the last axis is (x, y, z) in units of half the patch's size.
    """
    half_mm = np.array(shape) * np.array(spacing_mm) / 2
    steps = ((2 * np.arange(n) + 1 - n) / n for n in shape)  # voxel centres in units of half the patch's size
    relative = (matrix * half_mm[None, :] / half_mm[:, None])[::-1].astype(np.float32)
    z, y, x = (torch.from_numpy(np.outer(s, relative[:, k]).astype(np.float32)) for k, s in enumerate(steps))
    grid = (z[:, None] + y)[:, :, None] + x
    if control_points is not None:
        points = torch.from_numpy(control_points)[None]
        displacement = functional.interpolate(points, size=shape, mode="trilinear", align_corners=True)[0]
        grid[..., 0] += displacement[1] / half_mm[2]
        grid[..., 1] += displacement[0] / half_mm[1]
    return grid[None]


def resample_patch(image: Tensor, label: Tensor, grid: Tensor, air: float) -> tuple[Tensor, Tensor]:
    """Returns image and label read at `grid`; outside the patch the image is `air`, the label 0."""
    both = torch.cat([image - air, label])[None]  # grid_sample pads with 0, which is air now
    read = functional.grid_sample(both, grid.to(both), mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    return read[:-1] + air, (read[-1:] >= 0.5).to(label.dtype)


def _happens(config: AugmentationConfig, rng: np.random.Generator) -> bool:
    return bool(rng.random() < config.probability)


def _random_affine(config: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.float64] | None:
    """The matrix from the result to the patch: an isotropic scale s enlarges, so the patch is read at 1 / s."""
    scaled, rotated = _happens(config, rng), _happens(config, rng)
    if not scaled and not rotated:
        return None
    matrix = np.eye(3)
    if rotated:
        z, y, x = rng.uniform(-config.rotation_deg, config.rotation_deg, 3).tolist()
        matrix = rotation_matrix((z, y, x))
    return matrix / rng.uniform(*config.scale_range) if scaled else matrix


def _random_control_points(
    size_mm: tuple[float, ...], config: AugmentationConfig, rng: np.random.Generator
) -> NDArray[np.float32] | None:
    """Smooth in-plane displacements whose vectors have an expected RMS over the patch of `elastic_rms_mm`.

    Independent Gaussian points of variance 1 give, interpolated linearly, a variance of 2/3 for each interpolated axis.
    """
    if not config.elastic_rms_mm:
        return None
    counts = [max(round(size / config.elastic_grid_mm), 1) + 1 for size in size_mm]
    sd = config.elastic_rms_mm / math.sqrt(2 * (2 / 3) ** 3)
    return (sd * rng.standard_normal((2, *counts))).astype(np.float32)


def _random_noise(shape: tuple[int, ...], config: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    """Gaussian noise of a random SD, or uniform noise, each in half of the patches."""
    if rng.random() < 0.5:
        noise = rng.standard_normal(shape, dtype=np.float32)
        noise *= np.float32(rng.uniform(0, config.noise_sd))
        return noise
    noise = rng.random(shape, dtype=np.float32)
    return (noise * 2 - 1) * np.float32(config.uniform_noise)
