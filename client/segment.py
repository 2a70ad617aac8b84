"""A model's output for one patient: RTSTRUCT, NIfTI mask and picture, for a planning system and for people."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.checkpoint import load_weights
from common.config import Recipe, parse_yaml
from common.device import choose_device
from common.dicom import CtSeries, read_ct_series
from common.errors import CheckpointError, ImageError
from common.model import Weights, load_model
from common.pictures import overlay_png
from common.preprocess import prepare
from common.rtstruct import write_rtstruct
from common.segmentation import segment
from common.statistics import Normalisation
from common.tasks import NormalisationRecord
from common.volume import Volume, read_nifti, to_lps, write_nifti

ROI_NAME = "GTVnx_auto"


@dataclass(frozen=True)
class ModelPackage:
    """Weights and what they need to be used: recipe and normalisation, from the file's own metadata."""

    name: str
    weights: Weights
    recipe: Recipe
    normalisation: Normalisation


@dataclass(frozen=True)
class Outcome:
    """What was written for one scan."""

    files: tuple[Path, ...]
    volume_ml: float
    flags: tuple[str, ...]


def read_model(path: Path) -> ModelPackage:
    """Returns the model at `path`.

    Raises:
        CheckpointError: not a model of this product: recipe or normalisation is missing from its metadata.
    """
    weights, metadata = load_weights(path)
    missing = [key for key in ("recipe", "normalisation", "model") if key not in metadata]
    if missing:
        raise CheckpointError(f"{path}: has no {missing[0]!r} in its metadata; give a file of a run's models folder")
    recipe = parse_yaml(metadata["recipe"], Recipe, f"{path}: recipe")
    statistics = parse_yaml(metadata["normalisation"], NormalisationRecord, f"{path}: normalisation")
    return ModelPackage(metadata["model"], weights, recipe, Normalisation(statistics.mean, statistics.sd))


def segment_scan(scan: Path, model: ModelPackage, out: Path, device: str = "auto") -> Outcome:
    """Segments a CT (DICOM folder or NIfTI file) and writes the mask, a picture and, for DICOM, an RTSTRUCT to `out`.

    Raises:
        ImageError: `scan` is no CT.
        CheckpointError: the weights do not fit the recipe that came with them.
    """
    series, volume = _read_scan(scan)
    chosen = choose_device(device)
    networks = load_model(model.recipe, model.weights, chosen)
    prepared = prepare([volume], None, model.recipe.preprocess)
    result = segment(prepared, networks, model.recipe, model.normalisation, chosen)
    out.mkdir(parents=True, exist_ok=True)
    files = [out / "mask.nii.gz", out / "overlay.png"]
    write_nifti(Volume(result.mask.astype(np.uint8), volume.geometry), files[0])
    files[1].write_bytes(_picture(volume, result.mask, model.name))
    volume_ml = float(result.mask.sum()) * volume.geometry.voxel_ml
    flags = result.flags if result.mask.any() else (*result.flags, "nothing-found")
    if series is not None and result.mask.any():
        files.append(out / "rtstruct.dcm")
        write_rtstruct(result.mask, series, files[-1], ROI_NAME, f"model {model.name}")
    report = {"model": model.name, "volume_ml": round(volume_ml, 2), "flags": list(flags)}
    files.append(out / "report.json")
    files[-1].write_text(json.dumps(report, indent=2) + "\n")
    return Outcome(tuple(files), volume_ml, flags)


def _read_scan(scan: Path) -> tuple[CtSeries | None, Volume]:
    if not scan.exists():
        raise ImageError(f"{scan}: does not exist; give a DICOM folder or a NIfTI file")
    if scan.is_file() and scan.name.endswith((".nii", ".nii.gz")):
        return None, read_nifti(scan)
    series = read_ct_series(scan)
    return series, series.volume


def _picture(volume: Volume, mask: np.ndarray, name: str) -> bytes:
    image, drawn = to_lps(volume), to_lps(Volume(mask, volume.geometry))
    return overlay_png(image.array, image.geometry.spacing_mm, None, drawn.array.astype(bool), f"predicted by {name}")
