import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from pydicom import dcmread

from common.contour_mask import Structure, contours_to_mask, draw_structure
from common.dicom import read_ct_series, scan_folder
from common.metrics import case_metrics
from common.phantom import make_phantom
from common.phantom_dialects import DIALECTS
from common.phantom_dicom import write_phantom
from common.rtstruct import choose_structure, read_rtstruct, write_rtstruct
from common.site_config import IngestConfig
from common.volume import Geometry

GRID = Geometry((5, 10, 12), (3.0, 1.0, 1.0))
POSITIONS = {  # patient position: row and column cosines of an axial slice (PS3.3 C.7.3.1.1.2)
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "HFDR": (0, 1, 0, -1, 0, 0),
    "FFDL": (0, 1, 0, 1, 0, 0),
    "FFDR": (0, -1, 0, -1, 0, 0),
    "oblique": (0.8, 0.6, 0, -0.48, 0.64, 0.6),
}


def square(z, low, high):
    """In patient coordinates, from (low, low) to (high, high)."""
    return np.array([[low, low, z], [high, low, z], [high, high, z], [low, high, z]], float)


def structure(*contours, **more):
    return Structure(1, "GTV", contours, **more)


def planes_of(mask):
    return mask.sum(axis=(1, 2)).tolist()


@pytest.mark.parametrize("towards", [1, -1], ids=["upwards", "downwards"])
@pytest.mark.parametrize("position", POSITIONS)
def test_every_patient_position_against_points_computed_from_the_headers(
    tmp_path, write_ct, write_structures, position, towards
):
    """The oracle shares no code: PS3.3 C.7.6.2.1.1 voxel by voxel, and matplotlib for points in polygons."""
    cosines = np.array(POSITIONS[position], float)
    row, column = cosines[:3], cosines[3:]
    corner, spacing = np.array([11.0, -7.0, 150.0]), (1.25, 0.75)

    def turned(dataset, index):
        dataset.ImageOrientationPatient = [round(value, 9) for value in cosines]
        position_mm = corner + towards * 3.0 * index * np.cross(row, column)
        dataset.ImagePositionPatient = [round(value, 6) for value in position_mm]

    slices = write_ct(tmp_path / "ct", np.zeros((6, 20, 26)), (3.0, *spacing), change=turned)
    uv = np.array([[2.2, 3.1], [14.4, 2.3], [15.2, 9.7], [8.1, 6.6], [2.9, 18.2]])  # mm along row and column
    drawn = {}
    for number in (1, 2, 4):
        origin = np.array(slices[number].ImagePositionPatient, float)
        drawn[number] = origin + uv[:, :1] * row + uv[:, 1:] * column
    path = write_structures(tmp_path / "rt.dcm", slices, {"GTV": list(drawn.values())})
    series = read_ct_series(tmp_path / "ct")
    mask = contours_to_mask(read_rtstruct(path).structures[0], series.volume.geometry)
    for index, sop_uid in enumerate(series.sop_uids):
        dataset = next(item for item in slices if item.SOPInstanceUID == sop_uid)
        number = slices.index(dataset)
        origin = np.array(dataset.ImagePositionPatient, float)
        rows, columns = np.mgrid[:20, :26]
        centres = origin + columns[..., None] * spacing[1] * row + rows[..., None] * spacing[0] * column
        flat = np.stack([(centres - origin) @ row, (centres - origin) @ column], axis=-1).reshape(-1, 2)
        inside = Outline(uv).contains_points(flat).reshape(20, 26) if number in drawn else np.zeros((20, 26), bool)
        np.testing.assert_array_equal(mask[index], inside)
    assert planes_of(mask).count(0) == 3


@pytest.mark.parametrize("rounding_mm", [-0.01, 0.0, 0.01])
def test_planes_half_way_between_slices_go_to_one_side_all_of_them(rounding_mm):
    z = [1.5 + rounding_mm, 4.5 - rounding_mm, 7.5 + rounding_mm]
    assert planes_of(contours_to_mask(structure(*(square(each, 1.5, 4.5) for each in z)), GRID)) == [0, 9, 9, 9, 0]


