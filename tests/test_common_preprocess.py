"""From scan to network grid and back: geometry, labels, channels, record."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ImageError, LabelError
from common.preprocess import (
    FEET_FIRST,
    IMAGE_INCOMPLETE,
    PreprocessRecord,
    find_patient,
    prepare,
    prepare_patient,
    restore,
)
from common.recipe import PreprocessConfig, RoiConfig
from common.volume import Geometry, Volume, index_to_patient, lps_geometry, patient_to_index, read_nifti

OBLIQUE = tuple((np.array([[1, 0, 0], [0, np.cos(0.1), -np.sin(0.1)], [0, np.sin(0.1), np.cos(0.1)]])).ravel())
DIRECTIONS = {
    "LPS": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0),
    "RAI-like": (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0),
    "feet first": (1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0),
    "sagittal": (0, 0, 1.0, 1.0, 0, 0, 0, 1.0, 0),
    "oblique": OBLIQUE,
}
WHOLE = RoiConfig(crop_at_neck=False)
CONFIG = PreprocessConfig(spacing_mm=(3.0, 2.0, 2.0), roi=WHOLE)
CENTRE_MM = np.array([11.0, -23.0, 105.0])


def grid(direction=DIRECTIONS["LPS"], size=(40, 60, 56), spacing_mm=(3.3, 2.5, 2.7)):
    """A grid whose middle is `CENTRE_MM`."""
    geometry = Geometry(size, spacing_mm, (0.0, 0.0, 0.0), tuple(float(value) for value in direction))
    middle = index_to_patient(geometry, (np.array(size)[None] - 1) / 2)[0]
    return Geometry(size, spacing_mm, tuple((CENTRE_MM - middle).tolist()), geometry.direction)


def points(geometry):
    """Patient coordinates of all voxels, shape (z, y, x, 3)."""
    indices = np.stack(np.meshgrid(*map(np.arange, geometry.size), indexing="ij"), axis=-1)
    return index_to_patient(geometry, indices.reshape(-1, 3)).reshape(*geometry.size, 3)


def ball(geometry, centre_mm, radius_mm):
    return np.linalg.norm(points(geometry) - centre_mm, axis=-1) <= radius_mm


def head(geometry, hu=40):
    """A ball of tissue of 45 mm in air."""
    return Volume(np.where(ball(geometry, CENTRE_MM, 45.0), hu, -1000).astype(np.int16), geometry)


def target_geometry(record):
    """The network's grid in the patient, as the record tells it."""
    lps = lps_geometry(record.geometry)
    starts = np.array([start for start, _ in record.crop])
    corner = starts - 0.5 + 0.5 * np.array(record.spacing_mm) / np.array(lps.spacing_mm)
    x, y, z = index_to_patient(lps, corner[None])[0].tolist()
    return Geometry(record.resampled_shape, record.spacing_mm, (x, y, z), lps.direction)


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_marker_keeps_its_patient_coordinate(direction):
    """A smooth bright spot: its centre of mass is the same point in the patient before, on the new grid, and after."""
    geometry = grid(direction)
    spot_mm = CENTRE_MM + np.array([13.0, -9.0, 17.0])
    spot = np.exp(-0.5 * (np.linalg.norm(points(geometry) - spot_mm, axis=-1) / 6.0) ** 2)
    case = prepare([Volume(head(geometry).array + 3000 * spot, geometry)], None, CONFIG)
    target = target_geometry(case.record)
    weights = np.clip(case.image[0] - 1000, 0, None)  # above muscle with its overshoot
    centre = (weights[..., None] * points(target)).sum(axis=(0, 1, 2)) / weights.sum()
    np.testing.assert_allclose(centre, spot_mm, atol=0.1)
    back = restore(weights / weights.max(), case.record)
    assert back.shape == geometry.size
    centre = (back[..., None] * points(geometry)).sum(axis=(0, 1, 2)) / back.sum()
    np.testing.assert_allclose(centre, spot_mm, atol=0.1)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS.keys())
