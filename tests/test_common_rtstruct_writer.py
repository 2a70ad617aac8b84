import copy

import numpy as np
import pydicom.config
import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_VR

from common.dicom import read_ct_series
from common.errors import LabelError
from common.rtstruct import read_rtstruct, write_rtstruct

IOD = {  # DICOM PS3.3 A.19.3, by module: attributes of type 1 (must have a value) and 2 (must be there)
    "Patient C.7.1.1": ("", "", "PatientName PatientID PatientBirthDate PatientSex"),
    "General Study C.7.2.1": (
        "", "StudyInstanceUID", "StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber",
    ),
    "RT Series C.8.8.1": ("", "Modality SeriesInstanceUID", "SeriesNumber OperatorsName"),
    "General Equipment C.7.5.1": ("", "", "Manufacturer"),
    "Frame of Reference C.7.4.1": ("", "FrameOfReferenceUID", "PositionReferenceIndicator"),
    "Structure Set C.8.8.5": (
        "", "StructureSetLabel StructureSetROISequence", "StructureSetDate StructureSetTime",
    ),
    "Structure Set ROI": (
        "StructureSetROISequence", "ROINumber ReferencedFrameOfReferenceUID", "ROIName ROIGenerationAlgorithm",
    ),
    "Referenced Frame": ("ReferencedFrameOfReferenceSequence", "FrameOfReferenceUID", ""),
    "Referenced Study": (
        "ReferencedFrameOfReferenceSequence RTReferencedStudySequence",
        "ReferencedSOPClassUID ReferencedSOPInstanceUID RTReferencedSeriesSequence", "",
    ),
    "Referenced Series": (
        "ReferencedFrameOfReferenceSequence RTReferencedStudySequence RTReferencedSeriesSequence",
        "SeriesInstanceUID ContourImageSequence", "",
    ),
    "Referenced Image": (
        "ReferencedFrameOfReferenceSequence RTReferencedStudySequence RTReferencedSeriesSequence ContourImageSequence",
        "ReferencedSOPClassUID ReferencedSOPInstanceUID", "",
    ),
    "ROI Contour C.8.8.6": ("ROIContourSequence", "ReferencedROINumber", ""),
    "Contour": (
        "ROIContourSequence ContourSequence", "ContourGeometricType NumberOfContourPoints ContourData", "",
    ),
    "Contour Image": (
        "ROIContourSequence ContourSequence ContourImageSequence", "ReferencedSOPClassUID ReferencedSOPInstanceUID", "",
    ),
    "RT ROI Observations C.8.8.8": (
        "RTROIObservationsSequence", "ObservationNumber ReferencedROINumber", "RTROIInterpretedType ROIInterpreter",
    ),
    "Approval C.8.8.16": ("", "ApprovalStatus", ""),
    "SOP Common C.12.1": ("", "SOPClassUID SOPInstanceUID", ""),
}  # fmt: skip
LONGEST = {"SH": 16, "CS": 16, "LO": 64, "PN": 64, "UI": 64, "IS": 12, "ST": 1024}
MASK = np.zeros((4, 8, 9), bool)
MASK[1:3, 2:5, 3:7] = True
MASK[2, 3, 4] = False


def bare(dataset, _):
    """Leaves a CT slice only what its volume needs."""
    for keyword in ("PatientID", "PatientName", "Manufacturer", "ConvolutionKernel"):
        delattr(dataset, keyword)


@pytest.fixture(params=[None, bare], ids=["full", "bare"])
def written(request, tmp_path, write_ct):
    """The dataset as pydicom reads it with its own validation on, and the CT's slices."""
    slices = write_ct(tmp_path / "ct", np.zeros(MASK.shape), change=request.param)
    write_rtstruct(MASK, read_ct_series(tmp_path / "ct"), tmp_path / "rt.dcm", "GTV fedgtv", "model m")
    before = pydicom.config.settings.reading_validation_mode
    pydicom.config.settings.reading_validation_mode = pydicom.config.RAISE
    try:
        dataset = dcmread(tmp_path / "rt.dcm")
        list(dataset.iterall())  # decodes all, at all depths
        yield dataset, slices
    finally:
        pydicom.config.settings.reading_validation_mode = before


def items_at(dataset, path):
    items = [dataset]
    for keyword in path.split():
        items = [item for owner in items for item in owner[keyword].value]
    return items


@pytest.mark.parametrize("module", IOD)
def test_every_attribute_that_the_standard_requires_is_there(written, module):
    path, first, second = IOD[module]
    items = items_at(written[0], path)
    assert items
    for item in items:
        assert [keyword for keyword in first.split() if keyword not in item or item[keyword].is_empty] == []
        assert [keyword for keyword in second.split() if keyword not in item] == []


