"""Body, couch, neck and region of interest on bodies made of ellipses."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common.body import (
    CHEST_IN_VIEW,
    COUCH_CUT,
    NO_HEAD,
    NO_SHOULDERS,
    PRONE,
    TRUNCATED,
    body_mask,
    largest_component,
    neck_slice,
    padding_value,
    region_of_interest,
)
from common.config import RoiConfig
from common.errors import ImageError
from common.phantom import make_phantom

SPACING_MM = (4.0, 2.0, 2.0)
SHAPE = (90, 140, 220)
ROI = RoiConfig()


def half_widths_mm(z_mm):
    """Of a body whose shoulders end at 100 mm, with the neck at 130 mm and the head from 160 to 330 mm."""
    knots = [0, 90, 110, 130, 160, 220, 300, 330]
    return np.interp(z_mm, knots, [210, 210, 90, 62, 70, 82, 70, 5]), np.interp(
        z_mm, knots, [90, 90, 70, 62, 80, 98, 80, 5]
    )


def ellipses(shape=SHAPE, spacing_mm=SPACING_MM):
    """The body, lying with its back on row 110 of 140 at 2 mm (220 mm from the front)."""
    z, y, x = (np.arange(n) * s for n, s in zip(shape, spacing_mm, strict=True))
    width, depth = (part[:, None, None] for part in half_widths_mm(z))
    centre_x, back_y = shape[2] * spacing_mm[2] / 2, 220.0
    inside = ((x - centre_x) / width) ** 2 + ((y[:, None] - (back_y - depth)) / depth) ** 2 <= 1
    inside[z > 335] = False
    return inside


def scan(body, **structures):
    hu = np.where(body, 40, -1000).astype(np.int16)
    for value, mask in structures.values():
        hu[mask & ~body] = value
    return hu


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture(scope="module")
def body():
    return ellipses()


def rows(start, stop, columns=slice(10, 210)):
    mask = np.zeros(SHAPE, bool)
    mask[:, start:stop, columns] = True
    return mask


def test_body_without_couch_is_found_whole(body):
    result = body_mask(scan(body), SPACING_MM, ROI)
    assert result.flags == ()
    assert dice(result.mask, body) > 0.99


@pytest.mark.parametrize("thickness", [1, 2, 12])
def test_flat_couch_is_cut_at_its_surface(body, thickness):
    """The shoulders lie on it; at 12 rows (24 mm) it is thicker than what the opening removes."""
    result = body_mask(scan(body, couch=(100, rows(112, 112 + thickness))), SPACING_MM, ROI)
    assert result.flags == (COUCH_CUT,)
    assert dice(result.mask, body) > 0.98


def test_couch_with_head_rest_that_touches_the_skin(body):
    rest = rows(104, 112, slice(80, 140)) & (np.arange(SHAPE[0]) > 40)[:, None, None]
    shell = rest & ~ndimage.binary_erosion(rest, iterations=1)
    result = body_mask(scan(body, couch=(0, rows(112, 120)), rest=(0, shell)), SPACING_MM, ROI)
    assert result.flags == (COUCH_CUT,)
    assert dice(result.mask, body) > 0.98


def test_curved_couch_goes_by_morphology(body):
    y, x = np.arange(SHAPE[1])[:, None], np.arange(SHAPE[2])
    surface = 112 - 0.004 * (x - 110) ** 2
    shell = np.broadcast_to((y >= surface) & (y < surface + 2), SHAPE)
    result = body_mask(scan(body, couch=(100, shell)), SPACING_MM, ROI)
    assert dice(result.mask, body) > 0.98


def test_head_behind_the_wings_of_its_rest_is_not_cut(body):
    """Flat wings of 60 mm at either side stand 16 mm higher than the back of the head."""
    wings = np.zeros(SHAPE, bool)
    wings[:, 102:104, 40:70] = wings[:, 102:104, 150:180] = True
    wings &= (np.arange(SHAPE[0]) > 35)[:, None, None]
    result = body_mask(scan(body, wings=(0, wings)), SPACING_MM, ROI)
    assert result.flags == ()
    assert dice(result.mask, body) > 0.98


def test_mask_shell_on_the_skin_adds_no_more_than_itself(body):
    shell = ndimage.binary_dilation(body, np.ones((1, 3, 3)))
    result = body_mask(scan(body, shell=(0, shell)), SPACING_MM, ROI)
    assert not (result.mask & ~shell).any()
    assert not (body & ~result.mask)[:80].any()


def test_inner_air_is_filled_and_a_hand_apart_dropped(body):
    hu = scan(body)
    hu[10:70, 85:95, 105:115] = -1000
    hu[60:70, 10:25, 10:25] = 40
    assert dice(body_mask(hu, SPACING_MM, ROI).mask, body) > 0.99


@pytest.mark.parametrize("spacing_mm", [(3.0, 4.0, 4.0), (3.0, 4.7, 4.7), (6.0, 6.0, 6.0)])
def test_coarse_grids(spacing_mm):
    shape = tuple(int(n * fine / coarse) for n, fine, coarse in zip(SHAPE, SPACING_MM, spacing_mm, strict=True))
    body = ellipses(shape, spacing_mm)
    couch = np.zeros(shape, bool)
    couch[:, int(224 / spacing_mm[1]) + 1 :][:, :2, 3:-3] = True
    result = body_mask(scan(body, couch=(0, couch)), spacing_mm, ROI)
    assert dice(result.mask, body) > 0.97
    index, flags = neck_slice(result.mask, spacing_mm)
    assert flags == ()
    assert abs(index * spacing_mm[0] - 130) <= 8


@pytest.mark.parametrize("outside", [-1024, -3024, 0])
def test_masked_field_of_view(body, outside):
    hu = scan(body)
    hu[~ndimage.binary_dilation(body, np.ones((1, 5, 5)))] = outside
    hu[:20] = outside
    assert padding_value(hu, -300.0) == (0 if outside == 0 else None)
    result = body_mask(hu, SPACING_MM, ROI)
    assert dice(result.mask[20:], body[20:]) > 0.98
    assert not result.mask[:20].any()


@pytest.mark.parametrize("hu", [-1000, -301])
def test_air_alone_is_refused(hu):
    with pytest.raises(ImageError, match="no body above -300 HU"):
        body_mask(np.full((4, 8, 8), hu, np.int16), SPACING_MM, ROI)


def test_specks_alone_are_refused():
    hu = np.full((4, 40, 40), -1000, np.int16)
    hu[:, 20, 20] = 100
    with pytest.raises(ImageError, match="no body"):
        body_mask(hu, (3.0, 1.0, 1.0), ROI)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.6))
@settings(deadline=None, max_examples=40)
def test_largest_component_agrees_with_scipy(seed, density):
    mask = np.random.default_rng(seed).uniform(size=(5, 8, 9)) < density
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = structure[:, 1, 1] = True
    labels, count = ndimage.label(mask, structure)
    result = largest_component(mask).astype(bool)
    if not count:
        assert not result.any()
        return
    assert np.count_nonzero(result) == np.bincount(labels.ravel())[1:].max()
    assert len(np.unique(labels[result])) == 1


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


# --- phantoms: truth is known ---------------------------------------------------------------------------------------


@cache
def phantom(institution, seed):
    return make_phantom(institution, seed, 0.5)


def found(hu, spacing_mm):
    body = body_mask(hu, spacing_mm, ROI)
    neck, _ = neck_slice(body.mask, spacing_mm)
    box, flags = region_of_interest(body.mask, spacing_mm, ROI)
    return body.mask, neck, box, (*body.flags, *flags)


def spacing_of(case):
    return case.image.geometry.spacing_mm


@pytest.mark.parametrize(("institution", "seed"), [("A", 1), ("A", 2), ("B", 1), ("B", 2)])
def test_no_couch_or_head_rest_in_the_mask(institution, seed):
    """Flat and curved, touching (A 2, B 1) and apart; the neck within two slices, the target inside."""
    case = phantom(institution, seed)
    mask, neck, box, _ = found(case.image.array, spacing_of(case))
    assert not (mask & case.couch).any()
    assert dice(mask, case.body) > 0.98
    assert abs(neck - case.neck_slice) <= 2
    assert np.count_nonzero(case.truth[box]) == np.count_nonzero(case.truth)


def test_touching_mask_shell_adds_only_itself():
    """It is as dense as skin: what it adds is no deeper than its 2.8 mm and a voxel."""
    case = phantom("C", 0)
    mask, neck, _, _ = found(case.image.array, spacing_of(case))
    assert np.count_nonzero(mask & case.body) > 0.98 * np.count_nonzero(case.body)
    assert np.count_nonzero(mask & case.couch) < 0.03 * np.count_nonzero(mask)
    assert abs(neck - case.neck_slice) <= 2


def test_phantom_head_without_shoulders():
    case = phantom("A", 1)
    start = case.neck_slice + 3
    mask, _, box, flags = found(case.image.array[start:], spacing_of(case))
    assert NO_SHOULDERS in flags
    assert box[0].start == 0
    assert not (mask & case.couch[start:]).any()


def test_chest_to_head():
    """The lowest slice goes on for 300 mm."""
    case = phantom("A", 1)
    more = round(300 / spacing_of(case)[0])
    hu = np.concatenate([np.repeat(case.image.array[:1], more, axis=0), case.image.array])
    _, neck, _, flags = found(hu, spacing_of(case))
    assert CHEST_IN_VIEW in flags
    assert abs(neck - more - case.neck_slice) <= 2


def test_truncated_field_of_view():
    case = phantom("A", 1)
    assert TRUNCATED not in found(case.image.array, spacing_of(case))[3]
    cut = np.ascontiguousarray(case.image.array[:, :, 60:-60])
    mask, neck, _, flags = found(cut, spacing_of(case))
    assert TRUNCATED in flags
    assert abs(neck - case.neck_slice) <= 2
    assert not (mask & case.couch[:, :, 60:-60]).any()


def test_scan_circle_that_cuts_the_shoulders():
    case = phantom("A", 1)
    rows, columns = np.ogrid[-1 : 1 : complex(case.body.shape[1]), -1 : 1 : complex(case.body.shape[2])]
    hu = np.where(rows**2 + columns**2 <= 0.81**2, case.image.array, -3024).astype(np.int16)
    assert TRUNCATED not in found(hu, spacing_of(case))[3]  # two ninths more than a circle in the image: masked by hand
    inner = np.ascontiguousarray(hu[:, 24:-24, 24:-24])
    assert TRUNCATED in found(inner, spacing_of(case))[3]


def test_prone_patient_on_a_couch_in_front():
    case = phantom("A", 1)
    mask, neck, _, flags = found(np.ascontiguousarray(case.image.array[:, ::-1]), spacing_of(case))
    assert {COUCH_CUT, PRONE} <= set(flags)
    assert not (mask[:, ::-1] & case.couch).any()
    assert dice(mask[:, ::-1], case.body) > 0.98
    assert abs(neck - case.neck_slice) <= 2


def test_scan_that_is_upside_down_is_not_cut_at_the_neck():
    case = phantom("A", 1)
    _, _, box, flags = found(np.ascontiguousarray(case.image.array[::-1]), spacing_of(case))
    assert NO_HEAD in flags
    assert np.count_nonzero(case.truth[::-1][box]) == np.count_nonzero(case.truth)
