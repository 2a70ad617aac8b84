"""A model's output for one scan: RTSTRUCT, NIfTI mask and picture, for a planning system and for people."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.model_package import ModelPackage
from client.result_check import NOTHING_FOUND, result_flags
from client.result_place import writing
from client.scans import MASK, REPORT, Scan, find_scans
from client.unfinished import unfinished_folder
from common.atomic import put_in_place
from common.device import choose_device
from common.dicom import CtSeries
from common.errors import CheckpointError, ImageError
from common.fitness import no_hu
from common.pictures import overlay_png
from common.preprocess import LABEL_THRESHOLD, prepare, restore
from common.private import close_to_others, private_folder
from common.release import release
from common.rtstruct import write_rtstruct
from common.segmentation import Segmentation, segment
from common.volume import Volume, to_lps, write_nifti

ROI_NAME = "GTVnx_auto"
PICTURE, RTSTRUCT = "overlay.png", "rtstruct.dcm"
NO_FRAME = "no-rtstruct: the series has no FrameOfReferenceUID"


@dataclass(frozen=True)
class Outcome:
    """What was written for one scan."""

    files: tuple[Path, ...]
    volume_ml: float
    flags: tuple[str, ...]


class Segmenter:
    """A model on a device, for any number of scans."""

    def __init__(self, model: ModelPackage, device: str = "auto") -> None:
        """Raises CheckpointError: the weights do not fit the recipe that came with them, or need a second image."""
        self.model = model
        self.device: torch.device = choose_device(device)
        self.networks: dict[str, nn.Module] = model.networks(self.device)
        self.version = model.version()
        needed = max(stage.network.in_channels for stage in model.recipe.stages.values())
        if needed > 1:
            raise CheckpointError(
                f"{model.path}: model {model.name!r} needs {needed} images of a patient; expected one that needs plain "
                "CT"
            )

    def run(self, scan: Scan, out: Path) -> Outcome:
        """Segments a scan and writes the mask, a picture, a report and, for DICOM, an RTSTRUCT to `out`.

        They take the place of an earlier scan's once all are made, the report last: without it a result is not whole,
        and is made anew. They are for their owner alone. What the model finds outside the body mask of the
        preprocessing is no tumour and is taken out. Without a target, or without a frame of reference to refer to,
        there is no RTSTRUCT. Flags say so, and what looks implausible (`result_check.py`).

        Raises:
            ImageError: `scan` is no CT, by its files or by its values.
            WorkError: `out` cannot be written.
        """
        series, volume = scan.read()
        fault = no_hu(volume.array)
        if fault:
            raise ImageError(f"{scan.name}: {fault}; expected air and bone; is it CT, and rescaled?")
        mask, flags = self._find(volume)
        if series is not None and not series.frame_uid:
            flags = (*flags, NO_FRAME)
        volume_ml = float(mask.sum()) * volume.geometry.voxel_ml
        report = self._report(scan, volume_ml, flags)
        with writing(out):
            return Outcome(self._write(volume, mask, series, report, out), volume_ml, flags)

    def _write(
        self, volume: Volume, mask: NDArray[np.bool_], series: CtSeries | None, report: dict[str, Any], out: Path
    ) -> tuple[Path, ...]:
        """Returns the files in `out`, all of them new."""
        private_folder(out)
        with unfinished_folder(out) as unfinished:
            write_nifti(Volume(mask.astype(np.uint8), volume.geometry), unfinished / MASK)
            (unfinished / PICTURE).write_bytes(_picture(volume, mask, self.model.name))
            if series is not None and not {NOTHING_FOUND, NO_FRAME} & set(report["flags"]):
                self._write_structures(mask, series, unfinished / RTSTRUCT)
            files = [*sorted(path.name for path in unfinished.iterdir()), REPORT]
            (unfinished / REPORT).write_text(json.dumps({**report, "files": files}, indent=2) + "\n")
            close_to_others(unfinished)
            return _publish(unfinished, out)

    def earlier(self, scan: Scan, out: Path) -> Outcome | None:
        """Returns what an earlier run wrote to `out` for the same scan, model and release; None if there is no such."""
        try:
            report = json.loads((out / REPORT).read_text())
            if report["made_from"] != self._made_from(scan):
                return None
            files = tuple(out / name for name in (MASK, PICTURE, RTSTRUCT, REPORT) if name in report["files"])
            outcome = Outcome(files, float(report["volume_ml"]), tuple(str(flag) for flag in report["flags"]))
        except (OSError, ValueError, TypeError, KeyError):  # none, or not one of ours: it is made anew
            return None
        return outcome if all(path.is_file() for path in files) else None

    def _find(self, volume: Volume) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
        """Returns the mask within the body, and all flags."""
        prepared = prepare([volume], None, self.model.recipe.preprocess)
        result: Segmentation = segment(
            prepared, self.networks, self.model.recipe, self.model.normalisation, self.device
        )
        inside = restore(prepared.body.astype(np.float32), prepared.record) >= LABEL_THRESHOLD
        mask = result.mask & inside
        removed_ml = float((result.mask & ~inside).sum()) * volume.geometry.voxel_ml
        own = result_flags(Volume(mask, volume.geometry), removed_ml, prepared.record)
        return mask, (*result.flags, *own)

    def _report(self, scan: Scan, volume_ml: float, flags: tuple[str, ...]) -> dict[str, Any]:
        return {
            "model": self.model.name,
            "model_version": self.version,
            "model_origin": self.model.origin or None,
            "software": release(),
            "volume_ml": volume_ml,
            "flags": list(flags),
            "note": "not for clinical use",
            "made_from": self._made_from(scan),
        }

    def _made_from(self, scan: Scan) -> str:
        """All that the result depends on, as one word."""
        return f"{scan.content()[:16]}-{self.version}-{release().replace(' ', '-')}"

    def _write_structures(self, mask: NDArray[np.bool_], series: CtSeries, path: Path) -> None:
        origin = f", {self.model.origin}" if self.model.origin else ""
        description = f"model {self.model.name} {self.version}{origin}"
        write_rtstruct(mask, series, path, ROI_NAME, description)


def segment_scan(source: Path, model: ModelPackage, out: Path, device: str = "auto") -> Outcome:
    """Segments the one scan at `source` as `Segmenter.run` does (ImageError: there is none, or several)."""
    scans = find_scans(source)
    if len(scans) > 1:
        raise ImageError(f"{source}: holds {len(scans)} scans; expected one; name its own folder or file")
    return Segmenter(model, device).run(scans[0], out)


def _publish(unfinished: Path, out: Path) -> tuple[Path, ...]:
    """Moves what was made to `out`; first an earlier scan's report goes, which would vouch for what is moved."""
    made = tuple(out / name for name in (MASK, PICTURE, RTSTRUCT, REPORT) if (unfinished / name).exists())
    for name in (REPORT, RTSTRUCT):
        (out / name).unlink(missing_ok=True)
    for path in made:
        put_in_place(unfinished / path.name, path)
    return made


def _picture(volume: Volume, mask: NDArray[np.bool_], name: str) -> bytes:
    image, drawn = to_lps(volume), to_lps(Volume(mask, volume.geometry))
    title = f"predicted by {name}; not for clinical use"
    return overlay_png(image.array, image.geometry.spacing_mm, None, drawn.array.astype(bool), title)
