"""Neck and region of interest on a body made of ellipses, and on boxes."""

import numpy as np
import pytest

from common.errors import ImageError
from common.recipe import RoiConfig
from common.region import NO_SHOULDERS, neck_slice, region_of_interest

SPACING_MM = (4.0, 2.0, 2.0)
ROI = RoiConfig()


@pytest.fixture(scope="module")
def body(ellipse_body):
    return ellipse_body((90, 140, 220), SPACING_MM)


def test_neck_is_between_head_and_shoulders_and_not_the_vertex(body):
    index, flags = neck_slice(body, SPACING_MM)
    assert flags == ()
    assert abs(index * SPACING_MM[0] - 130) <= SPACING_MM[0]


def test_neck_of_a_scan_that_begins_below_the_vertex(body):
    index, flags = neck_slice(body[:60], SPACING_MM)
    assert flags == ()
    assert abs(index * SPACING_MM[0] - 130) <= SPACING_MM[0]


def test_without_shoulders_the_lowest_slice_is_kept(body):
    cut = body.copy()
    cut[:33] = False
    assert neck_slice(cut, SPACING_MM) == (33, (NO_SHOULDERS,))
    box, flags = region_of_interest(cut, SPACING_MM, ROI)
    assert flags == (NO_SHOULDERS,)
    assert box[0].start <= 33


def test_region_holds_the_head_with_its_margins():
    """A head of 20 x 20 on slices 20-39, a neck of 10 x 10 on 15-19, shoulders of 60 x 30 below: all 2 mm."""
    mask = np.zeros((40, 60, 80), bool)
    mask[20:, 20:40, 30:50] = True
    mask[10:20, 25:35, 35:45] = True
    mask[:10, 15:45, 10:70] = True
    config = RoiConfig(neck_margin_mm=4.0, margin_mm=6.0)
    index, _ = neck_slice(mask, (2.0, 2.0, 2.0))
    assert 13 <= index <= 18
    box, flags = region_of_interest(mask, (2.0, 2.0, 2.0), config)
    assert flags == ()
    assert box == (slice(index - 2, 40), slice(17, 43), slice(27, 53))
    whole, _ = region_of_interest(mask, (2.0, 2.0, 2.0), RoiConfig(crop_at_neck=False, margin_mm=6.0))
    assert whole == (slice(0, 40), slice(12, 48), slice(7, 73))


def test_region_without_neck_leaves_out_empty_slices():
    mask = np.zeros((40, 30, 30), bool)
    mask[10:20, 10:20, 10:20] = True
    box, _ = region_of_interest(mask, (3.0, 1.0, 1.0), RoiConfig(crop_at_neck=False, margin_mm=6.0))
    assert box == (slice(8, 22), slice(4, 26), slice(4, 26))


def test_empty_mask_is_refused():
    with pytest.raises(ImageError, match="body mask is empty"):
        region_of_interest(np.zeros((4, 4, 4), bool), SPACING_MM, ROI)
