"""Pre-flight check of one case: its findings, its picture, and what comparing it with the others needs.

Runs in processes of its own, so it stays free of torch.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import SimpleITK as sitk  # noqa: N813 (its documentation's own name)
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from client.cases import with_images
from client.finding import CASE, Finding, Severity, gravest
from client.image_check import ABOUT_FLAGS, check_grid, check_patient, check_range, show_grid
from client.label_check import check_label, target_ml
from common.alignment import label_on
from common.dataset import CaseEntry
from common.errors import FedgtvError, ImageError, LabelError
from common.fitness import no_hu
from common.panels import as_jpeg
from common.pictures import overlay_figure
from common.preprocess import Patient, PreparedCase, find_patient, prepare_patient
from common.recipe import PreprocessConfig
from common.resample import resample_linear
from common.text import counted
from common.volume import Geometry, Volume, lps_geometry, read_nifti, to_lps

log = logging.getLogger("fedgtv.site")
THUMBNAIL = (32, 32, 32)
THUMBNAIL_HU = (-200.0, 300.0)
AGAIN = "import it again"


def start_worker() -> None:
    """Leaves the other cores to the other workers."""
    cv2.setNumThreads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


@dataclass(frozen=True, eq=False)
class Facts:
    """What comparing cases and counting bytes needs of one whose image is good."""

    spacing_mm: tuple[float, float, float]
    """(z, y, x), turned to LPS."""
    voxels: int
    """Of the scan."""
    cached_bytes: int
    """That the case takes in the cache; 0 where it cannot be prepared."""
    content: str
    """Hash of the image's HU, the same in any order of axes and any file format."""
    thumbnail: NDArray[np.float32]
    """The region of interest's details, squeezed into `THUMBNAIL` voxels: what copies of one scan share."""


@dataclass(frozen=True, eq=False)
class CheckedCase:
    """One case's findings; without picture and facts where its image cannot be read."""

    entry: CaseEntry
    findings: tuple[Finding, ...]
    picture: bytes | None = None
    """JPEG, three planes through the target."""
    facts: Facts | None = None

    @property
    def case_id(self) -> str:
        """The case's pseudonym."""
        return self.entry.case_id


def check_case(folder: Path, entry: CaseEntry, config: PreprocessConfig, num_images: int) -> CheckedCase:
    """Returns what there is to say of a case of `folder`, under the region of interest and grid of `config`.

    Nothing that is wrong with a case is raised: one such case must not keep the others from being checked. Its own
    errors are those for which `open_cases` leaves it out.

    Args:
        folder: the site's cases.
        entry: which of them.
        config: how the recipe prepares it.
        num_images: that the recipe's networks see; what is wrong with further ones is a warning.
    """
    try:
        return _Check(folder, entry, config, num_images).run()
    except FedgtvError as error:
        return CheckedCase(entry, (Finding.of("error", entry.case_id, "file", str(error), AGAIN),))
    except Exception as error:
        log.exception("case %s could not be checked", entry.case_id)
        what = f"could not be checked ({type(error).__name__}: {error})"
        return CheckedCase(entry, (Finding("error", entry.case_id, "file", what, AGAIN),))


