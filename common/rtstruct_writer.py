"""Masks to RTSTRUCTs that a planning system accepts for the CT they were made on (DICOM PS3.3 A.19.3)."""

import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

from common.atomic import write_bytes_atomically
from common.contours import outline
from common.dicom import CtSeries
from common.dicom_files import reading
from common.dicom_slices import CT_IMAGE, RT_STRUCTURE_SET
from common.errors import ImageError, LabelError
from common.release import release
from common.volume import index_to_patient

MANUFACTURER = "fedgtv"
NOT_FOR_CLINICAL_USE = "not for clinical use"
COLOUR_RGB = [255, 64, 0]
CONTOUR_DATA = Tag("ContourData")
REPEATED = (  # of the CT, so that the structure set is filed with it
    "SpecificCharacterSet",
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "PositionReferenceIndicator"),
)
REQUIRED = (  # of these; empty where the CT has none (type 2)
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"),
)
UNICODE = "ISO_IR 192"


def write_rtstruct(mask: NDArray[np.bool_], series: CtSeries, path: Path, roi_name: str, description: str = "") -> None:
    """Writes one structure of type GTV, outlined on the series' own slices; the file appears whole or not at all.

    Args:
        mask: (z, y, x) on the series' grid. Contours run half-way between voxel centres, so that reading them back
            gives exactly this mask; holes are keyholes.
        series: The CT that the structure set refers to.
        path: The file to write.
        roi_name: Up to 64 printable characters; beyond ASCII the file is written in UTF-8.
        description: Stands before "not for clinical use" and the software's version.

    Raises:
        LabelError: the mask has another shape or is empty, or the name does not fit.
        ImageError: the series has no frame of reference.
    """
    _check(mask, series, roi_name)
    with reading(series.files[0], ImageError, "a CT slice"):  # whose header is decoded, and encoded again
        dataset = _new_structure_set(series, f"{description}; " if description else "")
        if not f"{roi_name}{description}".isascii():
            dataset.SpecificCharacterSet = UNICODE
        _add_structure(dataset, mask, series, roi_name)
        written = BytesIO()
        dataset.save_as(written, enforce_file_format=True)
    write_bytes_atomically(Path(path), written.getvalue())


def _add_structure(dataset: Dataset, mask: NDArray[np.bool_], series: CtSeries, roi_name: str) -> None:
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame(series)]
    dataset.StructureSetROISequence = [
        _item(
            ROINumber=1,
            ReferencedFrameOfReferenceUID=series.frame_uid,
            ROIName=roi_name,
            ROIGenerationAlgorithm="AUTOMATIC",
            ROIGenerationDescription=f"{release()}, {NOT_FOR_CLINICAL_USE}",
        )
    ]
    contours = _contours(mask, series)
    dataset.ROIContourSequence = [_item(ROIDisplayColor=COLOUR_RGB, ReferencedROINumber=1, ContourSequence=contours)]
    dataset.RTROIObservationsSequence = [
        _item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="GTV", ROIInterpreter="")
    ]


def _check(mask: NDArray[np.bool_], series: CtSeries, roi_name: str) -> None:
    if mask.shape != series.volume.geometry.size:
        raise LabelError(
            f"mask has shape {mask.shape}; expected {series.volume.geometry.size} as the CT series; "
            "put the mask on the series' grid"
        )
    if not mask.any():
        raise LabelError(f"mask for {roi_name!r} is empty; expected a target; write no RTSTRUCT for this case")
    if not 0 < len(roi_name) <= 64 or "\\" in roi_name or not roi_name.isprintable():
        raise LabelError(
            f"ROI name {roi_name!r} does not fit; expected 1 to 64 printable characters without backslash; rename it"
        )
    if not series.frame_uid:
        raise ImageError(
            f"{series.files[0]}: has no FrameOfReferenceUID; expected one that an RTSTRUCT can refer to; "
            "write the mask as NIfTI instead"
        )


def _new_structure_set(series: CtSeries, description: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RT_STRUCTURE_SET
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ImplicitVRLittleEndian  # explicit VR allows a contour 64 KiB
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for keyword in REQUIRED:
        setattr(dataset, keyword, "")
    for keyword in REPEATED:
        if keyword in series.header:
            dataset[keyword] = series.header[keyword]
    now = datetime.datetime.now()
    dataset.update(
        _item(
            SOPClassUID=RT_STRUCTURE_SET,
            SOPInstanceUID=meta.MediaStorageSOPInstanceUID,
            Modality="RTSTRUCT",
            FrameOfReferenceUID=series.frame_uid,
            SeriesInstanceUID=generate_uid(),
            SeriesNumber=1,
            SeriesDescription=f"fedgtv, {NOT_FOR_CLINICAL_USE}",
            OperatorsName="",
            Manufacturer=MANUFACTURER,
            ManufacturerModelName="fedgtv",
            SoftwareVersions=release(),
            StructureSetLabel="fedgtv",
            StructureSetDescription=f"{description}{NOT_FOR_CLINICAL_USE}; {release()}",
            StructureSetDate=now.strftime("%Y%m%d"),
            StructureSetTime=now.strftime("%H%M%S"),
            ApprovalStatus="UNAPPROVED",
        )
    )
    return dataset


def _referenced_frame(series: CtSeries) -> Dataset:
    images = [_image_reference(series, index) for index in range(len(series.sop_uids))]
    referenced = _item(SeriesInstanceUID=series.series_uid, ContourImageSequence=images)
    study = _item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",  # Detached Study Management, retired but asked for
        ReferencedSOPInstanceUID=series.study_uid,
        RTReferencedSeriesSequence=[referenced],
    )
    return _item(FrameOfReferenceUID=series.frame_uid, RTReferencedStudySequence=[study])


def _contours(mask: NDArray[np.bool_], series: CtSeries) -> list[Dataset]:
    """Returns the items of the Contour Sequence, slice by slice."""
    items: list[Dataset] = []
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        for polygon in outline(mask[index]):
            planar = np.column_stack([np.full(len(polygon), index), polygon])
            item = _item(
                ContourImageSequence=[_image_reference(series, int(index))],
                ContourGeometricType="CLOSED_PLANAR",
                NumberOfContourPoints=len(polygon),
                ContourNumber=len(items) + 1,
            )
            item[CONTOUR_DATA] = _decimals(index_to_patient(series.volume.geometry, planar))
            items.append(item)
    return items


def _decimals(points: NDArray[np.float64]) -> RawDataElement:
    """Returns the contour data as its bytes in the file; decimal strings one by one take 15 times longer."""
    text = "\\".join([f"{value:.3f}" for value in points.ravel().tolist()])
    value = (text + " " * (len(text) % 2)).encode("ascii")
    return RawDataElement(CONTOUR_DATA, "DS", len(value), value, 0, True, True)


def _image_reference(series: CtSeries, index: int) -> Dataset:
    return _item(ReferencedSOPClassUID=CT_IMAGE, ReferencedSOPInstanceUID=series.sop_uids[index])


def _item(**values: Any) -> Dataset:
    """Returns a dataset with these elements, by keyword."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset
