"""The federation in one process: prepare the sites, run the experiment, write the report."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from client.app import app as client_app
from client.border import guarded
from common.card import NO_COORDINATOR
from common.experiment import Experiment
from deploy.cohorts import exports_folder, prepare_site, write_exports
from deploy.in_process import InProcessGrid
from deploy.pooled import make_pools, with_pools
from server.experiment import check_strategies, run_experiment
from server.ledger import Ledger, end_of_run, hold_run
from server.matrix_text import matrix_text
from server.progress import describe
from server.report import write_report
from server.sites import Sites


def prepare_sites(experiment: Experiment, folder: Path, console: Console) -> dict[str, Path]:
    """Makes or finds the exports and imports them; returns each site's `site.yaml`."""
    exports = exports_folder(experiment, folder)
    if experiment.simulation.source == "phantoms":
        write_exports(experiment, exports, console.print)
    return {
        site: prepare_site(site, experiment, exports / site, folder / site, console.print, num_threads=1)
        for site in experiment.sites
    }


def run_simulation(experiment: Experiment, folder: Path, sites_folder: Path, console: Console | None = None) -> Path:
    """Runs `experiment` in `folder` with its sites below `sites_folder`; returns the report's path.

    A run that was stopped goes on after its last round; of one that came to its end only the report is written anew.
    The matrix is printed at the end.

    Raises:
        InputError: a site's data is missing or refused (nothing was written if it is missing), or `folder` holds
            another run.
        WorkError: a round failed; run it again to go on.
    """
    console = console or Console()
    end = end_of_run(folder, experiment)
    if end is None:
        _run(experiment, folder, sites_folder, console)
    else:
        _tell(console, end)
    report = write_report(folder)
    console.print(matrix_text(folder))
    console.print(f"report: {report}")
    return report


def _run(experiment: Experiment, folder: Path, sites_folder: Path, console: Console) -> None:
    check_strategies(experiment)
    exports_folder(experiment, sites_folder)
    configs = prepare_sites(experiment, sites_folder, console)
    pools = make_pools(experiment, configs, sites_folder)
    what = f"{experiment.name}: {len(experiment.sites)} sites in this process"
    workers = configs | {name: pool.config for name, pool in pools.items()}
    grid = InProcessGrid(guarded(with_pools(client_app, pools)), workers)
    completed = False
    try:
        with hold_run(folder), _quiet_flower(), console.status(what):
            ledger = Ledger(folder, experiment, lambda record: _tell(console, record), held=True)
            sites = Sites(grid, grid.node_ids, experiment.rounds)
            run_experiment(experiment, ledger, sites, NO_COORDINATOR, folder.parent)
        completed = True
    finally:
        grid.close(wait=completed)


def _tell(console: Console, record: dict[str, Any]) -> None:
    line = describe(record)
    if line:
        console.print(line, highlight=False)


@contextmanager
def _quiet_flower() -> Iterator[None]:
    """Flower's own lines (sampled nodes, received replies) say what the ledger's say better."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
