"""One case of a NIfTI export: a folder with an image, a second one if there is one, and their label."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.loaded_case import (
    TRUTH_NAME,
    LoadedCase,
    Tell,
    bridged,
    check_overlap,
    check_same_grid,
    find_truth,
    grid_info,
    read_truth,
)
from client.target import Found
from common.errors import InputError, LabelError
from common.file_tree import lies_below
from common.site_config import IngestConfig
from common.volume import Geometry, Volume, from_lps, read_nifti, to_lps


@dataclass(frozen=True)
class NiftiCase:
    """A folder with an image, a second one if there is one, and their label."""

    name: str
    key: str
    """The folder's path within the export, which stands for the patient too."""
    folder: Path
    config: IngestConfig
    source: Path
    """The export; a link to a file that is not in it is not read."""

    @property
    def patient_key(self) -> str:
        """One folder is one patient."""
        return self.key

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the case is made of and that are there, in the export."""
        config = self.config
        names = (config.image_name, config.contrast_name, config.label_name, TRUTH_NAME)
        return tuple(self.folder / name for name in names if name and self._holds(name))

    @property
    def structure_sets(self) -> tuple[Path, ...]:
        """The label's file, if it is there."""
        path = self.folder / self.config.label_name
        return (path,) if path.is_file() else ()

    @property
    def origin(self) -> Path:
        """The folder that tells where the case came from."""
        return self.folder

    @property
    def pairing(self) -> str:
        """Image and label belong together by lying together."""
        return "folder"

    @property
    def images(self) -> str:
        """The images in words."""
        names = (self.config.image_name, self.config.contrast_name)
        return " + ".join(name for name in names if name and (self.folder / name).is_file())

    def digest(self) -> str:
        """Returns a hash of the files' names and bytes; InputError: one cannot be read."""
        hashed = hashlib.sha256()
        for path in self.files:
            try:
                with path.open("rb") as file:
                    hashed.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
            except OSError as error:
                told = f"{path}: cannot be read ({error.strerror}); let your account read it, then import again"
                raise InputError(told) from error
        return hashed.hexdigest()

    def decided_by(self, config: IngestConfig) -> tuple[str, ...]:
        """What decides what becomes of the files: which of them is what."""
        return config.image_name, config.contrast_name, config.label_name, str(config.interpolate_gaps)

    def looked_for(self, config: IngestConfig) -> str:
        """Nothing is chosen: the label is the target."""
        return ""

    def find_target(self, config: IngestConfig, tell: Tell) -> Path:
        """Returns the label's file; InputError if it is missing."""
        path = self._there("label_name", config.label_name)
        tell(Found((config.label_name,), config.label_name, "ingest.label_name", config.label_name))
        return path

    def load(self, config: IngestConfig, tell: Tell) -> LoadedCase:
        """Reads images and label; InputError: one is missing, or as ImageError or LabelError says."""
        image = read_nifti(self._there("image_name", config.image_name))
        label = read_nifti(self.find_target(config, tell))
        check_same_grid(image.geometry, label.geometry, config.label_name, config.image_name)
        mask, warnings = _bridged_along_z(Volume(_binary(label.array, config.label_name), image.geometry), config)
        contrast, lacking = self._contrast(config, image.geometry)
        truth, passed_over = find_truth(self.folder, self.source)
        return LoadedCase(
            images=tuple(Volume(_compact(each.array), each.geometry) for each in (image, *contrast)),
            label=Volume(mask.astype(np.uint8), image.geometry),
            truth=read_truth(truth, image.geometry),
            info=grid_info(image.geometry),
            warnings=(*lacking, *passed_over, *warnings),
        )

    def _contrast(self, config: IngestConfig, plain: Geometry) -> tuple[list[Volume], tuple[str, ...]]:
        if not config.contrast_name:
            return [], ()
        if not (self.folder / config.contrast_name).is_file():
            return [], (
                f"one image only: no {config.contrast_name} (ingest.contrast_name) in the folder; networks of two "
                "images will leave this case out; put it there",
            )
        contrast = read_nifti(self._there("contrast_name", config.contrast_name))
        check_overlap(plain, contrast.geometry)
        return [contrast], ()

    def _there(self, key: str, name: str) -> Path:
        if not (self.folder / name).is_file():
            raise InputError(
                f"{self.folder / name}: no such file; expected image and label side by side; put it there, or give its "
                f"name as ingest.{key} in site.yaml"
            )
        if not self._holds(name):
            raise InputError(
                f"{self.folder / name}: is a link that leads out of the export; expected a file in it; copy the file "
                "itself there"
            )
        return self.folder / name

    def _holds(self, name: str) -> bool:
        path = self.folder / name
        return path.is_file() and lies_below(path, self.source)


def _binary(array: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """Returns where a label is not 0; it may hold 0 and one other value."""
    values = np.unique(array)
    others = values[values != 0]
    if len(others) != 1 or len(values) != 2:
        shown = ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")
        raise LabelError(f"{name} holds the values {shown}; expected 0 and 1, both; write the target alone")
    return np.asarray(array != 0)


def _bridged_along_z(mask: Volume, config: IngestConfig) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Returns what `bridged` makes of a mask whose slices may be any axis of its array, on the mask's own grid."""
    upright = to_lps(mask)
    filled, warnings = bridged(upright.array, upright.geometry, config)
    return from_lps(filled, mask.geometry), warnings


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    """Returns whole-numbered HU as int16, others as float32."""
    limits = np.iinfo(np.int16)
    if limits.min <= array.min() and array.max() <= limits.max and (array == np.rint(array)).all():
        return array.astype(np.int16)
    return array.astype(np.float32)
