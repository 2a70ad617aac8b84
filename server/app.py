"""The ServerApp: opens the run's ledger and does the experiment's steps over the sites that the run names."""

import json
import logging
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.bundle import RUN_KEY
from common.errors import ConfigError, FedgtvError
from common.experiment import Experiment
from common.logs import log_to_output
from common.object_files import ObjectFiles
from common.settings import parse_yaml
from common.shortage import explained
from server import OBJECTS_VARIABLE, RUNS_VARIABLE
from server.experiment import run_experiment
from server.ledger import Ledger, hold_run
from server.ledger_file import LEDGER, append_line, drop_half_line
from server.object_shortcut import take_shortcut
from server.remedies import DISK_FULL
from server.run_lock import PATIENCE_S
from server.sites import Sites
from server.wanted import admit
from server.watch import Watch

app = ServerApp()
log = logging.getLogger("fedgtv.coordinator")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs or resumes the experiment that the run configuration carries under its one key."""
    log_to_output()
    if objects := os.environ.get(OBJECTS_VARIABLE):
        take_shortcut(grid, ObjectFiles(Path(objects)))
    run = json.loads(str(context.run_config[RUN_KEY]))
    experiment = parse_yaml(json.dumps(run["experiment"]), Experiment, "run configuration")
    folder = run_folder(run["name"])
    with hold_run(folder, PATIENCE_S):  # before the ledger is read, which an earlier ServerApp may still write to
        admit(folder, run["attempt"], context.run_id)
        try:
            ledger = Ledger(folder, experiment, held=True)
            watch = Watch(ledger.folder, ledger.append)
            sites = Sites(grid, run["node_ids"], experiment.rounds, watch)
            run_experiment(experiment, ledger, sites, run["coordinator"], folder.parent)
        except Exception as error:
            known = explained(error)
            if isinstance(known, FedgtvError):
                _tell_failed(folder, known)
            if known is error:
                raise
            raise known from error


def _tell_failed(folder: Path, error: FedgtvError) -> None:
    """Writes why the run failed, even into a ledger that cannot be opened."""
    drop_half_line(folder / LEDGER)
    told = {"code": error.code, "exit_code": error.exit_code, "why": _placed(error, folder)}
    append_line(folder / LEDGER, {"kind": "failed", **told})


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
