"""Structure sets and CT series brought together: by references, else by frame of reference and position, and told."""

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from client.pairing import BY_IMAGES, BY_PLACE, BY_SERIES, pair
from client.series import list_series
from common.dicom import scan_folder
from common.errors import LabelError
from common.site_config import IngestConfig

HU = np.zeros((4, 8, 9))
TARGET = np.array([[-8.5, -18.5, 33], [-5.5, -18.5, 33], [-5.5, -16.5, 33], [-8.5, -16.5, 33]])
BODY = np.array([[-40, -40, 33], [40, -40, 33], [40, 40, 33]])
CONFIG = IngestConfig(contrast=("contrast",))
FRAME = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def scan(tmp_path, write_ct):
    """A function that writes a series in one patient's one frame of reference; returns its slices."""
    return lambda name, z_mm=30.0, **tags: write_ct(
        tmp_path / name, HU, origin_mm=(-10.0, -20.0, z_mm), **({"FrameOfReferenceUID": FRAME, "PatientID": "p"} | tags)
    )


@pytest.fixture
def paired(tmp_path):
    """A function that pairs the only structure set of the folder; returns series name, reason and warnings."""

    def run():
        found = scan_folder(tmp_path)
        series = list_series(tmp_path, found.ct_series, found.headers)
        (path,) = found.structure_sets
        pairing = pair(path, str(found.headers[path].PatientID), series, CONFIG)
        return series[pairing.series_uid].name, pairing.reason, pairing.warnings

    return run


def name_series(path, all_slices, drawn):
    """Makes a structure set refer to several series, and its contours to the images of one."""
    dataset = dcmread(path)
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence = []
    for slices in all_slices:
        item = Dataset()
        item.SeriesInstanceUID = slices[0].SeriesInstanceUID
        study.RTReferencedSeriesSequence.append(item)
    image = Dataset()
    image.ReferencedSOPInstanceUID = drawn
    dataset.ROIContourSequence[0].ContourSequence[0].ContourImageSequence = [image]
    dataset.save_as(path)


def test_the_series_that_is_named_decides(tmp_path, scan, paired, write_structures):
    scan("other")
    write_structures(tmp_path / "rt.dcm", scan("drawn"), {"GTV": [TARGET]})
    assert paired() == ("drawn", BY_SERIES, ())


def test_of_several_named_series_the_contours_images_decide(tmp_path, scan, paired, write_structures):
    plain, contrast = scan("plain"), scan("contrast")
    path = write_structures(tmp_path / "rt.dcm", plain, {"GTV": [TARGET]})
    name_series(path, (plain, contrast), contrast[1].SOPInstanceUID)
    assert paired() == ("contrast", BY_IMAGES, ())
    name_series(path, (plain, contrast), generate_uid())
    with pytest.raises(LabelError, match=r"^fits 2 CT series: plain, contrast; expected one; export only"):
        paired()


def test_wrong_references_are_mended_by_the_place_of_the_target(tmp_path, scan, paired, write_structures):
    """Two series of one frame, one above the other; the body's contour reaches out of both, the target lies in one."""
    low, _ = scan("low"), scan("high", z_mm=60.0)
    write_structures(tmp_path / "rt.dcm", low, {"Body": [BODY], "GTV": [TARGET]}, series_uid="1.2.3")
    name, reason, (warning,) = paired()
    assert (name, reason) == ("low", BY_PLACE)
    assert warning.startswith("rt.dcm refers to CT series 1.2.3, which is not in the export; paired with ")


def test_contours_outside_the_only_series_of_the_frame_are_refused(tmp_path, scan, paired, write_structures):
    slices = scan("ct", z_mm=60.0)
    write_structures(tmp_path / "rt.dcm", slices, {"GTV": [TARGET]}, series_uid="1.2.3")
    with pytest.raises(LabelError, match="its contours reach outside; expected them inside"):
        paired()


@pytest.mark.parametrize(("z_mm", "inside"), [(28.4, False), (28.6, True), (40.4, True), (40.6, False)])
def test_a_contour_may_lie_half_a_slice_beyond_the_outer_ones(tmp_path, scan, paired, write_structures, z_mm, inside):
    """Four slices of 3 mm with centres from 30 to 39 mm fill 28.5 to 40.5 mm."""
    slices = scan("ct", z_mm=30.0)
    contour = TARGET - [0, 0, 33] + [0, 0, z_mm]
    write_structures(tmp_path / "rt.dcm", slices, {"GTV": [contour]}, series_uid="1.2.3")
    if inside:
        assert paired()[0] == "ct"
    else:
        with pytest.raises(LabelError, match="reach outside"):
            paired()


def test_two_series_in_one_place_are_not_chosen_from(tmp_path, scan, paired, write_structures):
    slices = scan("one")
    scan("two")
    write_structures(tmp_path / "rt.dcm", slices, {"GTV": [TARGET]}, series_uid="1.2.3")
    with pytest.raises(LabelError, match="fits 2 CT series: one, two"):
        paired()


def test_of_a_plain_and_a_contrast_ct_in_one_place_the_plain_one_is_taken(tmp_path, scan, paired, write_structures):
    slices = scan("ce", SeriesDescription="Contrast 70 s")
    scan("plain", SeriesDescription="native")
    write_structures(tmp_path / "rt.dcm", slices, {"GTV": [TARGET]}, series_uid="1.2.3")
    name, reason, (warning,) = paired()
    assert (name, reason) == ("plain", BY_PLACE)
    assert "paired with " in warning


def test_another_patients_series_in_the_frame_is_not_taken(tmp_path, scan, paired, write_structures):
    slices = scan("ct")
    path = write_structures(tmp_path / "rt.dcm", slices, {"GTV": [TARGET]}, series_uid="1.2.3")
    dataset = dcmread(path)
    dataset.PatientID = "q"
    dataset.save_as(path)
    with pytest.raises(LabelError, match="another patient's; expected one PatientID"):
        paired()


def test_another_patient_id_beside_a_right_reference_refuses_the_case(tmp_path, scan, write_structures):
    path = write_structures(tmp_path / "rt.dcm", scan("ct"), {"GTV": [TARGET]})
    dataset = dcmread(path)
    dataset.PatientID = "q"
    dataset.save_as(path)
    found = scan_folder(tmp_path)
    pairing = pair(path, "q", list_series(tmp_path, found.ct_series, found.headers), CONFIG)
    assert pairing.refusal.startswith("rt.dcm is of another patient by its PatientID; expected the CT's; ")
    assert pairing.reason == BY_SERIES


def test_nothing_that_fits_is_refused(tmp_path, scan, paired, write_structures):
    write_structures(tmp_path / "rt.dcm", scan("ct"), {"GTV": [TARGET]}, series_uid="1.2.3", frame_uid="1.2.4")
    with pytest.raises(LabelError, match=r"^refers to CT series 1.2.3, and no CT in the export has that identity"):
        paired()
