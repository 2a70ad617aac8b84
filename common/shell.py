"""Thermoplastic mask shells: told by what they do to the outline of the head, and peeled off the body mask.

Standing off, a shell is a sheet with air behind. Pressed on, it is as dense as skin and no thicker, but fat begins
deeper under it than under skin alone. Profiles across the outline of the front of the head show both. They decide
together, since few of them reach fat undisturbed. [C] The paper does not say how shells are taken off; the numbers are
ours.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from common.bounding import bounding_box
from common.pieces import largest_component

Bytes = NDArray[np.uint8]
Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

LARGEST_PIXEL_MM = 1.3
"""Coarser grids blur skin into fat: nothing is looked for."""
SLICES_MM, POINTS_MM = 6.0, 5.0
"""Distance of the slices that are looked at, and of the profiles along their outline."""
DEPTHS_MM: Float32 = np.arange(-14, 9.5, 0.5, dtype=np.float32)
"""A profile's samples, from air to tissue; 0 is the mask's outline."""
BELOW_NECK_MM = 40.0
"""Shells end less far below the neck's narrowest slice."""
AIR_HU = -400.0
"""What is denser beyond an air gap is a sheet."""
SURFACE_HU = -500.0
FAT_HU = (-200.0, -20.0)
"""Fat below skin, averaged over neighbours."""
FALL_HU = 45.0
"""Least fall from skin to fat."""
DENSEST_SKIN_HU = 60.0
SKIN_MM = 2.5
"""Skin of head and neck is 1 to 2.5 mm thick; a profile of CT's sharpness shows half a millimetre more."""
BARE_MM, COVERED_MM = (0.0, 3.2), (3.6, 6.5)
"""Where fat begins under skin, and under skin and shell."""
LEAST_PROFILES = 60
PRESSED_SHARE = 0.7
"""Of the profiles at the front that show where fat begins, this share shows a cover: no bare head comes near it."""
STANDING_SHARE = 0.4
"""This share of all profiles at the front meets a sheet: noses, ears and tubes make a tenth."""
LOWEST_SHARE, LEAST_IN_SLICE = 0.4, 3
"""A slice below the neck is bare where less than this share of its telling profiles shows the shell; fewer than so many
tell nothing."""
FURTHER_BACK_MM = 20.0
"""A shell reaches this far behind the last profile that shows it at most."""
SHEET_MM = 3.0
"""Most that a shell standing off is thick."""
FLAT_MM = 4.0
"""Radius of the least part of a sheet that lies flat in a slice, over the crown or below the chin."""


@dataclass(frozen=True, eq=False)
class _Profiles:
    """What the outlines show; one value a profile."""

    slices: NDArray[np.int_]
    rows: NDArray[np.int_]
    front: Mask
    """In the anterior half of the outline."""
    cover_mm: Float32
    """Depth where fat begins; NaN where there is none to be told from what lies on it."""
    sheet: Mask
    """Something lies off the outline, with air behind it."""


@dataclass(frozen=True)
class _Shell:
    """Where a shell lies: from `bottom` up and before `row`, and how thick it is if pressed on the skin, else 0."""

    bottom: int
    row: int
    pressed_mm: float


def clear_shell(hu_zyx: NDArray[Any], mask: Mask, neck: int, spacing_mm: Spacing) -> bool:
    """Clears a mask shell over face and neck from the body mask, in place; returns whether there is one.

    A shell pressed on the skin goes with a voxel of skin; of one that stands off, what lies flat in a slice goes, for
    the rest is no part of an opened mask.

    Args:
        hu_zyx: HU, LPS order.
        mask: the body, opened and filled slice by slice.
        neck: the neck's slice; a head lies above it.
        spacing_mm: (z, y, x). Where pixels are coarse, or not square within 1 %, nothing is looked for.
    """
    slice_mm, row_mm, pixel_mm = spacing_mm
    if pixel_mm > LARGEST_PIXEL_MM or abs(row_mm / pixel_mm - 1) > 0.01:
        return False
    bottom = max(0, neck - int(BELOW_NECK_MM / slice_mm))
    shell = _found(_profiles(hu_zyx, mask, bottom, spacing_mm), neck, pixel_mm)
    if shell is None:
        return False
    head = (slice(shell.bottom, None), *bounding_box(mask[shell.bottom :])[1:])
    part = np.ascontiguousarray(mask[head]).view(np.uint8)
    removed = _pressed(part, shell.pressed_mm, spacing_mm) if shell.pressed_mm else _flat(part, spacing_mm)
    end = max(0, shell.row - head[1].start)
    removed[:, end:] = False
    part[removed] = 0
    if shell.pressed_mm:  # crumbs of ears and of what is between them and the head
        opened = np.stack([cv2.morphologyEx(layer, cv2.MORPH_OPEN, _kernel(spacing_mm)) for layer in part])
        part[:, :end] = opened[:, :end]
    mask[head] = largest_component(part)
    return True


