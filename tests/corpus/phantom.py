"""A small phantom as CT slices, RTSTRUCT and NIfTI, from which the corpus of odd inputs is made; it knows no reader."""

from dataclasses import dataclass, replace

import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from common.phantom_contours import keyhole, outlines
from common.volume import Geometry, index_to_patient

GEOMETRY = Geometry((12, 48, 40), (3.0, 1.25, 1.5), (-30.5, -21.25, 40.0))


@dataclass(frozen=True, eq=False)
class Case:
    """What an import must give: (z, y, x) HU and mask, and where they lie."""

    hu: np.ndarray
    mask: np.ndarray
    geometry: Geometry = GEOMETRY

    def but(self, **changes):
        return replace(self, **changes)


def make_case():
    """Noise in a body, so that no flip or shift goes unseen, and a lopsided target with a hole and an island."""
    hu = np.random.default_rng(7).integers(-900, 1500, GEOMETRY.size).astype(np.int16)
    hu[:, :3] = -1000
    mask = np.zeros(GEOMETRY.size, bool)
    mask[3:8, 10:30, 8:20] = True
    mask[5:8, 10:16, 20:29] = True
    mask[4:7, 15:22, 11:16] = False
    mask[5, 17:19, 13] = True
    return Case(hu, mask)


def item(**values):
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def new_file(sop_class, **tags):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.update(item(SOPClassUID=sop_class, SOPInstanceUID=meta.MediaStorageSOPInstanceUID, **tags))
    return dataset


def make_slices(case, **tags):
    """One dataset a slice, from the feet on; the origin is that of the first slice."""
    shared = {
        "PatientID": "P1",
        "PatientName": "Fictional^One",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Modality": "CT",
    } | tags
    cosines = np.array(case.geometry.direction).reshape(3, 3)
    slices = []
    for index, plane in enumerate(case.hu):
        position = index_to_patient(case.geometry, np.array([[index, 0, 0]]))[0]
        dataset = new_file(CTImageStorage, **shared)
        dataset.ImagePositionPatient = [f"{value:.8g}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.10g}" for value in (*cosines[:, 0], *cosines[:, 1])]
        dataset.PixelSpacing = list(case.geometry.spacing_mm[1:])
        dataset.Rows, dataset.Columns = plane.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        set_pixels(dataset, plane.astype(np.int32) + 1024, "<u2")
        slices.append(dataset)
    return slices


def set_pixels(dataset, values, dtype):
    bits = np.dtype(dtype).itemsize * 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(np.dtype(dtype).kind == "i")
    dataset.PixelData = np.ascontiguousarray(values).astype(dtype).tobytes()
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"


def make_structures(case, slices, name="GTVnx", **options):
    """A structure set with one structure; holes are inner contours."""
    first = slices[0]
    dataset = new_file(RTStructureSetStorage, PatientID=first.PatientID, Modality="RTSTRUCT")
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = generate_uid(), first.StudyInstanceUID
    dataset.StructureSetLabel = "label"
    series = item(SeriesInstanceUID=first.SeriesInstanceUID)
    study = item(RTReferencedSeriesSequence=[series])
    dataset.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID=first.FrameOfReferenceUID, RTReferencedStudySequence=[study])
    ]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    add_structure(dataset, name, contours_of(case, **options), first.FrameOfReferenceUID)
    return dataset


def add_structure(dataset, name, contours, frame_uid=None):
    number = len(dataset.StructureSetROISequence) + 1
    frame_uid = frame_uid or dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    dataset.StructureSetROISequence.append(
        item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame_uid)
    )
    dataset.ROIContourSequence.append(item(ReferencedROINumber=number, ContourSequence=contours))
    dataset.RTROIObservationsSequence.append(item(ReferencedROINumber=number, RTROIInterpretedType="GTV"))


def contours_of(case, keyholes=False, kind="CLOSED_PLANAR"):
    """The mask's contours along voxel borders, from the independent tracer of the phantoms."""
    contours = []
    for index in np.flatnonzero(case.mask.any(axis=(1, 2))):
        for outline in outlines(case.mask[index]):
            for loop in (keyhole(outline),) if keyholes else (outline.outer, *outline.holes):
                corners = np.column_stack([np.full(len(loop), index), loop - 0.5])
                contours.append(contour(index_to_patient(case.geometry, corners), kind))
    return contours


def contour(points_mm, kind="CLOSED_PLANAR"):
    data = [f"{value:.4f}" for value in np.asarray(points_mm, float).ravel()]
    return item(ContourGeometricType=kind, NumberOfContourPoints=len(points_mm), ContourData=data)
