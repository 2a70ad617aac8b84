"""Sites on this machine: exports (phantoms, or folders given), their import, and a `site.yaml` each."""

import os
from collections.abc import Callable
from pathlib import Path

import yaml

from client.ingest import import_folder
from common.config import Experiment, PolicyConfig, SiteConfig
from common.errors import InputError
from common.phantom import make_phantom
from common.phantom_dicom import write_phantom

Progress = Callable[[str], None]
PHANTOM_POLICY = PolicyConfig(share_pictures=True, min_cases=1)
"""Phantoms are nobody: their pictures and single cases may be shown."""


def write_exports(experiment: Experiment, folder: Path, tell: Progress) -> None:
    """Writes each site's phantoms as DICOM under `folder/SITE/case-NNN`; what is there already is kept."""
    simulation = experiment.simulation
    for number, site in enumerate(experiment.sites):
        for case in range(1, simulation.cases.get(site, 0) + 1):
            target = folder / site / f"case-{case:03d}"
            if target.exists():
                continue
            seed = experiment.simulation.seed * 100_000 + number * 1_000 + case
            institution = "ABC"[number % 3]
            phantom = make_phantom(institution, seed, simulation.scale, simulation.contrast)
            write_phantom(phantom, target, case)
        tell(f"site {site}: {simulation.cases.get(site, 0)} phantoms of institution {'ABC'[number % 3]} as DICOM")


def exports_folder(experiment: Experiment, work: Path) -> Path:
    """Returns where the sites' exports lie: the experiment's folder with variables expanded, or below `work`.

    Raises:
        InputError: the folder, or one site's in it, is not there.
    """
    simulation = experiment.simulation
    if simulation.source == "phantoms":
        return work / "exports"
    folder = Path(os.path.expandvars(simulation.folder)).expanduser()
    for site in experiment.sites:
        if not (folder / site).is_dir():
            raise InputError(
                f"simulation.folder: {folder / site} is no folder; expected one folder a site, named like it"
                " (set FEDGTV_DATA if the path begins with it)"
            )
    return folder


def prepare_site(
    site: str, experiment: Experiment, export: Path, folder: Path, tell: Progress, num_threads: int = 0
) -> Path:
    """Imports a site's export and writes its `site.yaml` (kept when it is there); returns the file's path."""
    phantoms = experiment.simulation.source == "phantoms"
    folder.mkdir(parents=True, exist_ok=True)
    config = SiteConfig(
        site=site,
        num_threads=num_threads,
        ingest=experiment.simulation.ingest,
        policy=PHANTOM_POLICY if phantoms else PolicyConfig(),
    )
    path = folder / "site.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    report = import_folder(export, folder / config.cases, config.ingest, site)
    tell(f"site {site}: {len(report.imported)} cases imported, {len(report.skipped)} unchanged")
    for name, reason in report.refused:
        tell(f"site {site}: {name} refused: {reason}")
    return path
