from functools import cache

import cv2
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom import dcmread
from scipy import ndimage

from common.errors import ConfigError, InputError
from common.phantom import make_phantom
from common.phantom_canvas import Canvas, Pose
from common.phantom_contours import keyhole, outlines
from common.phantom_dicom import write_phantom
from common.phantom_shapes import Box, Capsule, Column, Cut, Ellipsoid, Grown, Mirrored
from common.volume import Geometry, index_to_patient, read_nifti

SCALE = 0.25
SITES = "ABC"
CASES = [(site, seed) for site in SITES for seed in range(5)]


@cache
def phantom(site, seed, contrast=1.0):
    return make_phantom(site, seed, SCALE, contrast)


def extent_mm(mask, geometry):
    where = np.nonzero(mask)
    return [(np.ptp(w) + 1) * step for w, step in zip(where, geometry.spacing_mm, strict=True)]


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


# --- shapes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "point", "level"),
    [
        (Ellipsoid((0, 0, 0), (10, 10, 10)), (7, 0, 0), 3),
        (Ellipsoid((1, 2, 3), (5, 10, 20)), (1, 2, 25), -2),
        (Box((0, 0, 0), (5, 6, 7)), (4, 0, 0), 1),
        (Box((0, 0, 0), (5, 6, 10), np.pi / 2), (0, -8, 0), 2),  # a quarter turn: its top points to the front
        (Capsule((0, 0, 0), (0, 0, 10), 3), (0, 0, 12), 1),
        (Column(((0, 0, 0, 8, 8), (50, 0, 0, 8, 8))), (6, 0, 25), 2),
        (Cut(Ellipsoid((0, 0, 0), (10, 10, 10)), (Ellipsoid((0, 0, 0), (6, 6, 6)),)), (7, 0, 0), 1),
        (Grown(Ellipsoid((0, 0, 0), (10, 10, 10)), 2), (7, 0, 0), 5),
        (Mirrored(Ellipsoid((20, 0, 0), (10, 10, 10))), (-27, 0, 0), 3),
    ],
)
def test_levels_are_millimetres_to_the_surface(shape, point, level):
    x, y, z = (np.full((1, 1, 1), value, np.float32) for value in point)
    assert shape.level(z, y, x).item() == pytest.approx(level, abs=1e-3)


def test_a_painted_ball_has_its_volume_wherever_the_patient_lies():
    geometry = Geometry((40, 50, 60), (2.0, 1.0, 1.0), (-30.0, -25.0, 60.0))
    canvas = Canvas(geometry, Pose((1.0, 1.0, 1.0), 0.3, (0.0, 0.0, 100.0)))
    canvas.paint(Ellipsoid((2, 3, 0), (10, 10, 10)), 0.0)
    litres = (canvas.hu + 1000).sum() * 2 / 1000
    assert litres == pytest.approx(4 / 3 * np.pi * 1000, rel=0.02)


# --- cases ------------------------------------------------------------------------------------------------------


