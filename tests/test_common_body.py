"""Body, couch, neck and region of interest on bodies made of ellipses."""

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from common.body import COUCH_CUT, MASK_SHELL, PRONE, TRUNCATED, body_mask, padding_value
from common.errors import ImageError
from common.phantom import make_phantom
from common.recipe import RoiConfig
from common.region import CHEST_IN_VIEW, NO_HEAD, NO_SHOULDERS, neck_slice, region_of_interest

SPACING_MM = (4.0, 2.0, 2.0)
SHAPE = (90, 140, 220)
ROI = RoiConfig()


def scan(body, **structures):
    hu = np.where(body, 40, -1000).astype(np.int16)
    for value, mask in structures.values():
        hu[mask & ~body] = value
    return hu


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture(scope="module")
def body(ellipse_body):
    return ellipse_body(SHAPE, SPACING_MM)


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
def test_coarse_grids(spacing_mm, ellipse_body):
    shape = tuple(int(n * fine / coarse) for n, fine, coarse in zip(SHAPE, SPACING_MM, spacing_mm, strict=True))
    body = ellipse_body(shape, spacing_mm)
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
    assert not (case.truth & ~mask).any()


def test_mask_shell_on_a_coarse_grid_adds_only_itself():
    """At 1.8 mm a pixel skin and fat blur: what stays is no deeper than its 2.8 mm and a voxel."""
    case = phantom("C", 0)
    mask, neck, _, flags = found(case.image.array, spacing_of(case))
    assert MASK_SHELL not in flags
    assert np.count_nonzero(mask & case.body) > 0.98 * np.count_nonzero(case.body)
    assert np.count_nonzero(mask & case.couch) < 0.03 * np.count_nonzero(mask)
    assert abs(neck - case.neck_slice) <= 2


@pytest.mark.parametrize(("seed", "touches"), [(0, True), (2, False)])
def test_no_couch_head_rest_or_mask_shell_in_the_mask(seed, touches):
    """At 1.2 mm a pixel. Where it is pressed on, the shell takes a voxel of the skin along."""
    case = make_phantom("C", seed, 0.75)
    assert case.info["couch_touches"] == touches
    mask, neck, box, flags = found(case.image.array, spacing_of(case))
    assert MASK_SHELL in flags
    assert not (mask & case.couch).any()
    assert np.count_nonzero(mask & case.body) > 0.93 * np.count_nonzero(case.body)
    assert abs(neck - case.neck_slice) <= 2
    assert np.count_nonzero(case.truth[box]) == np.count_nonzero(case.truth)
    assert not (case.truth & ~mask).any()


@pytest.mark.parametrize(("institution", "seed"), [("A", 28), ("B", 20)])
def test_a_tumour_beside_an_airway_with_thin_walls_lies_in_the_body(institution, seed):
    """Opening takes the nose's wall: before cavities were filled, a tenth of the tumour was outside the mask."""
    case = make_phantom(institution, seed, 0.75)
    mask, _, _, _ = found(case.image.array, spacing_of(case))
    assert not (case.truth & ~mask).any()


def test_a_bare_head_keeps_its_skin():
    case = make_phantom("B", 1, 0.75)
    mask, _, _, flags = found(case.image.array, spacing_of(case))
    assert MASK_SHELL not in flags
    assert np.count_nonzero(mask & case.body) > 0.97 * np.count_nonzero(case.body)


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


@pytest.mark.parametrize("outside", [0, -1024, -3024])
def test_couch_inside_a_masked_scan_circle(outside):
    """What fills the outside is neither tissue nor the air that foam is told from: without care, 4000 voxels stayed."""
    case = phantom("B", 1)
    rows, columns = np.ogrid[-1 : 1 : complex(case.body.shape[1]), -1 : 1 : complex(case.body.shape[2])]
    hu = np.where(rows**2 + columns**2 <= 1, case.image.array, outside).astype(np.int16)
    mask, _, _, _ = found(hu, spacing_of(case))
    assert np.count_nonzero(mask & case.couch) < 60  # where the circle cuts couch and shoulders
    assert np.count_nonzero(mask & case.body) > 0.95 * np.count_nonzero(case.body & (rows**2 + columns**2 <= 1))


def test_prone_patient_on_a_curved_couch():
    """No straight line shows it, but foam in front does."""
    case = phantom("B", 1)
    assert PRONE not in found(case.image.array, spacing_of(case))[3]
    mask, neck, _, flags = found(np.ascontiguousarray(case.image.array[:, ::-1]), spacing_of(case))
    assert PRONE in flags
    assert not (mask[:, ::-1] & case.couch).any()
    assert abs(neck - case.neck_slice) <= 2


def test_scan_that_is_upside_down_is_not_cut_at_the_neck():
    case = phantom("A", 1)
    _, _, box, flags = found(np.ascontiguousarray(case.image.array[::-1]), spacing_of(case))
    assert NO_HEAD in flags
    assert np.count_nonzero(case.truth[::-1][box]) == np.count_nonzero(case.truth)