def test_no_value_is_longer_than_its_representation_allows(written):
    for element in written[0].iterall():
        longest = LONGEST.get(dictionary_VR(element.tag))
        values = element.value if element.VM > 1 else [element.value]
        assert longest is None or max(len(str(value or "")) for value in values) <= longest, element


def test_it_refers_to_the_ct_frame_study_series_and_slices(written):
    dataset, slices = written
    first, slice_uids = slices[0], [item.SOPInstanceUID for item in slices]
    frames = [dataset.FrameOfReferenceUID, dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID]
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    assert {*frames, frame.FrameOfReferenceUID} == {first.FrameOfReferenceUID}
    (study,) = frame.RTReferencedStudySequence
    assert study.ReferencedSOPInstanceUID == dataset.StudyInstanceUID == first.StudyInstanceUID
    (series,) = study.RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    images = series.ContourImageSequence
    assert [image.ReferencedSOPInstanceUID for image in images] == slice_uids
    assert {image.ReferencedSOPClassUID for image in images} == {first.SOPClassUID}
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        (image,) = contour.ContourImageSequence
        z = slices[slice_uids.index(image.ReferencedSOPInstanceUID)].ImagePositionPatient[2]
        assert set(contour.ContourData[2::3]) == {z}
        assert contour.NumberOfContourPoints * 3 == len(contour.ContourData)


def test_it_says_what_it_is(written):
    dataset, _ = written
    roi, observation = dataset.StructureSetROISequence[0], dataset.RTROIObservationsSequence[0]
    assert (roi.ROIName, roi.ROIGenerationAlgorithm) == ("GTV fedgtv", "AUTOMATIC")
    assert observation.RTROIInterpretedType == "GTV"
    assert len(dataset.ROIContourSequence[0].ROIDisplayColor) == 3
    assert "not for clinical use" in dataset.StructureSetDescription
    assert "model m" in dataset.StructureSetDescription
    assert (dataset.Manufacturer, dataset.ApprovalStatus) == ("fedgtv", "UNAPPROVED")
    assert dataset.SoftwareVersions in dataset.StructureSetDescription


@pytest.mark.parametrize("tag", ["Manufacturer", "StructureSetLabel", "StructureSetDescription", "SeriesDescription"])
def test_it_is_known_when_a_planning_system_writes_its_own_names_into_all_tags_but_one(written, tmp_path, tag):
    dataset = copy.deepcopy(written[0])
    for other in {"Manufacturer", "StructureSetLabel", "StructureSetDescription", "SeriesDescription"} - {tag}:
        setattr(dataset, other, "Planning")
    dataset.save_as(tmp_path / "again.dcm")
    assert read_rtstruct(tmp_path / "again.dcm").by_model


@pytest.mark.parametrize(
    ("charset", "name"), [("ISO_IR 100", "Grün^Jörg"), ("ISO_IR 192", "鼻咽^患者"), (None, "Ascii^A")]
)
@pytest.mark.parametrize("roi", ["GTV", "GTV Größe", "GTV 鼻咽"])
def test_names_in_any_script_come_back(tmp_path, write_ct, charset, name, roi):
    tags = {"SpecificCharacterSet": charset} if charset else {}
    write_ct(tmp_path / "ct", np.zeros(MASK.shape), **tags, PatientName=name)
    write_rtstruct(MASK, read_ct_series(tmp_path / "ct"), tmp_path / "rt.dcm", roi)
    dataset = dcmread(tmp_path / "rt.dcm")
    assert str(dataset.PatientName) == name
    assert dataset.StructureSetROISequence[0].ROIName == roi
    read = read_rtstruct(tmp_path / "rt.dcm")
    assert read.structures[0].name == roi
    assert read.by_model


def test_a_failure_leaves_the_earlier_file(tmp_path, write_ct, monkeypatch):
    write_ct(tmp_path / "ct", np.zeros(MASK.shape))
    series = read_ct_series(tmp_path / "ct")
    write_rtstruct(MASK, series, tmp_path / "rt.dcm", "GTV")
    before = (tmp_path / "rt.dcm").read_bytes()
    with pytest.raises(LabelError, match="printable"):
        write_rtstruct(MASK, series, tmp_path / "rt.dcm", "GTV\nnew")
    monkeypatch.setattr("common.rtstruct_writer.outline", lambda _: 1 / 0)
    with pytest.raises(Exception, match="not readable"):
        write_rtstruct(MASK, series, tmp_path / "rt.dcm", "GTV")
    assert (tmp_path / "rt.dcm").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "rt.dcm"]