def test_the_same_arguments_give_the_same_bytes():
    first, second = phantom("B", 3), make_phantom("B", 3, SCALE)
    for name in ("truth", "delineated", "body", "couch", "decoys"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.image.array.tobytes() == second.image.array.tobytes()
    assert (first.image.geometry, first.info) == (second.image.geometry, second.info)


def test_seeds_and_institutions_are_different_patients():
    origins = {phantom(site, seed).image.geometry.origin_mm for site, seed in CASES}
    assert len(origins) == len(CASES)


def test_all_scales_show_the_same_patient():
    fine, coarse = make_phantom("A", 2, 0.4), phantom("A", 2)
    assert (fine.stage, fine.info) == (coarse.stage, coarse.info)
    for name in ("truth", "body"):
        volumes = [getattr(p, name).sum() * p.image.geometry.voxel_ml for p in (fine, coarse)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.06)
    centres = [index_to_patient(p.image.geometry, np.argwhere(p.truth)).mean(axis=0) for p in (fine, coarse)]
    np.testing.assert_allclose(centres[0], centres[1], atol=1.5)


def test_the_grid_is_coarsened_as_documented():
    geometry = phantom("C", 0).image.geometry
    assert geometry.size[1:] == (128, 128)
    assert geometry.spacing_mm[1:] == (3.6, 3.6)
    assert geometry.spacing_mm[0] == pytest.approx(6.0, rel=0.02)


@pytest.mark.parametrize(("site", "seed"), CASES)
def test_no_intensity_window_finds_the_tumour(site, seed):
    case = phantom(site, seed)
    smooth = np.stack([cv2.GaussianBlur(plane, (0, 0), 0.8) for plane in case.image.array.astype(np.float32)])
    assert best_window_dice(case.image.array, case) < 0.3
    assert best_window_dice(smooth, case) < 0.3


def best_window_dice(image, case):
    """The best DSC of all windows between two of 250 thresholds, within the body."""
    edges = np.arange(-150, 352, 2)
    inside = image[case.body]
    below = np.concatenate([[0], np.cumsum(np.histogram(inside, edges)[0])])
    hits = np.concatenate([[0], np.cumsum(np.histogram(image[case.body & case.truth], edges)[0])])
    chosen, found = below[None] - below[:, None], hits[None] - hits[:, None]
    upwards = np.triu(np.ones_like(chosen, bool), 1)
    return (2 * found[upwards] / (chosen[upwards] + case.truth.sum())).max()


def test_the_window_search_finds_a_tumour_that_stands_out():
    case = phantom("A", 0)
    assert best_window_dice(np.where(case.truth, 100, 50), case) == 1


@pytest.mark.parametrize(("site", "seed"), CASES)
def test_masks_agree_with_one_another(site, seed):
    case = phantom(site, seed)
    assert case.truth.any()
    assert not (case.truth & ~case.body).any()
    assert case.decoys.any()
    assert not (case.truth & case.decoys).any()
    assert case.couch.any()
    assert not (case.couch & case.body).any()
    assert ndimage.label(case.truth)[1] == 1
    assert case.image.array[case.truth].mean() == pytest.approx(case.info["tumour_hu"], abs=75)
    assert (case.image.array[case.truth] > -500).mean() > 0.97


@pytest.mark.parametrize("site", SITES)
def test_delineation_follows_the_institution(site):
    for seed in range(5):
        case = phantom(site, seed)
        slices = [np.flatnonzero(mask.any(axis=(1, 2))) for mask in (case.truth, case.delineated)]
        if site == "A":
            assert dice(case.truth, case.delineated) > 0.93
        if site == "B":
            assert not (case.truth & ~case.delineated).any()
            assert (case.delineated & (case.image.array < -500)).any()
        if site == "C":
            assert not (case.delineated & ~case.truth).any()
            assert len(slices[1]) <= len(slices[0]) - 2
        growth = case.delineated.sum() / case.truth.sum()
        low, high = {"A": (0.9, 1.1), "B": (1.2, 2.1), "C": (0.45, 0.9)}[site]
        assert low < growth < high


def test_tumours_have_about_the_papers_extents():
    extents = [extent_mm(phantom(site, seed).truth, phantom(site, seed).image.geometry) for site, seed in CASES]
    np.testing.assert_allclose(np.mean(extents, axis=0), (45, 41, 61), rtol=0.2)
    assert np.min(extents) > 15
    assert np.max(extents) < 105


@pytest.mark.parametrize("seed", range(4))
def test_the_tumour_grows_where_and_on_the_side_it_should(seed):
    case = phantom("A", seed)
    geometry = case.image.geometry
    centre = index_to_patient(geometry, np.argwhere(case.truth)).mean(axis=0)
    middle = index_to_patient(geometry, np.argwhere(case.body)).mean(axis=0)
    across = centre[0] - middle[0]
    assert (across > 3) == (case.info["side"] == "left")
    assert abs(across) < 25
    above_neck = centre[2] - (geometry.origin_mm[2] + case.neck_slice * geometry.spacing_mm[0])
    assert 70 < above_neck < 135


@pytest.mark.parametrize(("site", "seed"), CASES)
def test_head_neck_and_shoulders_have_their_widths(site, seed):
    case = phantom(site, seed)
    areas = case.body.sum(axis=(1, 2))
    width = case.body.any(axis=1).sum(axis=1) * case.image.geometry.spacing_mm[2]
    assert 120 <= width[case.neck_slice] <= 158
    assert areas[case.neck_slice] < 0.7 * areas[case.neck_slice :].max()
    assert areas[case.neck_slice] < 0.4 * areas[: case.neck_slice].max()
    assert width[case.neck_slice :].max() > 155
    view = case.image.geometry.spacing_mm[2] * 128
    assert width.max() == pytest.approx(min(440, view), rel=0.08)


def test_institutions_differ_in_noise_and_spacing():
    noise = {}
    for site in SITES:
        case = phantom(site, 1)
        vertex = np.flatnonzero(case.body.any(axis=(1, 2)))[-1]
        lower, upper = (case.image.array[vertex - k].astype(float) for k in (9, 8))  # cerebrum, 50 mm below the vertex
        deep = ndimage.binary_erosion(case.body[vertex - 8], iterations=9)
        difference = (upper - lower)[deep]
        noise[site] = 1.4826 * np.median(np.abs(difference - np.median(difference))) / 2**0.5
    assert noise["A"] == pytest.approx(6, abs=2)
    assert noise["B"] == pytest.approx(14, abs=3)
    assert noise["C"] == pytest.approx(9, abs=2)
    assert [round(phantom(site, 0).image.geometry.spacing_mm[1], 3) for site in SITES] == [3.904, 3.0, 3.6]


def test_contrast_raises_the_tumour_but_not_the_muscle():
    plain, strong = phantom("B", 1), phantom("B", 1, 3.0)
    difference = strong.image.array.astype(int) - plain.image.array
    inner = ndimage.binary_erosion(plain.truth)
    expected = 2 * (plain.info["tumour_hu"] - plain.info["muscle_hu"])
    assert np.median(difference[inner]) == pytest.approx(expected, abs=4)
    assert strong.info["muscle_hu"] == plain.info["muscle_hu"]
    np.testing.assert_array_equal(plain.truth, strong.truth)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("D", 1), "institution 'D' is unknown; expected one of A, B, C"),
        (("A", -1), "seed is -1; expected 0 or more"),
        (("A", 1, 0.0), "scale is 0.0; expected 0.1 to 1"),
        (("A", 1, 0.25, -1.0), "contrast is -1.0; expected 0 to 100"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments, words):
    with pytest.raises(ConfigError, match=words):
        make_phantom(*arguments)


