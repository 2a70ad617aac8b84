import os
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the public data sets; the test is skipped where it is absent (mark it `real_data` too)."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FEDGTV_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no public data in {folder}; set FEDGTV_DATA to its folder")
    return folder


def _file(path, sop_class, syntax):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    return dataset


@pytest.fixture
def write_ct():
    """A function that writes a CT series of (z, y, x) HU into a folder and returns its slices' datasets.

    `change(dataset, index)` may edit a slice before it is written; returning False leaves it out.
    """

    def write(folder, hu, spacing_mm=(3.0, 1.0, 1.0), origin_mm=(-10.0, -20.0, 30.0), change=None, **tags):
        folder.mkdir(parents=True, exist_ok=True)
        series = {
            "PatientID": "secret-id",
            "PatientName": "Secret^Name",
            "StudyInstanceUID": generate_uid(),
            "SeriesInstanceUID": generate_uid(),
            "FrameOfReferenceUID": generate_uid(),
            "Manufacturer": "Maker",
            "ConvolutionKernel": "B30",
        } | tags
        slices = []
        for index, plane in enumerate(hu):
            dataset = _file(folder / f"ct-{len(hu) - index:03d}.dcm", CT_IMAGE, ExplicitVRLittleEndian)
            for keyword, value in series.items():
                setattr(dataset, keyword, value)
            dataset.Modality = "CT"
            dataset.Rows, dataset.Columns = plane.shape
            dataset.PixelSpacing = [spacing_mm[1], spacing_mm[2]]
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.ImagePositionPatient = [*origin_mm[:2], origin_mm[2] + index * spacing_mm[0]]
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
            dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
            dataset.PixelRepresentation = 0
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
            dataset.PixelData = (plane.astype(np.int32) + 1024).astype("<u2").tobytes()
            if change is None or change(dataset, index) is not False:
                dataset.save_as(dataset.filename, enforce_file_format=True)
                slices.append(dataset)
        return slices

    return write


@pytest.fixture
def write_structures():
    """A function that writes an RTSTRUCT of {name: contours (N, 3) in mm} that refers to a series' first slice."""

    def write(path, slices, structures, interpreted_type="GTV", series_uid=None, frame_uid=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        frame_uid = frame_uid or slices[0].FrameOfReferenceUID
        dataset = _file(path, RT_STRUCTURE_SET, ImplicitVRLittleEndian)
        dataset.Modality = "RTSTRUCT"
        dataset.PatientID = slices[0].PatientID
        dataset.SeriesInstanceUID = generate_uid()
        referenced = _item(SeriesInstanceUID=series_uid or slices[0].SeriesInstanceUID)
        study = _item(RTReferencedSeriesSequence=[referenced])
        dataset.ReferencedFrameOfReferenceSequence = [
            _item(FrameOfReferenceUID=frame_uid, RTReferencedStudySequence=[study])
        ]
        dataset.StructureSetROISequence = [
            _item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame_uid)
            for number, name in enumerate(structures, 1)
        ]
        dataset.ROIContourSequence = [
            _item(ReferencedROINumber=number, ContourSequence=[_contour(points) for points in contours])
            for number, contours in enumerate(structures.values(), 1)
        ]
        dataset.RTROIObservationsSequence = [
            _item(ReferencedROINumber=number, RTROIInterpretedType=interpreted_type)
            for number in range(1, len(structures) + 1)
        ]
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


def _contour(points):
    data = [f"{value:.4f}" for value in np.asarray(points, float).ravel()]
    return _item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(points), ContourData=data)


def _item(**values):
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset
