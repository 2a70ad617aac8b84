"""One case of an export, DICOM or NIfTI: the files it is made of, and how it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.config import IngestConfig
from common.dicom import CtSeries, read_ct_series
from common.errors import InputError, LabelError
from common.gaps import WIDEST_GAP_MM, interpolate_gaps, num_empty_slices
from common.rtstruct import RtStruct, Structure, choose_structure, draw_structure, read_rtstruct
from common.volume import Geometry, Volume, read_nifti

TRUTH_NAME = "truth.nii.gz"
GRID_TOLERANCE_MM = 0.1  # NIfTI keeps grids in single precision


@dataclass(frozen=True, eq=False)
class LoadedCase:
    """An image in HU, its target as uint8 on the same grid, and what may be told about it."""

    image: Volume
    label: Volume
    info: dict[str, Any]
    """An allow-list: spacing_mm, size, manufacturer, kernel."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class DicomCase:
    """A CT series and the structure sets drawn on it."""

    name: str
    """For messages: the series' folder, with the series where the folder holds several."""
    key: str
    """SeriesInstanceUID."""
    patient_key: str
    """PatientID, or the study where that is empty."""
    ct_files: tuple[Path, ...]
    structure_sets: tuple[Path, ...]
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the case is made of."""
        return (*self.ct_files, *self.structure_sets, *([self.truth] if self.truth else []))

    @property
    def truth(self) -> Path | None:
        """A phantom's true mask, beside the folder of its slices."""
        path = self.ct_files[0].parent.parent / TRUTH_NAME
        return path if path.is_file() else None

    def load(self, config: IngestConfig) -> LoadedCase:
        """Reads the target (looked for in all structure sets together), then the CT; ImageError or LabelError."""
        sets = [read_rtstruct(path) for path in self.structure_sets]
        structure = choose_structure([item for each in sets for item in each.structures], config.structures)
        series = read_ct_series(self.ct_files)
        _check_same_patient(sets, series)
        _check_same_frame(structure, series)
        drawn = draw_structure(structure, series.volume.geometry)
        mask, warnings = _bridged(drawn.mask, series.volume.geometry, config)
        info = _info(series.volume.geometry)
        for key, tag in {"manufacturer": "Manufacturer", "kernel": "ConvolutionKernel"}.items():
            value = series.header.get(tag)
            if value:
                info[key] = (value if isinstance(value, str) else "/".join(map(str, value)))[:64]
        label = Volume(mask.astype(np.uint8), series.volume.geometry)
        return LoadedCase(series.volume, label, info, (*self.warnings, *drawn.remarks, *warnings))


@dataclass(frozen=True)
class NiftiCase:
    """A folder with an image and its label."""

    name: str
    key: str
    """The folder's path within the export, which stands for the patient too."""
    folder: Path
    config: IngestConfig

    @property
    def patient_key(self) -> str:
        """One folder is one patient."""
        return self.key

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the case is made of and that are there."""
        names = (self.config.image_name, self.config.label_name, TRUTH_NAME)
        return tuple(self.folder / name for name in names if (self.folder / name).is_file())

    @property
    def truth(self) -> Path | None:
        """A phantom's true mask, beside the image."""
        path = self.folder / TRUTH_NAME
        return path if path.is_file() else None

    def load(self, config: IngestConfig) -> LoadedCase:
        """Reads image and label; InputError: one is missing, or as ImageError or LabelError says."""
        for key in ("image_name", "label_name"):
            self._check_there(key, getattr(config, key))
        image = read_nifti(self.folder / config.image_name)
        label = read_nifti(self.folder / config.label_name)
        _check_same_grid(image.geometry, label.geometry, config)
        mask, warnings = _bridged(_binary(label.array, config.label_name), image.geometry, config)
        compact = Volume(_compact(image.array), image.geometry)
        label = Volume(mask.astype(np.uint8), image.geometry)
        return LoadedCase(compact, label, _info(image.geometry), warnings)

    def _check_there(self, key: str, name: str) -> None:
        if not (self.folder / name).is_file():
            raise InputError(
                f"{self.folder / name}: no such file; expected image and label side by side; put it there, or give its "
                f"name as ingest.{key} in site.yaml"
            )


ExportedCase = DicomCase | NiftiCase


def _info(geometry: Geometry) -> dict[str, Any]:
    return {"spacing_mm": [round(value, 4) for value in geometry.spacing_mm], "size": list(geometry.size)}


def _check_same_patient(sets: Sequence[RtStruct], series: CtSeries) -> None:
    """Raises if a structure set names another patient than the CT; an ID that is missing says nothing."""
    patient_id = str(series.header.get("PatientID") or "").strip()
    for each in sets:
        if patient_id and each.patient_id and each.patient_id != patient_id:
            raise LabelError(
                f"{each.path.name} is of another patient by its PatientID; expected the CT's; export both of one "
                "patient, or anonymise them together"
            )


def _check_same_frame(structure: Structure, series: CtSeries) -> None:
    """Raises if the target's points are in another frame of reference than the CT; without one nothing is known."""
    if structure.frame_uid and series.frame_uid and structure.frame_uid != series.frame_uid:
        raise LabelError(
            f"structure {structure.name!r} is in the frame of reference {structure.frame_uid}; expected the CT's, "
            f"{series.frame_uid}; export the CT that it was drawn on"
        )


def _bridged(
    mask: NDArray[np.bool_], geometry: Geometry, config: IngestConfig
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Returns the mask, its gaps filled if `config` asks for it, and a warning if it has gaps."""
    num_empty = num_empty_slices(mask)
    if num_empty and config.interpolate_gaps:
        mask = interpolate_gaps(mask, geometry)
        num_left = num_empty_slices(mask)
        return mask, (
            f"{num_empty - num_left} slices without a contour were filled between their neighbours"
            + (f", {num_left} stay empty in gaps wider than {WIDEST_GAP_MM:g} mm" if num_left else "")
            + "; see them in the pictures of the check",
        )
    if num_empty:
        return mask, (
            f"{num_empty} of the slices that the target spans have no contour; expected one on each, unless there are "
            "two targets; draw what was skipped, or set ingest.interpolate_gaps in site.yaml, and import again",
        )
    return mask, ()


def _check_same_grid(image: Geometry, label: Geometry, config: IngestConfig) -> None:
    if not image.matches(label, GRID_TOLERANCE_MM):
        raise LabelError(
            f"{config.label_name} has size {label.size}, spacing {label.spacing_mm} and origin {label.origin_mm}; "
            f"expected {image.size}, {image.spacing_mm} and {image.origin_mm} as {config.image_name}; resample it"
        )


def _binary(array: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """Returns where a label is not 0; it may hold 0 and one other value."""
    values = np.unique(array)
    others = values[values != 0]
    if len(others) != 1 or len(values) != 2:
        shown = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
        raise LabelError(f"{name} holds the values {shown}; expected 0 and 1, both; write the target alone")
    return np.asarray(array != 0)


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    """Returns whole-numbered HU as int16, others as float32."""
    limits = np.iinfo(np.int16)
    if limits.min <= array.min() and array.max() <= limits.max and (array == np.rint(array)).all():
        return array.astype(np.int16)
    return array.astype(np.float32)