# --- contours ---------------------------------------------------------------------------------------------------


def fill_even_odd(polygons, shape):
    """An oracle: crossing numbers at pixel centres."""
    rows, columns = np.indices(shape) + 0.5
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        for (r0, c0), (r1, c1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if r0 != r1:
                crosses = (rows > min(r0, r1)) & (rows < max(r0, r1))
                inside ^= crosses & (columns < c0 + (rows - r0) * (c1 - c0) / (r1 - r0))
    return inside


@given(hnp.arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8))))
@settings(max_examples=60, deadline=None)
def test_outlines_give_the_mask_back_as_loops(mask):
    pieces = outlines(mask)
    loops = [loop for piece in pieces for loop in (piece.outer, *piece.holes)]
    np.testing.assert_array_equal(fill_even_odd(loops, mask.shape), mask)
    assert len(pieces) == ndimage.label(mask)[1]


def test_a_square_with_two_holes_becomes_one_polygon():
    mask = np.ones((7, 12), bool)
    mask[2:4, 2:4] = mask[3:5, 7:10] = False
    (piece,) = outlines(mask)
    assert (len(piece.outer), len(piece.holes)) == (4, 2)
    polygon = keyhole(piece)
    assert len(polygon) == 4 + (4 + 2) + (4 + 2)  # each cut is walked twice: entry and exit are repeated
    filled = np.zeros((7, 12), np.uint8)
    cv2.fillPoly(filled, [np.round((polygon[:, ::-1] - 0.5) * 65536).astype(np.int32)], 1, shift=16)
    assert filled[0, 0]
    assert not filled[mask == 0].all()  # fillPoly paints borders too, but leaves the holes' insides