def test_planes_half_a_slice_outside_go_to_the_end_slices():
    ends = structure(square(-1.5, 1.5, 4.5), square(13.5, 1.5, 3.5))
    assert planes_of(contours_to_mask(ends, GRID)) == [9, 0, 0, 0, 4]


@pytest.mark.parametrize("apart_mm", [0.04, 0.3, 0.5, 0.75])
def test_islands_a_little_off_the_plane_of_the_rest_are_kept(apart_mm):
    lower = [square(z, 0.5, 3.5) for z in (3, 6, 9)]
    upper = [square(z + apart_mm, 5.5, 7.5) for z in (3, 6, 9)]
    for order in ([*lower, *upper], [*upper, *lower]):
        drawn = draw_structure(structure(*order), GRID)
        assert (planes_of(drawn.mask), drawn.remarks) == ([0, 13, 13, 13, 0], ())


def test_a_hole_a_little_off_the_plane_of_its_outline_is_a_hole():
    drawn = draw_structure(structure(square(3, 0.5, 6.5), square(3.2, 2.5, 4.5)), GRID)
    assert (planes_of(drawn.mask), drawn.remarks) == ([0, 36 - 4, 0, 0, 0], ())


@pytest.mark.parametrize("step_mm", [0.5, 0.6, 1.0, 1.5])
def test_of_planes_finer_than_the_slices_the_nearest_counts_and_the_others_are_told(step_mm):
    """From z = 0 to 9; on the slices' own planes the squares are of 3 x 3 pixels, between them of 2 x 2."""
    z = np.arange(0, 9 + 1e-9, step_mm)
    contours = [square(each, 1.5, 4.5 if abs(each / 3 - round(each / 3)) < 1e-9 else 3.5) for each in z]
    drawn = draw_structure(structure(*contours), GRID)
    assert planes_of(drawn.mask) == [9, 9, 9, 9, 0]
    (remark,) = drawn.remarks
    assert f"has {len(z) - 4} contours on planes between slices" in remark


def test_one_plane_of_an_island_alone_a_slice_third_off_is_left_out_and_told():
    drawn = draw_structure(structure(square(3, 0.5, 3.5), square(4, 5.5, 7.5)), GRID)
    assert planes_of(drawn.mask) == [0, 9, 0, 0, 0]
    assert "has 1 contour on planes between slices, where another plane is nearer" in drawn.remarks[0]


def test_exclusive_contours_cut_each_other_and_others_are_joined_with_a_remark():
    contours = square(3, 0.5, 4.5), square(3, 2.5, 6.5)
    assert contours_to_mask(structure(*contours, exclusive=True), GRID)[1].sum() == 16 + 16 - 2 * 4
    drawn = draw_structure(structure(*contours), GRID)
    assert drawn.mask[1].sum() == 16 + 16 - 4
    (remark,) = drawn.remarks
    assert (
        "overlap in part or nearly coincide on 1 slice (the first is slice 1, counted from 0); they were joined; "
        in remark
    )


def test_holes_draw_no_remark_and_left_out_contours_do():
    hole = draw_structure(structure(square(3, 0.5, 6.5), square(3, 2.5, 4.5)), GRID)
    assert (hole.mask[1].sum(), hole.remarks) == (36 - 4, ())
    (remark,) = draw_structure(structure(square(3, 0.5, 6.5), num_left_out=2), GRID).remarks
    assert remark.startswith("structure 'GTV' has 2 contours bounding no area")


@pytest.fixture(scope="module", params="ABC")
def phantom(request):
    return make_phantom(request.param, seed=3, scale=0.25)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, phantom):
    """The phantom's folder of CT and RTSTRUCT, and the CT as it is read."""
    folder = tmp_path_factory.mktemp("phantom") / "case"
    write_phantom(phantom, folder, 1)
    return folder / "dicom", read_ct_series(folder / "dicom")


