"""A site's cases, preprocessed and parted; a refused case is named in the site's own log and is in no part."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.loaded_case import TRUTH_NAME
from client.splits import keep_split
from common.cache import CachedCase, CaseCache
from common.dataset import CaseEntry, read_index
from common.errors import ImageError, LabelError
from common.recipe import Recipe
from common.split import SplitConfig
from common.volume import Volume, read_nifti

log = logging.getLogger("fedgtv.site")
CACHE, OWN = "cache", "own"
"""Below the work folder: prepared cases. Below the state, where another account trains: a work folder of the node's."""
WORTH_TELLING_S = 1.0
"""A case that is in the cache opens in a hundredth of it."""


@dataclass(frozen=True)
class OpenCase:
    """A cached case and the folder that its original files lie in."""

    cached: CachedCase
    folder: Path

    def image(self) -> Volume:
        """Reads the first image on its original grid."""
        return read_nifti(self.folder / self.cached.entry.images[0])

    def label(self) -> NDArray[np.bool_]:
        """Reads the target (z, y, x) on the original grid (LabelError: the case has none)."""
        if self.cached.entry.label is None:
            raise LabelError(f"case {self.cached.case_id}: has no label; import it with its contour")
        return np.asarray(read_nifti(self.folder / self.cached.entry.label).array > 0.5)

    def truth(self) -> NDArray[np.bool_] | None:
        """Reads a phantom's true tumour (z, y, x), which lies beside the label; None for a patient, who has none."""
        path = self._truth_path()
        return np.asarray(read_nifti(path).array > 0.5) if path is not None else None

    @property
    def has_truth(self) -> bool:
        """Whether it is a phantom whose true tumour lies beside the label."""
        return self._truth_path() is not None

    def _truth_path(self) -> Path | None:
        if self.cached.entry.label is None:
            return None
        path = (self.folder / self.cached.entry.label).with_name(TRUTH_NAME)
        return path if path.is_file() else None


@dataclass(frozen=True)
class Cases:
    """A site's cases by part of the split; refused ones are in none."""

    train: tuple[OpenCase, ...]
    validation: tuple[OpenCase, ...]
    test: tuple[OpenCase, ...]
    num_refused: int


def open_cases(folder: Path, work: Path, recipe: Recipe, split: SplitConfig) -> Cases:
    """Returns the cases of `folder` by part; what is not in the cache in `work` yet is made now.

    A case with fewer images than the recipe's networks need is refused by name; of one with more, the first are taken.

    Raises:
        InputError: the folder's index is missing or damaged, or the split kept in `work` is damaged.
    """
    cache = CaseCache(_cache_folder(work, recipe.num_images), recipe.preprocess)
    parts = keep_split(read_index(folder), split, work)
    train, validation, test = (
        tuple(case for entry in part if (case := _open(cache, folder, entry, recipe.num_images)) is not None)
        for part in (parts.train, parts.validation, parts.test)
    )
    num_entries = len(parts.train) + len(parts.validation) + len(parts.test)
    return Cases(train, validation, test, num_entries - len(train) - len(validation) - len(test))


def _cache_folder(work: Path, num_images: int) -> Path:
    """Cases of two images lie apart: a case's cache takes the place of others of it that were made of other files."""
    return work / CACHE if num_images == 1 else work / CACHE / f"{num_images}-images"


def _open(cache: CaseCache, folder: Path, entry: CaseEntry, num_images: int) -> OpenCase | None:
    started = time.monotonic()
    try:
        case = OpenCase(cache.open(folder, with_images(entry, num_images)), folder)
    except (ImageError, LabelError) as error:
        log.warning("case %s is left out: %s", entry.case_id, error)
        return None
    seconds = time.monotonic() - started
    if seconds > WORTH_TELLING_S:
        log.info("case %s prepared in %.0f s", entry.case_id, seconds)
    return case


def with_images(entry: CaseEntry, num_images: int) -> CaseEntry:
    """Returns the entry with as many images as the networks see (ImageError: it has fewer)."""
    if len(entry.images) < num_images:
        raise ImageError(
            f"has {len(entry.images)} image; expected {num_images} as in the recipe's in_channels; "
            "import it again with its contrast CT (ingest.contrast or ingest.contrast_name in site.yaml)"
        )
    return replace(entry, images=entry.images[:num_images])