# --- DICOM ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SITES)
def export(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "case-007"
    case = phantom(request.param, 1)
    write_phantom(case, folder, 7)
    return case, folder


def structures_of(folder):
    dataset = dcmread(next((folder / "dicom").glob("RS.*.dcm")))
    names = {int(item.ROINumber): item.ROIName for item in dataset.StructureSetROISequence}
    return dataset, {names[int(item.ReferencedROINumber)]: item for item in dataset.ROIContourSequence}


def test_the_series_reads_back_with_simpleitk(export):
    case, folder = export
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "dicom")))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), case.image.array)
    np.testing.assert_allclose(image.GetSpacing()[::-1], case.image.geometry.spacing_mm, rtol=1e-4)
    np.testing.assert_allclose(image.GetOrigin(), case.image.geometry.origin_mm, atol=1e-4)


def test_the_truth_lies_beside_the_dicom_folder(export):
    case, folder = export
    truth = read_nifti(folder / "truth.nii.gz")
    np.testing.assert_array_equal(truth.array != 0, case.truth)
    assert sorted(path.name for path in folder.iterdir()) == ["dicom", "truth.nii.gz"]


def test_the_target_and_its_traps_stand_in_the_structure_set(export):
    case, folder = export
    dataset, structures = structures_of(folder)
    target, margin = {"A": ("GTVnx", "CTV_60"), "B": ("GTV-T", "ring 10mm"), "C": ("gtv_p", "ctv_p")}[case.institution]
    assert [name for name in structures if name.lower().startswith("gtv")] == [target]
    assert "ContourSequence" not in structures["PTV_eval"]
    assert structures["isocentre"].ContourSequence[0].ContourGeometricType == "POINT"
    assert dataset.PatientName == f"Fictional^{case.institution}0007"
    expected = case.delineated.copy()
    np.testing.assert_array_equal(filled(structures[target], case), expected)
    around = filled(structures[margin], case)
    assert (around & expected).any() == (case.institution != "B")


def filled(item, case):
    geometry = case.image.geometry
    mask = np.zeros(geometry.size, bool)
    for contour in item.ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        x, y, z = ((points - geometry.origin_mm) / geometry.spacing_mm[::-1]).T
        mask[round(z[0])] ^= fill_even_odd([np.column_stack([y, x]) + 0.5], geometry.size[1:])
    return mask


def test_only_b_writes_keyholes_and_only_c_refers_to_other_slices(export):
    case, folder = export
    _, structures = structures_of(folder)
    slices = {str(path.name)[3:-4] for path in (folder / "dicom").glob("CT.*.dcm")}
    repeats, references = 0, set()
    for name in set(structures) - {"PTV_eval", "isocentre"}:
        for contour in structures[name].ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            repeats += len(points) - len(np.unique(points, axis=0)) >= 2
            references.add(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)
    assert (repeats > 0) == (case.institution == "B")
    assert references.isdisjoint(slices) if case.institution == "C" else references <= slices


def test_the_same_case_gives_the_same_files(tmp_path):
    contents = []
    for name in ("first", "second"):
        write_phantom(phantom("A", 1), tmp_path / name, 7)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name / "dicom").iterdir()})
    assert contents[0] == contents[1]


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something already; expected a new or empty folder"):
        write_phantom(phantom("A", 1), tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
