"""Sites on this machine: exports (phantoms, or folders given), their import, and a `site.yaml` each."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import yaml

from client.ingest import import_folder
from common.atomic import write_text_atomically
from common.errors import ConfigError, InputError
from common.experiment import Experiment, SimulationConfig
from common.phantom import make_phantom
from common.phantom_dicom import write_phantom
from common.settings import fingerprint
from common.site_config import PolicyConfig, SiteConfig
from common.text import counted

Progress = Callable[[str], None]
PHANTOM_POLICY = PolicyConfig(share_pictures=True, share_case_metrics=True, min_cases=1)
"""Phantoms are nobody: their pictures and single cases may be shown."""


def write_exports(experiment: Experiment, folder: Path, tell: Progress) -> None:
    """Writes each site's phantoms as DICOM under `folder/SITE/case-NNN`; what is there already is kept."""
    wanted = [
        (site, number, case)
        for number, site in enumerate(experiment.sites)
        for case in range(1, experiment.simulation.cases.get(site, 0) + 1)
        if not (folder / site / f"case-{case:03d}").exists()
    ]
    _claim(folder, experiment)
    if wanted:
        tell(f"making {counted(len(wanted), 'phantom')} as DICOM")
    pool = ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        for job in [pool.submit(_write_export, experiment.simulation, folder, *each) for each in wanted]:
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)
    for number, site in enumerate(experiment.sites):
        count = experiment.simulation.cases.get(site, 0)
        tell(f"site {site}: {count} phantoms of institution {_institution(number)} as DICOM")


def _claim(folder: Path, experiment: Experiment) -> None:
    """Notes what the phantoms below `folder` are made of, or refuses other ones (ConfigError)."""
    made_of = fingerprint(experiment.simulation, *experiment.sites)
    path = folder / "made-of"
    if path.exists() and path.read_text() != made_of:
        raise ConfigError(f"{folder}: holds phantoms of another simulation; give another --out, or remove the folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, made_of)


def _write_export(simulation: SimulationConfig, folder: Path, site: str, number: int, case: int) -> None:
    seed = simulation.seed * 100_000 + number * 1_000 + case
    phantom = make_phantom(_institution(number), seed, simulation.scale, simulation.contrast)
    write_phantom(phantom, folder / site / f"case-{case:03d}", case)


def _institution(number: int) -> str:
    """The phantoms' institutions, in turn."""
    return "ABC"[number % 3]


def exports_folder(experiment: Experiment, work: Path) -> Path:
    """Returns where the sites' exports lie: the experiment's folder with variables expanded, or below `work`.

    Raises:
        InputError: the folder, or one site's in it, is not there; or a site has no phantoms to make.
    """
    simulation = experiment.simulation
    if simulation.source == "phantoms":
        for site in experiment.sites:
            if simulation.cases.get(site, 0) < 1:
                raise InputError(
                    f"simulation.cases: site {site!r} has no cases; give it at least 1, such as {site}: 10"
                )
        return work / "exports"
    folder = Path(os.path.expandvars(simulation.folder)).expanduser()
    for site in experiment.sites:
        if not (folder / site).is_dir():
            raise InputError(
                f"simulation.folder: {folder / site} is no folder; expected one folder a site, named like it"
                + (f" (set the variable that {simulation.folder} begins with)" if str(folder).startswith("$") else "")
            )
    return folder


def prepare_site(
    site: str, experiment: Experiment, export: Path, folder: Path, tell: Progress, num_threads: int = 0
) -> Path:
    """Imports a site's export and writes its `site.yaml` (anew each time); returns the file's path.

    Raises:
        ImageError: the export holds no CT.
        InputError: every case was refused; nothing was written. The first reason is given.
    """
    phantoms = experiment.simulation.source == "phantoms"
    config = SiteConfig(
        site=site,
        num_threads=num_threads,
        ingest=experiment.simulation.ingest,
        policy=PHANTOM_POLICY if phantoms else PolicyConfig(),
    )
    report = import_folder(export, folder / config.cases, config.ingest, site)
    tell(f"site {site}: {len(report.imported)} cases imported, {len(report.skipped)} unchanged")
    for name, reason in report.refused:
        tell(f"site {site}: {name} refused: {reason}")
    if report.refused and not (report.imported or report.skipped):
        name, reason = report.refused[0]
        raise InputError(f"site {site}: none of {len(report.refused)} cases could be imported; {name}: {reason}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "site.yaml"
    write_text_atomically(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    return path
