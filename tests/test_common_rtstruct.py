import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from common.dicom import read_ct_series, scan_folder
from common.errors import ConfigError, ImageError, LabelError
from common.rtstruct import (
    Structure,
    choose_structure,
    contours_to_mask,
    read_references,
    read_rtstruct,
    write_rtstruct,
)
from common.site_config import IngestConfig
from common.volume import Geometry, index_to_patient

PATTERNS = IngestConfig().structures
TRIANGLE = np.array([[0, 0, 0], [5, 0, 0], [0, 5, 0]], float)
GRID = Geometry((5, 10, 12), (3.0, 1.0, 1.0))


def named(*names, contours=(TRIANGLE,)):
    return [Structure(number, name, tuple(contours)) for number, name in enumerate(names, 1)]


def box(z, low, high):
    """A square in patient coordinates, from (low, low) to (high, high)."""
    return np.array([[low, low, z], [high, low, z], [high, high, z], [low, high, z]], float)


@pytest.mark.parametrize("name", ["GTVnx", "gtv-T", "gtv_p", "GTV p", "GTV_Mass_CT"])
def test_every_vendors_target_is_found(name):
    assert choose_structure(named("Brainstem", name, "PTV70"), PATTERNS).name == name


def test_the_first_pattern_that_matches_wins_over_wider_ones():
    assert choose_structure(named("GTVnd", "GTVnx", "GTV all"), PATTERNS).name == "GTVnx"


def test_several_matches_are_listed_never_chosen_from():
    with pytest.raises(LabelError, match=r"matches 2 structures: 'GTV 1', 'GTV 2'"):
        choose_structure(named("GTV 1", "GTV 2", "Cord"), PATTERNS)


def test_structures_without_contours_do_not_count():
    empty = named("GTVnx", contours=())
    assert choose_structure(empty + named("GTV old"), PATTERNS).name == "GTV old"
    with pytest.raises(LabelError, match=r"found 'Cord' .without contours: 'GTVnx'"):
        choose_structure(empty + named("Cord"), PATTERNS)


def test_a_bad_pattern_is_a_configuration_error():
    with pytest.raises(ConfigError, match="no regular expression"):
        choose_structure(named("GTV"), ["gtv("])


def mask_of(*contours, geometry=GRID):
    return contours_to_mask(Structure(1, "GTV", contours), geometry)


def test_a_box_a_hand_can_count():
    mask = mask_of(box(3.0, 1.5, 4.5), box(6.0, 1.5, 3.5))
    assert mask.sum(axis=(1, 2)).tolist() == [0, 9, 4, 0, 0]
    assert mask[1, 2:5, 2:5].all()


def test_holes_islands_and_contours_given_twice():
    outer, hole, island = box(0, 0.5, 6.5), box(0, 2.5, 4.5), box(0, 7.5, 8.5)
    assert mask_of(outer, hole, island)[0].sum() == 36 - 4 + 1
    assert mask_of(outer, outer, hole)[0].sum() == 36 - 4


def test_of_planes_between_slices_the_nearest_counts():
    mask = mask_of(box(3.9, 1.5, 3.5), box(3.1, 1.5, 4.5), box(7.4, 0.5, 1.5))
    assert mask.sum(axis=(1, 2)).tolist() == [0, 9, 1, 0, 0]


@pytest.mark.parametrize(
    ("contour", "words"),
    [
        (box(15.0, 1, 4), "1.5 mm outside the image along z"),
        (box(3.0, 1, 12.5), "3.0 mm outside the image along y"),
        (box(3.0, -2.5, 4), "2.0 mm outside the image along [yx]"),
        (box(3.0, 1.1, 1.9), "no voxel centre"),
        (np.array([[1, 1, 3], [4, 1, 9], [4, 4, 3]], float), "crosses 2.0 slices"),
    ],
)
def test_contours_that_do_not_fit_the_image(contour, words):
    with pytest.raises(LabelError, match=words):
        mask_of(contour)


def test_a_structure_without_contours_is_refused():
    with pytest.raises(LabelError, match="no contours"):
        mask_of()