def test_label_survives_there_and_back(direction):
    geometry = grid(direction)
    blob = ball(geometry, CENTRE_MM + np.array([10.0, 5.0, -8.0]), 18.0)
    case = prepare([head(geometry)], Volume(blob.astype(np.uint8), geometry), CONFIG)
    assert case.label is not None
    assert case.label.dtype == np.bool_
    ml = np.count_nonzero(case.label) * target_geometry(case.record).voxel_ml
    assert ml == pytest.approx(4 / 3 * np.pi * 1.8**3, rel=0.05)
    back = restore(case.label.astype(np.float32), case.record) >= 0.5
    assert dice(back, blob) >= 0.95


def test_case_at_the_target_spacing_is_only_cropped():
    geometry = grid(spacing_mm=(3.0, 2.0, 2.0))
    image = head(geometry)
    case = prepare([image], None, CONFIG)
    assert case.image.shape == (1, *case.record.resampled_shape)
    assert case.image.dtype == np.float32
    assert case.record.spacing_mm == (3.0, 2.0, 2.0)
    assert case.record.overshoot_hu == 0.0
    assert np.array_equal(case.image[0], image.array[case.record.box])
    assert dice(case.body, image.array[case.record.box] > -300) > 0.98
    assert case.label is None
    scores = np.random.default_rng(0).uniform(size=case.body.shape).astype(np.float32)
    expected = np.zeros(geometry.size, np.float32)
    expected[case.record.box] = scores
    assert np.array_equal(restore(scores, case.record), expected)


def test_overshoot_is_clipped_and_recorded():
    case = prepare([head(grid())], None, CONFIG)
    assert case.image.min() >= -1000
    assert case.image.max() <= 40
    assert 10 < case.record.overshoot_hu < 500


def test_extent_is_kept():
    """The outer corners of the region are the same points in the patient on both grids."""
    geometry = grid()
    record = prepare([head(geometry)], None, CONFIG).record
    target = target_geometry(record)
    for corner in (0, 1):
        old = index_to_patient(geometry, np.array([[part[corner] - 0.5 for part in record.crop]]))
        new = patient_to_index(target, old)[0]
        np.testing.assert_allclose(new, corner * np.array(target.size) - 0.5, atol=1e-9)


