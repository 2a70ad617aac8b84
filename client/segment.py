"""A model's output for one patient: RTSTRUCT, NIfTI mask and picture, for a planning system and for people."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import nn

from common.atomic import put_in_place
from common.bounding import bounding_box
from common.checkpoint import Weights, load_weights
from common.config import Recipe, SplitConfig, parse_yaml
from common.device import choose_device
from common.dicom import CtSeries, read_ct_series
from common.errors import CheckpointError, ImageError
from common.model import load_model
from common.pictures import overlay_png
from common.preprocess import LABEL_THRESHOLD, prepare, restore
from common.rtstruct import write_rtstruct
from common.segmentation import segment
from common.statistics import Normalisation
from common.tasks import NormalisationRecord
from common.volume import Volume, read_nifti, to_lps, write_nifti

ROI_NAME = "GTVnx_auto"
MASK, PICTURE, RTSTRUCT, REPORT = "mask.nii.gz", "overlay.png", "rtstruct.dcm", "report.json"
NOTHING_FOUND = "nothing-found"
NO_FRAME = "no-rtstruct: the series has no FrameOfReferenceUID"
OUTSIDE_BODY = "outside-body"
IN_PIECES = "in-pieces"
MOST_PIECES = 3
LEAST_SHARE = 0.9
"""Of the volume, in the largest piece."""


@dataclass(frozen=True)
class ModelPackage:
    """Weights and what they need to be used, from the file's own metadata."""

    path: Path
    name: str
    weights: Weights
    recipe: Recipe
    normalisation: Normalisation
    split: SplitConfig
    """Of its run: which cases of a site it was not trained on."""

    def networks(self, device: torch.device) -> dict[str, nn.Module]:
        """Returns the networks by stage (CheckpointError: the file's weights are not those of its recipe)."""
        try:
            return load_model(self.recipe, self.weights, device)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error


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
    split = parse_yaml(metadata.get("split", "{}"), SplitConfig, f"{path}: split")
    return ModelPackage(path, metadata["model"], weights, recipe, Normalisation(statistics.mean, statistics.sd), split)


def segment_scan(scan: Path, model: ModelPackage, out: Path, device: str = "auto") -> Outcome:
    """Segments a CT (DICOM folder or NIfTI file) and writes the mask, a picture and, for DICOM, an RTSTRUCT to `out`.

    All files appear together at the end, in place of an earlier scan's. What the model finds outside the body mask of
    the preprocessing is no tumour and is taken out. Without a target, or without a frame of reference to refer to,
    there is no RTSTRUCT. Flags say so, and whether the target is in pieces (`_output_flags`).

    Raises:
        ImageError: `scan` is no CT.
        CheckpointError: the weights do not fit the recipe that came with them, or need a second image.
    """
    series, volume = _read_scan(scan)
    chosen = choose_device(device)
    networks = model.networks(chosen)
    _check_channels(model)
    prepared = prepare([volume], None, model.recipe.preprocess)
    result = segment(prepared, networks, model.recipe, model.normalisation, chosen)
    inside = restore(prepared.body.astype(np.float32), prepared.record) >= LABEL_THRESHOLD
    mask = result.mask & inside
    volume_ml = float(mask.sum()) * volume.geometry.voxel_ml
    removed_ml = float((result.mask & ~inside).sum()) * volume.geometry.voxel_ml
    flags = (*result.flags, *_output_flags(mask, removed_ml, series))
    report = {"model": model.name, "volume_ml": round(volume_ml, 2), "flags": list(flags)}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".segment-", dir=out) as name:
        unfinished = Path(name)
        write_nifti(Volume(mask.astype(np.uint8), volume.geometry), unfinished / MASK)
        (unfinished / PICTURE).write_bytes(_picture(volume, mask, model.name))
        if series is not None and not {NOTHING_FOUND, NO_FRAME} & set(flags):
            write_rtstruct(mask, series, unfinished / RTSTRUCT, ROI_NAME, f"model {model.name}")
        (unfinished / REPORT).write_text(json.dumps(report, indent=2) + "\n")
        return Outcome(_publish(unfinished, out), volume_ml, flags)


def _check_channels(model: ModelPackage) -> None:
    needed = max(stage.network.in_channels for stage in model.recipe.stages.values())
    if needed > 1:
        raise CheckpointError(
            f"{model.path}: model {model.name!r} needs {needed} images of a patient; expected one that needs plain CT"
        )


def _output_flags(mask: NDArray[np.bool_], removed_ml: float, series: CtSeries | None) -> tuple[str, ...]:
    """What a reader should know of the result itself.

    `in-pieces` where it falls into more than `MOST_PIECES` pieces (voxels that touch by a corner belong together), or
    the largest holds less than `LEAST_SHARE` of the volume. Both numbers are ours: one gross tumour volume is drawn as
    one body, now and then with an island or two on slices where it leaves and enters again; crumbs, or two halves, mean
    that the model did not settle on one place.
    """
    flags = [f"{OUTSIDE_BODY}: {removed_ml:.2f} ml were taken out"] if removed_ml else []
    sizes = _piece_sizes(mask)
    if not len(sizes):
        flags.append(NOTHING_FOUND)
    elif len(sizes) > MOST_PIECES or sizes[0] < LEAST_SHARE * sizes.sum():
        share = 100 * sizes[0] / sizes.sum()
        flags.append(f"{IN_PIECES}: {len(sizes)}, the largest holds {share:.0f} % of the volume")
    if series is not None and not series.frame_uid:
        flags.append(NO_FRAME)
    return tuple(flags)


def _piece_sizes(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns the voxels of every piece, the largest first; none for an empty mask."""
    labels, _ = ndimage.label(mask[bounding_box(mask)], np.ones((3, 3, 3)))
    return np.sort(np.bincount(labels.ravel())[1:])[::-1]


def _publish(unfinished: Path, out: Path) -> tuple[Path, ...]:
    """Moves what was made to `out`; an earlier scan's file that has no successor goes."""
    made = tuple(out / name for name in (MASK, PICTURE, RTSTRUCT, REPORT) if (unfinished / name).exists())
    (out / RTSTRUCT).unlink(missing_ok=True)
    for path in made:
        put_in_place(unfinished / path.name, path)
    return made


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