@given(st.floats(-180, 180), st.floats(-60, 60), st.booleans())
def test_a_turned_scan_gives_the_same_mask(yaw, pitch, downwards):
    a, b = np.deg2rad([yaw, pitch])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn = turn @ np.diag([1, 1, -1 if downwards else 1])
    direction = tuple(float(value) for value in turn.ravel())
    turned = Geometry(GRID.size, GRID.spacing_mm, (100.0, -50.0, 20.0), direction)
    contours = [box(3.0, 1.0, 5.0), box(3.0, 2.5, 3.5), box(6.0, 1.7, 4.2)]  # edges on pixel centres too
    moved = [index_to_patient(turned, contour[:, ::-1] / GRID.spacing_mm) for contour in contours]
    np.testing.assert_array_equal(mask_of(*moved, geometry=turned), mask_of(*contours))


def tilted(dataset, index):
    """Slices of an oblique scan, stacked along their normal."""
    row, column = np.array([0.8, 0.6, 0]), np.array([-0.48, 0.64, 0.6])
    dataset.ImageOrientationPatient = [*row, *column]
    dataset.ImagePositionPatient = [round(value, 6) for value in [5, 6, 7] + 3.0 * index * np.cross(row, column)]


@pytest.mark.parametrize("change", [None, tilted])
def test_mask_to_rtstruct_to_mask_is_exact_with_holes_and_islands(tmp_path, write_ct, change):
    rng = np.random.default_rng(1)
    mask = rng.random((6, 24, 30)) > 0.4
    mask[0] = False
    write_ct(tmp_path / "ct", np.zeros(mask.shape), spacing_mm=(3.0, 0.9, 0.9), change=change)
    series = read_ct_series(tmp_path / "ct")
    write_rtstruct(mask, series, tmp_path / "rt.dcm", "GTV fedgtv", "model m")
    read, references = read_rtstruct(tmp_path / "rt.dcm"), read_references(tmp_path / "rt.dcm")
    np.testing.assert_array_equal(contours_to_mask(read.structures[0], series.volume.geometry), mask)
    assert references.series_uids == (series.series_uid,)
    assert references.frame_uids == (series.frame_uid,)


def test_a_written_structure_set_says_what_it_is_and_refers_to_its_ct(tmp_path, write_ct):
    slices = write_ct(tmp_path / "ct", np.zeros((4, 8, 8)))
    mask = np.zeros((4, 8, 8), bool)
    mask[2, 2:5, 2:5] = True
    write_rtstruct(mask, read_ct_series(tmp_path / "ct"), tmp_path / "rt.dcm", "GTV", "model m")
    dataset = dcmread(tmp_path / "rt.dcm")
    assert dataset.StructureSetDescription.startswith("model m; not for clinical use; fedgtv ")
    assert dataset.ApprovalStatus == "UNAPPROVED"
    assert dataset.PatientID == "secret-id"
    assert dataset.StudyInstanceUID == slices[0].StudyInstanceUID
    assert dataset.SeriesInstanceUID != slices[0].SeriesInstanceUID
    assert dataset.RTROIObservationsSequence[0].RTROIInterpretedType == "GTV"
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID == slices[2].SOPInstanceUID
    assert {contour.ContourData[index] for index in range(2, len(contour.ContourData), 3)} == {36.0}
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    assert len(study.RTReferencedSeriesSequence[0].ContourImageSequence) == 4


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_contour_data_are_decimal_strings_to_a_micrometre_of_even_length(tmp_path, write_ct, size):
    """Of a bar of voxels, outlined 0.49 pixels round their centres; PS3.5 6.2: at most 16 characters, space-padded."""
    write_ct(tmp_path / "ct", np.zeros((4, 8, 8)), spacing_mm=(3.0, 0.3333, 0.25), origin_mm=(-1000.1234, 0.5, 30))
    mask = np.zeros((4, 8, 8), bool)
    mask[1, 1 : 1 + size, 2] = True
    write_rtstruct(mask, read_ct_series(tmp_path / "ct"), tmp_path / "rt.dcm", "GTV")
    contour = dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence[0]
    text = contour.get_item("ContourData").value.decode("ascii")
    assert len(text) % 2 == 0
    assert max(map(len, text.split("\\"))) <= 16
    assert contour.NumberOfContourPoints * 3 == len(contour.ContourData)
    x, y, z = (sorted(set(contour.ContourData[axis::3])) for axis in range(3))
    assert x == [round(-1000.1234 + 0.25 * column, 3) for column in (1.51, 2.0, 2.49)]
    assert (y[0], y[-1]) == (round(0.5 + 0.3333 * 0.51, 3), round(0.5 + 0.3333 * (size + 0.49), 3))
    assert z == [33.0]


