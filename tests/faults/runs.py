"""A run under way in a thread, what its ledger and the sites' audit logs say of it, and the unbroken run's bits."""

import json
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import numpy as np
from faults.standing import Standing

from client.app import app as client_app
from common.checkpoint import Weights, load_weights
from common.experiment import Experiment
from common.recipe import NetworkConfig
from deploy.in_process import InProcessGrid
from server.experiment import run_experiment
from server.launch import launch
from server.ledger import Ledger
from server.ledger_file import LEDGER
from server.sites import Sites
from server.stopping import stop_runs

MODEL = "federated"
NUM_ROUNDS = 4
"""Of the quick experiment."""


class UnderWay:
    """A run that `launch` does in a thread of this process; on leaving it has ended, or the test fails."""

    def __init__(self, standing: Standing, experiment: Experiment, name: str) -> None:
        self.name = name
        self.experiment = experiment
        self.told: list[dict[str, Any]] = []
        self._standing = standing
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._launch, name=name, daemon=True)

    @property
    def folder(self) -> Path:
        return self._standing.federation.superlink.runs_folder / self.name

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self.stop()

    def wait(self, timeout_s: float) -> None:
        """Returns when the run has ended well; raises what `launch` did."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"run {self.name!r} goes on after {timeout_s:.0f} s: {self.records()[-3:]}"
        if self._fault is not None:
            raise self._fault

    def stop(self) -> None:
        """Stops the run as a user does, and waits for it."""
        superlink = self._standing.federation.superlink
        stop_runs(superlink.control, superlink.runs_folder, self.name)
        self._thread.join(60.0)
        assert not self._thread.is_alive()

    def _launch(self) -> None:
        superlink = self._standing.federation.superlink
        try:
            launch(superlink.control, superlink.folder, self.experiment, self.name, self.told.append)
        except BaseException as fault:
            self._fault = fault

    def records(self, kind: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Whole lines of the ledger, of a kind, with these values."""
        return [
            each
            for each in json_lines(self.folder / LEDGER)
            if kind in (None, each["kind"]) and all(each.get(key) == value for key, value in fields.items())
        ]

    def asked(self) -> Counter[tuple[str, int]]:
        """How often each site was given each round's training task, by its own audit log."""
        return Counter(
            (site, record["round"])
            for site, config in self._standing.configs.items()
            for record in json_lines(config.parent / "state" / "audit.jsonl")
            if record.get("decision") == "admitted" and record.get("experiment") == self.experiment.name
            if "round" in record
        )

    def rounds_done_again(self) -> set[int]:
        """Rounds whose task a site was given more than once; more than twice fails."""
        asked = self.asked()
        assert max(asked.values()) <= 2, asked
        return {number for (_, number), times in asked.items() if times > 1}


def json_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file that others append to; none where it is missing."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [json.loads(line) for line in whole.splitlines()]


def unbroken(folder: Path, experiment: Experiment, configs: Mapping[str, Path]) -> Ledger:
    """Does the experiment in this process, where nothing breaks, and returns its ledger."""
    ledger = Ledger(folder, experiment)
    with closing(InProcessGrid(client_app, configs)) as grid:
        run_experiment(experiment, ledger, Sites(grid, grid.node_ids, experiment.rounds))
    return ledger


def heavy(experiment: Experiment) -> Experiment:
    """The experiment with a network of 20 MB."""
    network = NetworkConfig(widths=(8, 302), strides=((2, 2, 2),), aspp=None)
    stage = experiment.recipe.stage1.model_copy(update={"network": network})
    recipe = experiment.recipe.model_copy(update={"stage1": stage, "stage2": None})
    return experiment.model_copy(update={"recipe": recipe})


def assert_same_bits(path: Path, other: Path) -> None:
    """Two weights files hold the same arrays, bit for bit."""
    one, two = (load_weights(each)[0] for each in (path, other))
    assert differing(one, two) == []


def differing(one: Weights, two: Weights) -> list[str]:
    """Names of the arrays that are not in both, bit for bit."""
    names = one.keys() | two.keys()
    return sorted(each for each in names if each not in one or each not in two or not _same(one[each], two[each]))


def _same(one: np.ndarray[Any, Any], two: np.ndarray[Any, Any]) -> bool:
    return one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
