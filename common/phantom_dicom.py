"""Phantoms as DICOM: a CT series and an RTSTRUCT in the dialect of the institution's planning system.

Shares no code with `dicom` and `rtstruct`, whose independent check it is (DICOM PS3.3 A.3, A.19, C.8.8.5, C.8.8.6).
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from scipy import ndimage

from common.errors import InputError
from common.phantom import Phantom
from common.phantom_contours import keyhole, outlines
from common.phantom_dialects import DIALECTS, Dialect
from common.volume import Volume, index_to_patient, write_nifti

DICOM_FOLDER, TRUTH_NAME = "dicom", "truth.nii.gz"
STUDY_DATE = "20200102"
RING_MM = 10.0
"""Width of the margin structure."""
_COLOURS = ((255, 0, 0), (0, 255, 0), (255, 255, 0), (0, 255, 255))


class _Names:
    """The case's identifiers: the same for the same case, and fictional."""

    def __init__(self, phantom: Phantom, case: int) -> None:
        self.patient_id = f"PHANTOM-{phantom.institution}-{case:04d}"
        self.patient_name = f"Fictional^{phantom.institution}{case:04d}"
        size = "x".join(map(str, phantom.image.geometry.size))
        self._sources = [self.patient_id, str(phantom.seed), size, f"{phantom.info['tumour_hu']:.6f}"]

    def uid(self, *parts: str) -> str:
        """Returns the UID of one of the case's things."""
        return str(generate_uid(entropy_srcs=[*self._sources, *parts]))


def write_phantom(phantom: Phantom, folder: Path, case: int) -> None:
    """Writes a case into `folder`: dicom/ with the CT and its RTSTRUCT, and beside it truth.nii.gz, the true tumour.

    The folder appears whole or not at all. The same phantom and number give the same bytes.

    Args:
        phantom: the case.
        folder: of this case alone; missing or empty.
        case: its number at the institution, which becomes part of the fictional patient's name and ID.

    Raises:
        InputError: the folder holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something already; expected a new or empty folder; remove it first")
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / DICOM_FOLDER).mkdir(parents=True)
    names, dialect = _Names(phantom, case), DIALECTS[phantom.institution]
    for index in range(phantom.image.geometry.size[0]):
        dataset = _slice(phantom, index, names, dialect)
        dataset.save_as(part / DICOM_FOLDER / f"CT.{dataset.SOPInstanceUID}.dcm", enforce_file_format=True)
    structures = _structure_set(phantom, names, dialect)
    structures.save_as(part / DICOM_FOLDER / f"RS.{structures.SOPInstanceUID}.dcm", enforce_file_format=True)
    write_nifti(Volume(phantom.truth, phantom.image.geometry), part / TRUTH_NAME)
    os.replace(part, folder)


def _slice(phantom: Phantom, index: int, names: _Names, dialect: Dialect) -> FileDataset:
    """Returns one CT slice."""
    geometry = phantom.image.geometry
    dataset = _file(CTImageStorage, names.uid("slice", str(index)), names, "CT")
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.ConvolutionKernel = dialect.scanner
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.SeriesInstanceUID = names.uid("ct")
    dataset.SeriesDescription = "HEAD NECK PLANNING"
    dataset.SeriesNumber = 2
    dataset.BodyPartExamined, dataset.PatientPosition, dataset.KVP = "HEADNECK", "HFS", "120"
    if phantom.info["enhanced"]:
        dataset.ContrastBolusAgent = "Iodine"
    last = geometry.size[0] - 1
    dataset.InstanceNumber = (last - index if dialect.head_first else index) + 1
    origin = index_to_patient(geometry, np.array([[index, 0, 0]]))[0]
    dataset.ImagePositionPatient = [_decimal(value) for value in origin]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.SliceLocation = _decimal(origin[2])
    dataset.SliceThickness = _decimal(geometry.spacing_mm[0])
    dataset.PixelSpacing = [_decimal(value) for value in geometry.spacing_mm[1:]]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = geometry.size[1:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, dialect.intercept, "HU"
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    dataset.PixelData = (phantom.image.array[index] - dialect.intercept).astype("<i2").tobytes()
    return dataset


def _structure_set(phantom: Phantom, names: _Names, dialect: Dialect) -> FileDataset:
    """Returns the RTSTRUCT: body outline, target, margin, an empty structure and an isocentre."""
    dataset = _file(RTStructureSetStorage, names.uid("structures"), names, "RTSTRUCT")
    dataset.Manufacturer, dataset.ManufacturerModelName, dataset.SoftwareVersions = dialect.planner
    dataset.SeriesInstanceUID = names.uid("rtstruct")
    dataset.SeriesNumber = 3
    dataset.StructureSetLabel = dialect.structure_set_label
    dataset.StructureSetDate, dataset.StructureSetTime = STUDY_DATE, "120000"
    series = _item(SeriesInstanceUID=names.uid("ct"), ContourImageSequence=list(_image_references(phantom, names)))
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=names.uid("study"),
        RTReferencedSeriesSequence=[series],
    )
    frame = _item(FrameOfReferenceUID=names.uid("frame"), RTReferencedStudySequence=[study])
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    rois = _rois(phantom, names, dialect)
    dataset.StructureSetROISequence = [
        _item(
            ROINumber=number,
            ReferencedFrameOfReferenceUID=names.uid("frame"),
            ROIName=name,
            ROIGenerationAlgorithm="MANUAL",
        )
        for number, (name, _, _) in enumerate(rois, 1)
    ]
    dataset.ROIContourSequence = [
        _item(ROIDisplayColor=list(_COLOURS[number % 4]), ReferencedROINumber=number, ContourSequence=contours)
        if contours
        else _item(ROIDisplayColor=list(_COLOURS[number % 4]), ReferencedROINumber=number)
        for number, (_, _, contours) in enumerate(rois, 1)
    ]
    dataset.RTROIObservationsSequence = [
        _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType=kind, ROIInterpreter="")
        for number, (_, kind, _) in enumerate(rois, 1)
    ]
    return dataset


def _rois(phantom: Phantom, names: _Names, dialect: Dialect) -> list[tuple[str, str, list[Dataset]]]:
    """Returns name, interpreted type and contours of every structure, the target not the first."""
    margin = _grown(phantom.delineated, phantom.image.geometry.spacing_mm)
    if dialect.keyholes:
        margin &= ~phantom.delineated
    isocentre = _contour(_centre(phantom)[None], "POINT", _image_uid(0, names, dialect))
    return [
        (dialect.body, "EXTERNAL", _contours(phantom.body, phantom, names, dialect)),
        (dialect.margin, "CTV", _contours(margin, phantom, names, dialect)),
        (dialect.target, dialect.target_type, _contours(phantom.delineated, phantom, names, dialect)),
        ("PTV_eval", "PTV", []),
        ("isocentre", "ISOCENTER", [isocentre]),
    ]


def _contours(mask: NDArray[np.bool_], phantom: Phantom, names: _Names, dialect: Dialect) -> list[Dataset]:
    """Returns a mask's closed contours, slice by slice; holes as the dialect writes them."""
    contours = []
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        uid = _image_uid(int(index), names, dialect)
        for outline in outlines(mask[index]):
            loops = (keyhole(outline),) if dialect.keyholes else (outline.outer, *outline.holes)
            for loop in loops:
                corners = np.column_stack([np.full(len(loop), index), loop - 0.5])
                points = index_to_patient(phantom.image.geometry, corners)
                contours.append(_contour(points, "CLOSED_PLANAR", uid))
    return contours