def test_what_cannot_be_written_is_refused(tmp_path, write_ct):
    write_ct(tmp_path / "ct", np.zeros((4, 8, 8)))
    write_ct(tmp_path / "no-frame", np.zeros((4, 8, 8)), FrameOfReferenceUID="")
    series, path = read_ct_series(tmp_path / "ct"), tmp_path / "rt.dcm"
    full = np.ones((4, 8, 8), bool)
    for mask, name, words in ((full[:3], "G", "shape"), (~full, "G", "empty"), (full, "", "ROI name")):
        with pytest.raises(LabelError, match=words):
            write_rtstruct(mask, series, path, name)
    with pytest.raises(ImageError, match="FrameOfReferenceUID"):
        write_rtstruct(full, read_ct_series(tmp_path / "no-frame"), path, "G")
    assert not path.exists()


def test_only_areas_are_read_and_bad_files_refused(tmp_path, write_ct, write_structures):
    slices = write_ct(tmp_path / "ct", np.zeros((4, 8, 8)))
    path = write_structures(tmp_path / "rt.dcm", slices, {"GTV": [TRIANGLE, TRIANGLE[:2]], "POI": [TRIANGLE]})
    dataset = dcmread(path)
    dataset.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
    dataset.save_as(path)
    assert [len(structure.contours) for structure in read_rtstruct(path).structures] == [1, 0]
    dataset.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4"]
    dataset.save_as(path)
    with pytest.raises(LabelError, match="no list of x, y, z"):
        read_rtstruct(path)
    with pytest.raises(LabelError, match="no RTSTRUCT"):
        read_rtstruct(tmp_path / "ct" / "ct-001.dcm")
    with pytest.raises(LabelError, match="not readable"):
        read_rtstruct(tmp_path / "none.dcm")


@pytest.mark.real_data
def test_structures_typed_gtv_are_never_chosen_by_type(real_data):
    (path,) = scan_folder(real_data / "dicom" / "breast_eclipse").structure_sets
    structures = read_rtstruct(path).structures
    observations = dcmread(path).RTROIObservationsSequence
    types = {item.ReferencedROINumber: item.RTROIInterpretedType for item in observations}
    assert [s.name for s in structures if types[s.number] == "GTV"] == ["Breast", "Tumor Bed Block"]
    with pytest.raises(LabelError, match=r"'Tumor Bed Block' .without contours: 'Areola'"):
        choose_structure(structures, PATTERNS)
    with pytest.raises(LabelError, match="matches 2 structures: 'Tumor Bed', 'Tumor Bed Block'"):
        choose_structure(structures, ["^tumor bed"])


@pytest.mark.real_data
@pytest.mark.parametrize(("case", "volume_ml"), [("sarcoma_mim_1", 365), ("sarcoma_mim_2", 53)])
def test_real_tumours_have_the_published_volume(real_data, case, volume_ml):
    folder = real_data / "dicom" / case
    geometry = read_ct_series(folder).volume.geometry
    (path,) = scan_folder(folder).structure_sets
    mask = contours_to_mask(choose_structure(read_rtstruct(path).structures, PATTERNS), geometry)
    assert mask.sum() * geometry.voxel_ml == pytest.approx(volume_ml, rel=0.03)