def _profiles(hu_zyx: NDArray[Any], mask: Mask, bottom: int, spacing_mm: Spacing) -> _Profiles:
    """Returns the profiles of every outline from `bottom` up, at `SLICES_MM`."""
    found: list[tuple[NDArray[Any], ...]] = []
    for z in range(bottom, len(mask), max(1, round(SLICES_MM / spacing_mm[0]))):
        for points, inwards in _outline(mask[z], spacing_mm[2]):
            hu = _sampled(hu_zyx[max(0, z - 1) : z + 2], points, inwards / spacing_mm[2])
            rows = points[:, 1].astype(int)
            front = rows < (rows.min() + rows.max()) / 2
            found.append((np.full(len(rows), z), rows, front, _cover_mm(hu), _has_sheet(hu)))
    if not found:
        return _Profiles(np.zeros(0, int), np.zeros(0, int), *(np.zeros(0, t) for t in (bool, np.float32, bool)))
    slices, rows, front, cover_mm, sheet = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return _Profiles(slices, rows, front, cover_mm, sheet)


def _outline(layer: Mask, pixel_mm: float) -> Iterator[tuple[Float32, Float32]]:
    """Yields points (N, 2) as (column, row) along the longest outline of a slice and its inward normals."""
    contours, _ = cv2.findContours(layer.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(contours, key=len, default=np.zeros((0, 1, 2)))[:, 0].astype(np.float32)
    room = 2 * round(POINTS_MM / pixel_mm) + 1
    if len(outline) <= 2 * room:
        return
    closed = np.concatenate([outline[-room:], outline, outline[:room]])
    smooth = cv2.blur(closed, (1, room))[room - 2 : 2 - room]
    along = smooth[4:] - smooth[:-4]
    chosen = np.arange(0, len(outline), max(1, round(POINTS_MM / pixel_mm)))
    inwards = np.stack([-along[chosen, 1], along[chosen, 0]], axis=1)
    inwards /= np.maximum(np.linalg.norm(inwards, axis=1, keepdims=True), 1e-6)
    area = np.sum(outline[:, 0] * np.roll(outline[:, 1], -1) - outline[:, 1] * np.roll(outline[:, 0], -1))
    yield outline[chosen], np.asarray(inwards if area > 0 else -inwards, np.float32)


def _sampled(layers: NDArray[Any], points: Float32, step: Float32) -> Float32:
    """Returns HU at `DEPTHS_MM` of every point, averaged over the slices and five neighbours of the outline."""
    places = points[:, None] + DEPTHS_MM[:, None] * step[:, None]
    columns, rows = np.ascontiguousarray(places[..., 0]), np.ascontiguousarray(places[..., 1])
    values = [layer if layer.dtype == np.int16 else layer.astype(np.float32) for layer in layers]
    hu = sum(cv2.remap(layer, columns, rows, cv2.INTER_LINEAR).astype(np.float32) for layer in values) / len(values)
    return np.asarray(cv2.blur(np.concatenate([hu[-2:], hu, hu[:2]]), (1, 5))[2:-2])


def _cover_mm(hu: Float32) -> Float32:
    """Returns the depth from the surface at which HU falls half way to fat; NaN where what follows is no fat."""
    inner = hu[:, DEPTHS_MM >= -2]
    depths = DEPTHS_MM[DEPTHS_MM >= -2]
    surface = depths[np.argmax(inner > SURFACE_HU, axis=1)]
    outer = np.where((depths >= 0.5) & (depths < 7), inner, -np.inf)
    highest = outer.max(axis=1)
    beyond = np.arange(len(depths)) > outer.argmax(axis=1)[:, None]
    lowest = np.where(beyond, inner, np.inf).min(axis=1)
    half = (np.minimum(highest, DENSEST_SKIN_HU) + lowest)[:, None] / 2
    risen = np.maximum.accumulate(inner > half, axis=1)
    fallen = risen & (inner < half) & (depths > 0)
    told = fallen.any(axis=1) & (highest - lowest > FALL_HU) & (lowest > FAT_HU[0]) & (lowest < FAT_HU[1])
    return np.where(told, depths[fallen.argmax(axis=1)] - surface, np.nan).astype(np.float32)


def _has_sheet(hu: Float32) -> Mask:
    """Returns whether something denser than air lies 1.5 mm or more off the outline, with air between."""
    off = hu[:, DEPTHS_MM < -1.5].max(axis=1) > AIR_HU
    gap = hu[:, (DEPTHS_MM >= -3) & (DEPTHS_MM <= 0)].min(axis=1) < AIR_HU
    return np.asarray(off & gap)


def _found(profiles: _Profiles, neck: int, pixel_mm: float) -> _Shell | None:
    """Returns where the shell lies if the front of the head says that there is one."""
    covered, bare = ((profiles.cover_mm > low) & (profiles.cover_mm < high) for low, high in (COVERED_MM, BARE_MM))
    head = profiles.front & (profiles.slices >= neck)
    num_covered, num_bare = np.count_nonzero(covered & head), np.count_nonzero(bare & head)
    pressed = num_covered >= LEAST_PROFILES and num_covered >= PRESSED_SHARE * (num_covered + num_bare)
    if pressed:
        pressed_mm = float(np.median(profiles.cover_mm[covered & head])) - SKIN_MM
        return _Shell(*_extent(profiles, covered, covered | bare, neck, pixel_mm), pressed_mm)
    if np.count_nonzero(profiles.sheet & head) > STANDING_SHARE * max(int(np.count_nonzero(head)), LEAST_PROFILES):
        everywhere = np.ones_like(profiles.sheet)
        return _Shell(*_extent(profiles, profiles.sheet, everywhere, neck, pixel_mm), 0.0)
    return None


def _extent(profiles: _Profiles, shown: Mask, told: Mask, neck: int, pixel_mm: float) -> tuple[int, int]:
    """Returns a slice below the shell, the second in a row that shows bare skin, and the first row behind the shell."""
    looked_at = np.unique(profiles.slices)
    bottom, misses = int(looked_at[0]), 0
    for z in looked_at[looked_at <= neck][::-1]:
        here = profiles.front & (profiles.slices == z) & told
        num_told = np.count_nonzero(here)
        if num_told >= LEAST_IN_SLICE:
            bare = np.count_nonzero(here & shown) < LOWEST_SHARE * num_told
            misses = misses + 1 if bare else 0
        if misses == 2:
            bottom = int(z)
            break
    rows = profiles.rows[shown & (profiles.slices >= bottom)]
    return bottom, int(np.percentile(rows, 99) + FURTHER_BACK_MM / pixel_mm)


def _pressed(part: Bytes, pressed_mm: float, spacing_mm: Spacing) -> Mask:
    """Returns what lies within the shell's thickness and a voxel of the outside, in space."""
    slice_mm, pixel_mm = spacing_mm[0], spacing_mm[2]
    reach_mm = pressed_mm + pixel_mm
    num = int(reach_mm / slice_mm)
    bands = []
    for offset in range(num + 1):
        width = 2 * math.sqrt(reach_mm**2 - (offset * slice_mm) ** 2) / pixel_mm
        bands.append([_band(layer, round(width - 1)) for layer in part])  # the outline's pixels lie half a one inside
    removed = np.stack(bands[0])
    for offset in range(1, num + 1):
        band = np.stack(bands[offset])
        removed[offset:] |= band[:-offset]
        removed[:-offset] |= band[offset:]
    return removed.view(np.bool_)


def _band(layer: Bytes, width: int) -> Bytes:
    """Returns the outside of the slice and a band of `width` pixels along it, half of which lies inside."""
    outside = np.asarray(layer ^ 1)
    contours, _ = cv2.findContours(layer, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.asarray(cv2.drawContours(outside, contours, -1, 1, max(1, width)))


def _flat(part: Bytes, spacing_mm: Spacing) -> Mask:
    """Returns what has nothing above or below within a sheet's thickness, where that is broad in the slice."""
    bare = np.zeros(part.shape, np.bool_)
    inside = part.view(np.bool_)
    for offset in range(1, int(np.ceil(SHEET_MM / spacing_mm[0])) + 1):
        bare[offset:] |= inside[offset:] & ~inside[:-offset]
        bare[:-offset] |= inside[:-offset] & ~inside[offset:]
    kernel = _kernel(spacing_mm)
    return np.stack([_broad(layer, surface.view(np.uint8), kernel) for layer, surface in zip(part, bare, strict=True)])


def _kernel(spacing_mm: Spacing) -> Bytes:
    radius = max(1, round(FLAT_MM / spacing_mm[2]))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)), np.uint8)


def _broad(layer: Bytes, surface: Bytes, kernel: Bytes) -> Mask:
    """Returns the surface where the kernel fits, and its reach more, and crumbs that are left of the slice then."""
    core = cv2.morphologyEx(surface, cv2.MORPH_OPEN, kernel)
    if not core.any():
        return np.zeros(layer.shape, np.bool_)
    flat = cv2.dilate(core, kernel) & surface
    left = cv2.morphologyEx(layer & ~flat, cv2.MORPH_OPEN, kernel)
    return np.asarray((layer & ~left).view(np.bool_))