def _contour(points_mm: NDArray[np.float64], kind: str, image_uid: str) -> Dataset:
    return _item(
        ContourImageSequence=[_item(ReferencedSOPClassUID=CTImageStorage, ReferencedSOPInstanceUID=image_uid)],
        ContourGeometricType=kind,
        NumberOfContourPoints=len(points_mm),
        ContourData=[f"{value:.3f}" for value in points_mm.ravel()],
    )


def _image_references(phantom: Phantom, names: _Names) -> Iterator[Dataset]:
    dialect = DIALECTS[phantom.institution]
    for index in range(phantom.image.geometry.size[0]):
        uid = _image_uid(index, names, dialect)
        yield _item(ReferencedSOPClassUID=CTImageStorage, ReferencedSOPInstanceUID=uid)


def _image_uid(index: int, names: _Names, dialect: Dialect) -> str:
    """Returns the UID by which contours refer to a slice: its own, or the one it had before anonymisation."""
    return names.uid("slice", str(index)) if dialect.matching_references else names.uid("former slice", str(index))


def _grown(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Returns the mask with a margin of `RING_MM`, measured in a box round it."""
    reach = [int(np.ceil(RING_MM / step)) + 1 for step in spacing_mm]
    where = np.nonzero(mask)
    box = tuple(slice(max(int(w.min()) - r, 0), int(w.max()) + r + 1) for w, r in zip(where, reach, strict=True))
    grown = np.zeros_like(mask)
    grown[box] = ndimage.distance_transform_edt(~mask[box], sampling=spacing_mm) <= RING_MM
    return grown


def _centre(phantom: Phantom) -> NDArray[np.float64]:
    """Returns the middle of the target in patient mm."""
    return np.asarray(index_to_patient(phantom.image.geometry, np.argwhere(phantom.delineated)).mean(axis=0))


def _file(sop_class: str, sop_uid: str, names: _Names, modality: str) -> FileDataset:
    """Returns a dataset with the patient, study, frame and file tags that all of the case's files share."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, sop_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.Modality = sop_class, sop_uid, modality
    dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = names.uid("study"), names.uid("frame")
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = STUDY_DATE, "110000", "1"
    dataset.PatientID, dataset.PatientName = names.patient_id, names.patient_name
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    dataset.AccessionNumber, dataset.ReferringPhysicianName = "", ""
    dataset.InstitutionName = "Fictional Hospital"
    dataset.PositionReferenceIndicator = ""
    return dataset


def _decimal(value: float) -> str:
    """Returns a number as a decimal string, 16 characters at most (DICOM PS3.5, VR DS)."""
    return f"{value:.10g}"


def _item(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset
