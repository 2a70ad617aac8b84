"""Mask shells of known thickness on a head of skin, fat and muscle, 1 mm a pixel."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from common.shell import clear_shell

SPACING_MM = (3.0, 1.0, 1.0)
NUM_SLICES = 40
SHELL_HU = -20
LAST_ROW = 120  # of the shell; the head spans rows 30 to 209


def head():
    """An upright ellipse of 150 x 180 mm: signed depth in mm of a slice, (y, x)."""
    y, x = np.ogrid[:240, :220]
    inside = ((y - 119.5) / 90) ** 2 + ((x - 109.5) / 75) ** 2 <= 1
    return np.where(inside, distance_transform_edt(inside) - 0.5, 0.5 - distance_transform_edt(~inside))


def scan(thickness_mm, gap_mm=0.0):
    """HU, the body mask as opening and filling leave it, and the shell's mask."""
    depth = head()
    hu = np.select([depth <= 0, depth <= 2, depth <= 8], [-1000.0, 25.0, -95.0], 55.0)
    shell = (depth <= -gap_mm) & (depth > -gap_mm - thickness_mm) & (np.arange(240)[:, None] < LAST_ROW)
    hu[shell] = SHELL_HU
    blurred = gaussian_filter(hu, 0.6)
    noise = np.random.default_rng(0).normal(0, 9, (NUM_SLICES, *hu.shape))
    mask = (depth > 0) | (shell if not gap_mm else False)
    volumes = (np.repeat(layer[None], NUM_SLICES, axis=0) for layer in (blurred, mask, shell))
    hu, mask, shell = volumes
    return (hu + noise).astype(np.int16), mask, shell


@pytest.mark.parametrize("thickness_mm", [2.0, 2.8, 3.5])
def test_pressed_shell_goes_with_a_voxel_of_skin(thickness_mm):
    hu, mask, shell = scan(thickness_mm)
    body = mask & ~shell
    assert clear_shell(hu, mask, 5, SPACING_MM)
    assert not (mask & shell).any()
    inner = slice(2, -2), slice(0, LAST_ROW - 5)
    assert mask[inner][np.broadcast_to(head() > 2, mask.shape)[inner]].all()  # no more than the skin
    behind = slice(None), slice(LAST_ROW + 25, None)
    assert np.array_equal(mask[behind], body[behind])


def test_bare_head_stays_as_it_is():
    hu, mask, _ = scan(0.0)
    before = mask.copy()
    assert not clear_shell(hu, mask, 5, SPACING_MM)
    assert np.array_equal(mask, before)


def test_skin_that_is_thick_on_one_side_only_is_no_shell():
    hu, mask, _ = scan(0.0)
    depth = head()
    thick = (depth > 0) & (depth <= 4.8) & (np.arange(220) < 70)
    hu[:, thick] = 25
    assert not clear_shell(hu, mask, 5, SPACING_MM)


def test_shell_that_stands_off_leaves_the_upright_head_alone():
    hu, mask, _ = scan(2.8, gap_mm=4.0)
    before = mask.copy()
    assert clear_shell(hu, mask, 5, SPACING_MM)
    assert np.array_equal(mask[1:-1], before[1:-1])


def test_what_a_standing_shell_leaves_flat_over_the_crown_goes():
    hu, mask, _ = scan(2.8, gap_mm=4.0)
    mask[-10:] = False
    mask[-10] = np.roll(head() > 60, -30, axis=0)  # the sheet's top, one slice thick
    assert mask[-10].any()
    below = mask[-12].copy()
    assert clear_shell(hu, mask, 5, SPACING_MM)
    assert not mask[-10].any()
    assert np.array_equal(mask[-12], below)


@pytest.mark.parametrize("spacing_mm", [(3.0, 1.8, 1.8), (3.0, 1.0, 1.2)])
def test_nothing_is_looked_for_on_coarse_or_oblong_pixels(spacing_mm):
    hu, mask, _ = scan(2.8)
    assert not clear_shell(hu, mask, 5, spacing_mm)


def test_neck_at_the_top_finds_no_profile():
    hu, mask, _ = scan(2.8)
    mask[:] = False
    assert not clear_shell(hu, mask, NUM_SLICES - 1, SPACING_MM)
