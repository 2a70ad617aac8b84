"""The ServerApp: opens the run's ledger and does the experiment's steps over the sites that the run names."""

import json
import logging
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.bundle import RUN_KEY
from common.config import Experiment, parse_yaml
from common.errors import ConfigError, FedgtvError
from common.logs import log_to_output
from common.shortage import explained
from server import RUNS_VARIABLE
from server.experiment import run_experiment
from server.ledger import Ledger
from server.remedies import DISK_FULL
from server.sites import Sites
from server.wanted import admit
from server.watch import Watch

app = ServerApp()
log = logging.getLogger("fedgtv.coordinator")
PATIENCE_S = 20.0
"""An earlier ServerApp of the run that was stopped may take this long to let go."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs or resumes the experiment that the run configuration carries under its one key."""
    log_to_output()
    run = json.loads(str(context.run_config[RUN_KEY]))
    experiment = parse_yaml(json.dumps(run["experiment"]), Experiment, "run configuration")
    ledger = Ledger(run_folder(run["name"]), experiment)
    with ledger.hold(PATIENCE_S):
        admit(ledger.folder, run["attempt"], context.run_id)
        ledger = Ledger(ledger.folder, experiment)  # as whoever held the lock before has left it
        try:
            watch = Watch(ledger.folder, ledger.append)
            sites = Sites(grid, run["node_ids"], experiment.rounds, watch)
            run_experiment(experiment, ledger, sites, run["coordinator"])
        except Exception as error:
            known = explained(error)
            if isinstance(known, FedgtvError):
                told = {"code": known.code, "exit_code": known.exit_code, "why": _placed(known, ledger.folder)}
                ledger.append({"kind": "failed", **told})
            if known is error:
                raise
            raise known from error


def _placed(error: FedgtvError, folder: Path) -> str:
    """What an error says; of a disk that a write has filled, the system does not say which one it is."""
    return f"{folder}: {error}" if error.code == DISK_FULL and str(folder) not in str(error) else str(error)


def run_folder(name: str) -> Path:
    """Where a run of this name lies: below the folder that the SuperLink's environment names.

    Raises:
        ConfigError: the variable is not set; `fedgtv-coordinator up` sets it.
    """
    root = os.environ.get(RUNS_VARIABLE)
    if not root:
        raise ConfigError(f"{RUNS_VARIABLE}: not set; start the coordinator with `fedgtv-coordinator up`")
    return Path(root) / name


def run_config(
    name: str,
    experiment: Experiment,
    node_ids: dict[str, int],
    coordinator: str | None = None,
    attempt: str | None = None,
) -> dict[str, str]:
    """Returns the run configuration: one key with everything, since Flower checks no types there.

    `attempt`: the token of this start, if only one of several may work.
    """
    run = {"name": name, "experiment": experiment.model_dump(mode="json"), "node_ids": node_ids}
    return {RUN_KEY: json.dumps({**run, "coordinator": coordinator, "attempt": attempt})}
