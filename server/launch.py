"""An experiment on the running federation: hand it to the SuperLink, watch its ledger, say how it ended."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.bundle import write_bundle
from common.config import Experiment
from common.errors import CheckpointError, ConfigError, InputError, SiteError, WorkError
from server.app import run_config
from server.control import Control, Run
from server.experiment import check_strategies
from server.ledger import LEDGER, Ledger, end_of_run
from server.provision import read_sites

log = logging.getLogger("fedgtv.coordinator")
POLL_S = 1.0
STOPPING_S = 20.0
"""A run that was just stopped may take this long to end."""
STOPPED = "finished:stopped"
STATUS_EVERY_S = 20.0
"""Asking starts a process of Flower's; the ledger's last line says sooner how a run ended."""
TAKEN_UP_S = 60.0
"""A run whose ledger holds nothing by then is told of, once; Flower takes some 10 s, a busy machine more."""
ERRORS = {error.code: error for error in (InputError, ConfigError, CheckpointError, SiteError)}
"""What the ServerApp's failure is here, by the code in its ledger; any other code: WorkError."""


def launch(
    control: Control,
    folder: Path,
    experiment: Experiment,
    name: str,
    tell: Callable[[dict[str, Any]], None],
    waiting: Callable[[], None] = lambda: None,
    coordinator: str | None = None,
) -> Path:
    """Runs or resumes `experiment` as run `name` and returns its folder when it has ended well.

    A run that came to its end before is told by its `end` line and returned at once; nothing is asked of anyone.

    Args:
        control: of the running SuperLink.
        folder: the SuperLink's, with `sites.json` and `runs/`.
        experiment: what to run.
        name: the run's; the same name continues an interrupted run.
        tell: hears every new ledger line but `failed`, whose reason is that of the error raised.
        waiting: called about once a second.
        coordinator: its address, for the models' cards.

    Raises:
        SiteError: a named site is not enrolled, or did not connect.
        ConfigError: the run's folder holds a run of another experiment, or a step's options are wrong.
        WorkError: the run is under way already, failed, or was stopped; run it again to continue.
    """
    run_folder = folder / "runs" / name
    end = end_of_run(run_folder, experiment)
    if end is not None:
        tell(end)
        return run_folder
    check_strategies(experiment)
    node_ids = _node_ids(folder / "sites.json", experiment)
    with Ledger(run_folder, experiment).hold(STOPPING_S):
        pass  # refuses a run that is under way; the ServerApp holds it from its start on
    ledger = _Tail(run_folder / LEDGER)
    run_id = control.run(write_bundle(folder / "bundle"), run_config(name, experiment, node_ids, coordinator))
    try:
        _watch(control, run_id, ledger, tell, waiting)
    except KeyboardInterrupt:
        control.stop(run_id)
        raise
    return run_folder


def _node_ids(path: Path, experiment: Experiment) -> dict[str, int]:
    sites = read_sites(path)
    unknown = [site for site in experiment.sites if site not in sites]
    if unknown:
        known = ", ".join(sorted(sites)) or "none"
        raise SiteError(f"site {unknown[0]!r} is not enrolled (enrolled: {known}); enrol it, or leave it out")
    return {site: sites[site].node_id for site in experiment.sites}


def _watch(
    control: Control,
    run_id: int,
    ledger: "_Tail",
    tell: Callable[[dict[str, Any]], None],
    waiting: Callable[[], None],
) -> None:
    last: dict[str, Any] = {}
    started = checked = time.monotonic()
    patient = True
    while True:
        finished = None
        if time.monotonic() - checked > STATUS_EVERY_S or last.get("kind") in {"end", "failed"}:
            checked = time.monotonic()
            state = _state(control, run_id)
            finished = state if state and state.finished else None
        for record in ledger.new():
            last = record
            if record["kind"] != "failed":
                tell(record)
        if patient and not last and time.monotonic() - started > TAKEN_UP_S:
            patient = False
            log.warning(
                "run %d: nothing has begun in %.0f s; see that `fedgtv-coordinator up` runs well", run_id, TAKEN_UP_S
            )
        if finished is not None:
            _conclude(last, finished.completed, finished.status)
            return
        waiting()
        time.sleep(POLL_S)


def _state(control: Control, run_id: int) -> Run | None:
    """None where the SuperLink is too busy to say: the run goes on, and is asked after again."""
    try:
        return control.status(run_id)
    except WorkError as error:
        log.warning("run %d: %s", run_id, error)
        return None


def _conclude(last: dict[str, Any], completed: bool, status: str) -> None:
    if completed:
        return
    if last.get("kind") == "failed":
        raise ERRORS.get(last["code"], WorkError)(last["why"])
    if status == STOPPED:
        raise WorkError("the run was stopped; the same command goes on after its last round")
    raise WorkError(f"the run ended as {status}; run it again to go on from the last round, or see the SuperLink's log")


class _Tail:
    """Whole new lines of a file that another process appends to, from its present end on.

    A line that a crash cut short is not counted: the ledger drops it and writes on from there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0

    def new(self) -> Iterator[dict[str, Any]]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                yield json.loads(line)