class _Check:
    """One case under way: every step adds its findings."""

    def __init__(self, folder: Path, entry: CaseEntry, config: PreprocessConfig, num_images: int) -> None:
        self.folder = folder
        self.entry = entry
        self.config = config
        self.num_images = num_images
        self.label_path = None if entry.label is None else folder / entry.label
        self.findings: list[Finding] = []
        self.images = [read_nifti(folder / name) for name in entry.images[:num_images]]
        self.unseen = dict(self._unseen())

    def _unseen(self) -> Iterator[tuple[int, Volume]]:
        """Gives the images that the recipe does not see, by number; a damaged one keeps the case from nothing."""
        for number, name in enumerate(self.entry.images[self.num_images :], self.num_images + 1):
            try:
                yield number, read_nifti(self.folder / name)
            except ImageError as error:
                self.findings.append(Finding.of("warning", self.entry.case_id, "file", str(error), AGAIN))

    def run(self) -> CheckedCase:
        for number, image in (*enumerate(self.images, 1), *self.unseen.items()):
            self.findings += check_range(self.entry.case_id, image.array, number, number <= self.num_images)
        self.findings += check_grid(self.entry.case_id, self.images[0].geometry)
        label = self._label()
        patient = self._found()
        lps = patient.lps if patient else to_lps(self.images[0])
        mask = self._mask(label, lps)
        facts = None if patient is None else self._looked_at(patient, mask, label)
        self.findings.append(self._told(lps.geometry, mask))
        whole = patient is not None and not ABOUT_FLAGS.keys().isdisjoint(patient.flags)
        return CheckedCase(self.entry, tuple(self.findings), self._picture(lps, mask, whole), facts)

    def _looked_at(self, patient: Patient, mask: NDArray[np.bool_] | None, label: Volume | None) -> Facts:
        self.findings += check_patient(self.entry.case_id, patient)
        if mask is not None:
            self.findings += check_label(self.entry.case_id, mask, patient)
        return self._facts(patient, self._prepared(patient, label))

    def _error(self, check: str, error: FedgtvError, remedy: str) -> None:
        self.findings.append(Finding.of("error", self.entry.case_id, check, str(error), remedy))

    def _label(self) -> Volume | None:
        if self.label_path is None:
            what = "no label"
            self.findings.append(
                Finding("error", self.entry.case_id, "label-empty", what, "import it with its contour")
            )
            return None
        try:
            return read_nifti(self.label_path)
        except FedgtvError as error:
            self._error("file", error, AGAIN)
            return None

    def _found(self) -> Patient | None:
        try:
            return find_patient(self.images[0], self.config.roi)
        except FedgtvError as error:
            if not no_hu(self.images[0].array):  # else it is told already that the values are not HU
                self._error("hu", error, "is it CT, and rescaled?")
            return None

    def _mask(self, label: Volume | None, lps: Volume) -> NDArray[np.bool_] | None:
        try:
            return None if label is None else label_on(label, lps.geometry)
        except LabelError as error:
            self._error("label-grid", error, AGAIN)
            return None

    def _prepared(self, patient: Patient, label: Volume | None) -> PreparedCase | None:
        """Prepares the case as training would, for whatever no single check looks at."""
        if gravest(self.findings) == "error":
            return None
        try:
            with_images(self.entry, self.num_images)
            return prepare_patient(patient, self.images, label, self.config)
        except FedgtvError as error:
            self._error("preparation", error, "the case will be left out")
            return None

    def _told(self, geometry: Geometry, mask: NDArray[np.bool_] | None) -> Finding:
        """Returns what the case is, whatever was found: its target, its images, and which of them are not drawn."""
        severity: Severity = "ok" if mask is not None and gravest(self.findings) == "ok" else "info"
        target = ""
        if mask is not None and mask.any():
            num_slices = int(mask.any(axis=(1, 2)).sum())
            target = f"target of {target_ml(mask, geometry):.1f} ml on {counted(num_slices, 'slice')}; "
        first, *others = self.images
        further = [*enumerate(others, 2), *self.unseen.items()]
        rest = [f"; image {number}, not drawn: {_grid(each)}" for number, each in further]
        return Finding(severity, self.entry.case_id, CASE, f"{target}image of {_grid(first)}{''.join(rest)}")

    def _picture(self, lps: Volume, mask: NDArray[np.bool_] | None, whole: bool) -> bytes:
        """`whole` shows what lies far from the target too: head, chest and the image's border."""
        return as_jpeg(overlay_figure(lps.array, lps.geometry.spacing_mm, mask, None, self.entry.case_id, whole))

    def _facts(self, patient: Patient, prepared: PreparedCase | None) -> Facts:
        return Facts(
            spacing_mm=patient.lps.geometry.spacing_mm,
            voxels=patient.lps.array.size,
            cached_bytes=0 if prepared is None else cached_bytes(prepared),
            content=content_hash(patient.lps.array),
            thumbnail=thumbnail(patient),
        )


def _grid(image: Volume) -> str:
    return show_grid(lps_geometry(image.geometry))


def cached_bytes(prepared: PreparedCase) -> int:
    """Returns the bytes of the case's arrays in the cache: HU in two a channel, body and label in one each."""
    return prepared.body.size * (2 * len(prepared.image) + 2)


def content_hash(hu_zyx: NDArray[Any]) -> str:
    """Returns a hash of an LPS image's shape and whole HU."""
    digest = hashlib.sha256(repr(hu_zyx.shape).encode())
    for plane in hu_zyx:
        digest.update(np.rint(plane).astype("<i4").tobytes())
    return digest.hexdigest()


def thumbnail(patient: Patient) -> NDArray[np.float32]:
    """Returns the region of interest in a soft-tissue window, squeezed into `THUMBNAIL` voxels, less a blurred copy.

    The blurred copy is what all heads have in common.
    """
    region = patient.lps.array[patient.box].astype(np.float32)
    small = resample_linear(np.clip(region, *THUMBNAIL_HU), THUMBNAIL)
    details: NDArray[np.float32] = small - gaussian_filter(small, 1.0)
    return details