def test_label_on_flipped_axes_of_the_same_grid_is_taken():
    geometry = grid()
    blob = ball(geometry, CENTRE_MM + np.array([10.0, 5.0, -8.0]), 18.0)
    x, y, z = index_to_patient(geometry, np.array([[0, 0, geometry.size[2] - 1]]))[0].tolist()
    flipped = Geometry(geometry.size, geometry.spacing_mm, (x, y, z), (-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
    plain = prepare([head(geometry)], Volume(blob, geometry), CONFIG)
    turned = prepare([head(geometry)], Volume(blob[:, :, ::-1], flipped), CONFIG)
    assert np.array_equal(plain.label, turned.label)


@given(st.tuples(st.integers(0, 38), st.integers(0, 58), st.integers(0, 54)))
@settings(deadline=None, max_examples=15)
def test_target_is_whole_or_the_case_refused(corner):
    """A block of two voxels a side anywhere: all eight are in the region, or the case is refused."""
    geometry = grid()
    block = tuple(slice(start, start + 2) for start in corner)
    label = np.zeros(geometry.size, np.uint8)
    label[block] = 1
    box = prepare([head(geometry)], None, CONFIG).record.box
    if label[box].sum() == 8:
        assert prepare([head(geometry)], Volume(label, geometry), CONFIG).label.any()
    else:
        with pytest.raises(LabelError, match="outside the region of interest"):
            prepare([head(geometry)], Volume(label, geometry), CONFIG)


def test_feet_first_scan_is_the_same_case_and_flagged():
    """The same voxels, given from the head to the feet."""
    geometry = grid()
    x, y, z = index_to_patient(geometry, np.array([[geometry.size[0] - 1, 0, 0]]))[0].tolist()
    turned = Geometry(geometry.size, geometry.spacing_mm, (x, y, z), (1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))
    image = head(geometry)
    plain = prepare([image], None, CONFIG)
    flipped = prepare([Volume(np.ascontiguousarray(image.array[::-1]), turned)], None, CONFIG)
    assert np.array_equal(plain.image, flipped.image)
    assert (plain.record.flags, flipped.record.flags) == ((), (FEET_FIRST,))


def test_label_cut_by_the_region_is_refused_with_its_size():
    """Tissue ends at 45 mm; with no margin, a label of eight voxels at the grid's far corner lies outside."""
    geometry = grid()
    label = np.zeros(geometry.size, np.uint8)
    label[:2, :2, :2] = 1
    label[20, 30, 28] = 1
    message = "8 of 9 voxels (0.18 of 0.20 ml) lie outside the region of interest, below and in front and to the right"
    with pytest.raises(LabelError, match=re.escape(message)) as caught:
        prepare([head(geometry)], Volume(label, geometry), CONFIG)
    assert "roi.crop_at_neck: false" in str(caught.value)


@pytest.mark.parametrize(
    "other",
    [
        grid(size=(40, 60, 57)),
        grid(spacing_mm=(3.3, 2.5, 2.8)),
        grid(OBLIQUE),
        Geometry((40, 60, 56), (3.3, 2.5, 2.7), (0.0, 0.0, 0.0)),
    ],
    ids=["size", "spacing", "direction", "origin"],
)
def test_label_on_another_grid_is_refused(other):
    with pytest.raises(LabelError, match=r"voxels of .* is not its image's .* export the label"):
        prepare([head(grid())], Volume(np.ones(other.size, np.uint8), other), CONFIG)


def test_label_too_small_for_the_grid_is_refused():
    geometry = grid()
    label = np.zeros(geometry.size, np.uint8)
    label[20, 30, 28] = 1
    with pytest.raises(LabelError, match="label of 1 voxels vanishes"):
        prepare([head(geometry)], Volume(label, geometry), PreprocessConfig(spacing_mm=(9.0, 9.0, 9.0), roi=WHOLE))


def test_empty_label_stays_empty():
    geometry = grid()
    case = prepare([head(geometry)], Volume(np.zeros(geometry.size, np.uint8), geometry), CONFIG)
    assert case.label is not None
    assert not case.label.any()


def test_second_channel_is_brought_onto_the_first_ones_grid():
    """The second scan is finer and turned; a spot lands on the same voxels of the prepared case."""
    first, second = grid(), grid(DIRECTIONS["sagittal"], (80, 76, 90), (2.0, 2.1, 1.9))
    spot_mm = CENTRE_MM + np.array([13.0, -9.0, 17.0])
    images = []
    for geometry in (first, second):
        spot = np.exp(-0.5 * (np.linalg.norm(points(geometry) - spot_mm, axis=-1) / 7.0) ** 2)
        images.append(Volume((head(geometry).array + 500 * spot).astype(np.float32), geometry))
    case = prepare(images, None, CONFIG)
    assert case.image.shape[0] == 2
    assert case.record.flags == ()
    inner = ball(target_geometry(case.record), CENTRE_MM, 36.0)
    np.testing.assert_allclose(case.image[1][inner], case.image[0][inner], atol=12)


def test_second_channel_that_covers_a_part_is_flagged_and_filled_with_air():
    first = grid()
    half = Geometry((20, 60, 56), first.spacing_mm, first.origin_mm, first.direction)
    case = prepare([head(first), Volume(head(first).array[:20], half)], None, CONFIG)
    assert case.record.flags == (IMAGE_INCOMPLETE,)
    np.testing.assert_allclose(case.image[1][-3:], -1000, atol=0.01)


def test_second_channel_elsewhere_is_refused():
    away = Geometry(grid().size, grid().spacing_mm, (5000.0, 0.0, 0.0))
    with pytest.raises(ImageError, match=r"image 2 .* does not overlap"):
        prepare([head(grid()), Volume(head(grid()).array, away)], None, CONFIG)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    array = head(grid()).array.astype(np.float32)
    array[0, 0, 0] = value
    with pytest.raises(ImageError, match="image 1: 1 voxels are not finite"):
        prepare([Volume(array, grid())], None, CONFIG)


@pytest.mark.parametrize("outside", [0, -3024])
def test_filling_of_a_masked_image_becomes_air(outside):
    geometry = grid()
    array = np.where(ball(geometry, CENTRE_MM, 45.0), 40, outside).astype(np.int16)
    case = prepare([Volume(array, geometry)], None, CONFIG)
    assert case.image[0, 0, 0, 0] == pytest.approx(-1000 if outside == 0 else -1024, abs=1)
    assert np.count_nonzero(case.body) * target_geometry(case.record).voxel_ml == pytest.approx(382, rel=0.05)


def test_scores_are_clipped_and_outside_is_zero():
    case = prepare([head(grid())], None, CONFIG)
    restored = restore(np.full(case.record.resampled_shape, 1.5, np.float32), case.record)
    assert (restored[case.record.box] == 1.0).all()
    assert np.count_nonzero(restored) == restored[case.record.box].size < restored.size


def test_scores_of_another_shape_are_refused():
    record = prepare([head(grid())], None, CONFIG).record
    with pytest.raises(ValueError, match="scores have shape"):
        restore(np.zeros((2, 2, 2), np.float32), record)


triples = st.tuples(*[st.floats(0.1, 10)] * 3)
ranges = st.tuples(st.integers(0, 50), st.integers(51, 99))


@given(triples, triples, st.tuples(ranges, ranges, ranges), st.sampled_from([[], ["couch-cut", "no-shoulders"]]))
@settings(max_examples=30)
def test_record_passes_through_json(spacing_mm, origin_mm, crop, flags):
    geometry = Geometry((100, 100, 100), spacing_mm, origin_mm, OBLIQUE)
    record = PreprocessRecord(geometry, crop, (10, 20, 30), (3.0, 1.0, 1.0), 12.5, tuple(flags))
    assert PreprocessRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@pytest.mark.parametrize("damage", [{"crop": [[0, 1]]}, {"geometry": {"sizes": [1, 1, 1]}}, {"spacing_mm": None}])
def test_damaged_record_is_refused(damage):
    record = prepare([head(grid())], None, CONFIG).record
    with pytest.raises((KeyError, TypeError, ValueError)):
        PreprocessRecord.from_dict(record.to_dict() | damage)


DATA = Path(os.environ.get("FEDGTV_DATA", Path(__file__).parents[2] / "shared" / "data")) / "openkbp"


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not there; set FEDGTV_DATA")
def test_real_targets_survive_there_and_back():
    """Every tenth case: 128 x 128 x 128, masked to -1024 outside the irradiated part; targets reach below the neck."""
    config = PreprocessConfig(spacing_mm=(3.0, 4.0, 4.0), roi=WHOLE)
    for folder in sorted(DATA.glob("*/*/"))[::10]:
        label = read_nifti(folder / "ptv70.nii.gz")
        case = prepare([read_nifti(folder / "ct.nii.gz")], label, config)
        assert case.label is not None
        assert np.count_nonzero(case.body & case.label) > 0.9 * np.count_nonzero(case.label)
        back = restore(case.label.astype(np.float32), case.record) >= 0.5
        assert dice(back, label.array > 0) > 0.95, folder


def test_a_patient_found_once_prepares_as_a_scan_does():
    hu = np.full((10, 40, 40), -1000, np.int16)
    hu[:, 8:32, 8:32] = np.random.default_rng(0).integers(0, 80, (10, 24, 24))
    scan = Volume(hu, Geometry(hu.shape, (3.0, 2.0, 2.0), direction=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0)))
    config = PreprocessConfig(spacing_mm=(3.0, 3.0, 3.0), roi=RoiConfig(crop_at_neck=False))
    patient = find_patient(scan, config.roi)
    once, whole = prepare_patient(patient, [scan], None, config), prepare([scan], None, config)
    assert np.array_equal(once.image, whole.image)
    assert once.record == whole.record
    assert patient.flags == whole.record.flags == (FEET_FIRST, *patient.body.flags)
    assert patient.box == whole.record.box
