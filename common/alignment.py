"""Checks that a case's label and further images belong to its first image, and brings them onto its region."""

import numpy as np
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from numpy.typing import NDArray

from common.errors import ImageError, LabelError
from common.region import Slices
from common.resample import Float32, spline_at
from common.volume import Geometry, Volume, patient_to_index, to_lps, to_sitk

PARALLEL_COSINE = 1e-6
"""Cosines that differ by less are one direction: at 500 mm it moves a voxel by no more than 0.001 mm."""


def finite(image: Volume, channel: int) -> Volume:
    """Returns the image (`channel` counts from 0) if all its values are finite, else raises an ImageError."""
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        count = np.count_nonzero(~np.isfinite(image.array))
        raise ImageError(f"image {channel + 1}: {count} voxels are not finite; expected HU; export it again")
    return image


def channel_onto(image: Volume, geometry: Geometry, channel: int) -> Float32:
    """Returns a further image on the region's grid by third-order spline, NaN where it does not reach.

    Raises:
        ImageError: it does not reach the region at all.
    """
    lps = to_lps(image)
    parallel = np.allclose(lps.geometry.direction, geometry.direction, rtol=0, atol=PARALLEL_COSINE)
    array = _along_axes(lps, geometry) if parallel else _turned(image, geometry)
    if np.isnan(array).all():
        raise ImageError(
            f"image {channel + 1} (origin {_mm(image.geometry)}) does not overlap the region of interest of image 1 "
            f"(origin {_mm(geometry)}); expected scans in one frame of reference; register them first"
        )
    return np.clip(array, image.array.min(), image.array.max())


def _along_axes(image: Volume, geometry: Geometry) -> Float32:
    """Returns the image on a grid with the same directions, about ten times faster than SimpleITK does it."""
    first = patient_to_index(image.geometry, np.array([geometry.origin_mm]))[0]
    steps = np.divide(geometry.spacing_mm, image.geometry.spacing_mm)
    positions = [start + step * np.arange(size) for start, step, size in zip(first, steps, geometry.size, strict=True)]
    return spline_at(image.array, positions)


def _turned(image: Volume, geometry: Geometry) -> Float32:
    """Returns the image on a grid with other directions."""
    reference = sitk.Image(geometry.size[::-1], sitk.sitkUInt8)
    reference.SetSpacing(geometry.spacing_mm[::-1])
    reference.SetOrigin(geometry.origin_mm)
    reference.SetDirection(geometry.direction)
    moving = sitk.Cast(to_sitk(image), sitk.sitkFloat32)
    interpolator = sitk.sitkBSpline if min(image.geometry.size) >= 4 else sitk.sitkLinear
    moved = sitk.Resample(moving, reference, sitk.Transform(), interpolator, float("nan"), sitk.sitkFloat32)
    array: Float32 = sitk.GetArrayFromImage(moved)
    return array


def label_inside(label: Volume, lps: Geometry, box: Slices) -> NDArray[np.bool_]:
    """Returns the label inside the region, on the image's LPS grid.

    Raises:
        LabelError: it lies on another grid, or partly outside the region.
    """
    mask = label_on(label, lps)
    cut = what_is_cut(mask, lps, box)
    if cut:
        raise LabelError(
            f"label: {cut}; expected all inside; set roi.crop_at_neck: false or raise roi.neck_margin_mm or "
            "roi.margin_mm"
        )
    inside: NDArray[np.bool_] = mask[box]
    return inside


def label_on(label: Volume, lps: Geometry) -> NDArray[np.bool_]:
    """Returns the label on the image's LPS grid (LabelError: it lies on another grid)."""
    turned = to_lps(label)
    if not turned.geometry.matches(lps):
        raise LabelError(
            f"label's grid ({described(turned.geometry)}) is not its image's ({described(lps)}); "
            "export the label on the image's grid"
        )
    mask: NDArray[np.bool_] = turned.array > 0
    return mask


def what_is_cut(mask: NDArray[np.bool_], lps: Geometry, box: Slices) -> str:
    """Says how much of a label (z, y, x) lies outside the region, and on which sides; empty where nothing does."""
    total, cut = int(mask.sum()), int(mask.sum() - mask[box].sum())
    if not cut:
        return ""
    return (
        f"{cut} of {total} voxels ({cut * lps.voxel_ml:.2f} of {total * lps.voxel_ml:.2f} ml) lie outside "
        f"the region of interest, {_where_cut(mask, box)}"
    )


def _where_cut(mask: NDArray[np.bool_], box: Slices) -> str:
    """Says on which sides of the region the label goes on."""
    sides = (("below", "above"), ("in front", "behind"), ("to the right", "to the left"))
    cut = []
    for axis, (part, names) in enumerate(zip(box, sides, strict=True)):
        held = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        cut += [
            name for name, beyond in zip(names, (held[0] < part.start, held[-1] >= part.stop), strict=True) if beyond
        ]
    return " and ".join(cut)


def described(geometry: Geometry) -> str:
    """Returns a grid in words."""
    size, spacing = (" x ".join(f"{value:g}" for value in part) for part in (geometry.size, geometry.spacing_mm))
    return f"{size} voxels of {spacing} mm from {_mm(geometry)}"


def _mm(geometry: Geometry) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in geometry.origin_mm) + ") mm"