def test_a_phantoms_rtstruct_gives_what_was_delineated(phantom, exported):
    folder, series = exported
    (path,) = folder.glob("RS.*")
    target = choose_structure(read_rtstruct(path).structures, IngestConfig().structures)
    assert target.name == DIALECTS[phantom.institution].target
    mask = contours_to_mask(target, series.volume.geometry)
    np.testing.assert_array_equal(mask, phantom.delineated)


@pytest.mark.parametrize("which", ["truth", "delineated", "body"])
def test_a_phantoms_mask_to_rtstruct_and_back_keeps_every_voxel(tmp_path, phantom, exported, which):
    _, series = exported
    mask = getattr(phantom, which)
    write_rtstruct(mask, series, tmp_path / "rt.dcm", "GTV")
    back = contours_to_mask(read_rtstruct(tmp_path / "rt.dcm").structures[0], series.volume.geometry)
    assert np.array_equal(back, mask)  # the DSC is 1; asked for is 0.99


spacings = st.integers(4000, 25000).map(lambda tenths_um: tenths_um / 10000)
angles = st.floats(-180, 180)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(angles, st.floats(-80, 80), angles, spacings, spacings, spacings, st.booleans())
def test_oblique_grids_of_oblong_pixels_keep_the_mask(
    tmp_path_factory, write_ct, phantom, yaw, pitch, roll, row_mm, column_mm, slice_mm, downwards
):
    where = np.argwhere(phantom.delineated)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    mask = np.pad(phantom.delineated[tuple(map(slice, low, high))], ((1, 1), (2, 3), (1, 2)))
    a, b, c = np.deg2rad([yaw, pitch, roll])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn = turn @ np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])

    def turned(dataset, index):
        dataset.ImageOrientationPatient = [f"{value:.9f}" for value in (*turn[:, 0], *turn[:, 1])]
        place = np.array([-120.4, 88.2, 907.1]) + (-1 if downwards else 1) * index * slice_mm * turn[:, 2]
        dataset.ImagePositionPatient = [f"{value:.5f}" for value in place]

    folder = tmp_path_factory.mktemp("turned")
    write_ct(folder / "ct", np.zeros(mask.shape), (slice_mm, row_mm, column_mm), change=turned)
    series = read_ct_series(folder / "ct")
    write_rtstruct(mask, series, folder / "rt.dcm", "GTV")
    back = contours_to_mask(read_rtstruct(folder / "rt.dcm").structures[0], series.volume.geometry)
    assert case_metrics(back, mask, (slice_mm, row_mm, column_mm)).dsc >= 0.99
    contours = dcmread(folder / "rt.dcm").ROIContourSequence[0].ContourSequence
    assert all(len(value) <= 16 for item in contours for value in str(item.get_item("ContourData").value).split("\\"))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("case", "names"),
    [
        ("sarcoma_mim_1", ["GTV_Mass_CT"]),
        ("sarcoma_mim_2", ["GTV_Mass_CT"]),
        ("breast_eclipse", ["Breast", "Tumor Bed", "Tumor Bed Block", "Heart"]),
    ],
)
def test_volumes_of_real_structures_are_those_of_their_contours(real_data, case, names):
    """Areas by the shoelace formula times the slices' distance; these structures have no holes."""
    folder = real_data / "dicom" / case
    geometry = read_ct_series(folder).volume.geometry
    (path,) = scan_folder(folder).structure_sets
    for target in (each for each in read_rtstruct(path).structures if each.name in names):
        twice_mm2 = [np.cross(each, np.roll(each, -1, axis=0))[:, 2].sum() for each in target.contours]
        volume_ml = np.abs(twice_mm2).sum() / 2 * geometry.spacing_mm[0] / 1000
        drawn = draw_structure(target, geometry)
        assert drawn.remarks == ()
        assert drawn.mask.sum() * geometry.voxel_ml == pytest.approx(volume_ml, rel=0.03)
