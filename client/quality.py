"""Pre-flight checks of a site: data, device and disk, each finding with its severity and remedy."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from client.site import Site
from client.splits import kept_parts
from common.config import SplitConfig
from common.dataset import CaseEntry, read_index, split_cases
from common.device import choose_device
from common.errors import FedgtvError
from common.volume import read_nifti

MIN_FREE_GIB = 5.0
MIN_LABEL_ML = 0.5
PLAUSIBLE_AIR_HU = -500.0
PLAUSIBLE_BONE_HU = 200.0

Severity = Literal["error", "warning", "ok"]


@dataclass(frozen=True)
class Finding:
    """One line of the check's table."""

    severity: Severity
    subject: str
    what: str
    remedy: str = ""


def check_site(site: Site, split: SplitConfig) -> list[Finding]:
    """Returns findings on the site's device, disk, split and every case; errors keep the site from training."""
    return [*_check_device(site), *_check_disk(site), *_check_cases(site, split)]


def _check_device(site: Site) -> Iterator[Finding]:
    try:
        device = choose_device(site.config.device)
    except FedgtvError as error:
        yield Finding("error", "device", str(error), "correct `device` in site.yaml")
        return
    if device.type == "cpu":
        yield Finding("warning", "device", "no GPU in use", "full-size networks need one; small recipes do not")
    else:
        yield Finding("ok", "device", str(device))


def _check_disk(site: Site) -> Iterator[Finding]:
    folder = next(path for path in (site.state_folder, *site.state_folder.parents) if path.exists())
    free_gib = shutil.disk_usage(folder).free / 2**30
    if free_gib < MIN_FREE_GIB:
        yield Finding("warning", "disk", f"{free_gib:.1f} GiB free", f"keep {MIN_FREE_GIB:.0f} GiB for the cache")
    else:
        yield Finding("ok", "disk", f"{free_gib:.0f} GiB free")


def _check_cases(site: Site, split: SplitConfig) -> Iterator[Finding]:
    try:
        entries = read_index(site.cases_folder)
    except FedgtvError as error:
        yield Finding("error", "cases", str(error), "run `fedgtv-site import`")
        return
    yield from _check_split(site, entries, split)
    for entry in entries:
        yield from _check_case(site.cases_folder, entry)


def _check_split(site: Site, entries: Sequence[CaseEntry], split: SplitConfig) -> Iterator[Finding]:
    """Counts the parts as a task of this split would find them; nothing is drawn for good."""
    try:
        parts = split_cases(entries, split, kept_parts(split, site.state_folder))
    except FedgtvError as error:
        yield Finding("error", "cases", str(error), "restore the file")
        return
    counts = f"{len(parts.train)} to train, {len(parts.validation)} to validate, {len(parts.test)} to test"
    least = site.config.policy.min_cases
    if not parts.train:
        yield Finding("error", "cases", counts, "import cases with contours")
    elif len(parts.train) < least:
        yield Finding(
            "warning", "cases", counts, f"fewer than {least} training cases: statistics stay here (policy.min_cases)"
        )
    elif len(parts.test) < least:
        yield Finding(
            "warning", "cases", counts, f"fewer than {least} test cases: metrics stay here (policy.min_cases)"
        )
    else:
        yield Finding("ok", "cases", counts)


def _check_case(folder: Path, entry: CaseEntry) -> Iterator[Finding]:
    try:
        image = read_nifti(folder / entry.images[0])
        label = None if entry.label is None else read_nifti(folder / entry.label)
    except FedgtvError as error:
        yield Finding("error", entry.case_id, str(error), "import it again")
        return
    low, high = float(image.array.min()), float(image.array.max())
    if low > PLAUSIBLE_AIR_HU or high < PLAUSIBLE_BONE_HU:
        yield Finding("error", entry.case_id, f"values {low:.0f} to {high:.0f} are not HU", "is it CT, and rescaled?")
    if label is None:
        yield Finding("error", entry.case_id, "no label", "import it with its contour")
        return
    volume_ml = int(np.count_nonzero(label.array)) * label.geometry.voxel_ml
    if volume_ml < MIN_LABEL_ML:
        yield Finding("warning", entry.case_id, f"target of {volume_ml:.2f} ml", "is it the right structure?")
    else:
        yield Finding("ok", entry.case_id, f"target of {volume_ml:.1f} ml")
