"""A head of 160 x 200 mm with an airway, 1 mm a pixel: what belongs to it, and what stays outside."""

import numpy as np
import pytest

from common.body import body_mask
from common.cavities import MOUTH_MM, RIM_MM, WIDEST_MM, fill_cavities
from common.dicom import find_ct_series, read_ct_series
from common.recipe import RoiConfig
from common.volume import to_lps

SPACING_MM = (3.0, 1.0, 1.0)


def head(num_slices=9):
    y, x = np.ogrid[:260, :280]
    inside = ((y - 130) / 100) ** 2 + ((x - 140) / 80) ** 2 <= 1
    return np.repeat(inside[None], num_slices, axis=0)


def with_airway(half_width):
    """A channel from the front to the middle of the head."""
    mask = head()
    mask[:, :130, 140 - half_width : 140 + half_width] = False
    return mask


def test_an_airway_that_opens_to_the_front_is_body_but_for_its_mouth():
    mask = with_airway(15)
    fill_cavities(mask, SPACING_MM)
    below = slice(None), slice(30 + int(RIM_MM) + 15, None), slice(125, 155)  # closing sags by 6 mm; 7 of grid
    assert mask[below][head()[below]].all()
    assert not (mask & ~head()).any()
    assert not mask[:, 30:36, 135:145].any()


def test_a_mouth_wider_than_can_be_closed_stays_open_unless_neighbours_are_closed():
    wide = with_airway(int(MOUTH_MM) + 12)
    alone = wide.copy()
    fill_cavities(alone, SPACING_MM)
    assert not alone[4, 100, 140]
    wide[[0, 8]] = head()[[0, 8]]
    fill_cavities(wide, SPACING_MM)
    assert wide[4, 100, 140]


def test_a_shallow_notch_stays_out():
    mask = head()
    mask[:, 120:140, 60:70] = False
    before = mask.copy()
    fill_cavities(mask, SPACING_MM)
    assert np.array_equal(mask, before)


def test_slices_wider_than_a_head_keep_their_gaps():
    mask = np.zeros((3, 260, 400), bool)
    mask[:, 60:200, 40:190] = mask[:, 60:200, 210:360] = True  # two parts 20 mm apart
    assert 320 * SPACING_MM[2] > WIDEST_MM
    before = mask.copy()
    fill_cavities(mask, SPACING_MM)
    assert np.array_equal(mask, before)


def test_an_empty_mask_stays_empty():
    mask = np.zeros((3, 20, 20), bool)
    fill_cavities(mask, SPACING_MM)
    assert not mask.any()


@pytest.mark.real_data
def test_nose_sinuses_and_nasopharynx_of_a_real_head_lie_in_its_body(real_data):
    """The middle third of the head, front to back and side to side, on the 90 slices from the palate to the orbits."""
    (files,) = find_ct_series(real_data / "dicom" / "neck_siemens").values()
    volume = to_lps(read_ct_series(files).volume)
    body = body_mask(volume.array, volume.geometry.spacing_mm, RoiConfig())
    assert {"truncated", "chest-in-view"} <= set(body.flags)
    for layer in body.mask[150:240]:
        rows, columns = np.flatnonzero(layer.any(axis=1)), np.flatnonzero(layer.any(axis=0))
        third_y, third_x = (rows[-1] - rows[0]) // 3, (columns[-1] - columns[0]) // 3
        assert layer[rows[0] + third_y : rows[-1] - third_y, columns[0] + third_x : columns[-1] - third_x].all()
