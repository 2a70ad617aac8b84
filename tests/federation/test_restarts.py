"""A run in a real federation whose ServerApp, SuperLink and watcher are killed ends by itself, with the same bits."""

import os
import signal
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from federation.running import kept_up

from client.app import app as client_app
from common.errors import WorkError
from common.experiment import Experiment
from common.file_lock import is_held
from common.split import SplitConfig
from common.steps import StatisticsStep, TrainStep
from deploy.in_process import InProcessGrid
from server.experiment import run_experiment
from server.launch import launch
from server.ledger import Ledger
from server.sites import Sites
from server.stopping import stop_runs
from server.takeover import Takeover
from server.wanted import StoppedError, wanted

pytestmark = [pytest.mark.tls, pytest.mark.slow, pytest.mark.timeout(900)]


class LeavesError(Exception):
    """The watcher is gone, as after SIGKILL: it stops nothing."""


@pytest.fixture
def experiment(tiny_recipe):
    return Experiment(
        reuse=False,
        name="restarts",
        sites=("A", "B"),
        recipe=tiny_recipe,
        split=SplitConfig(test_fraction=0.3, validation_fraction=0.2),
        steps=(
            StatisticsStep(kind="statistics"),
            TrainStep(kind="train", model="federated", rounds=4, local_epochs=1),
        ),
    )


@pytest.fixture
def configs(tmp_path, make_site, experiment):
    return {site: make_site(tmp_path / f"hospital-{site}", site, num_cases=5) for site in experiment.sites}


def kill_serverapp(superlink):
    serverapps = set(superlink.launcher.members()) - {superlink.launcher.process.pid}
    assert serverapps
    for process_id in serverapps:
        os.kill(process_id, signal.SIGKILL)


def kill_superlink(superlink):
    os.kill(superlink.tree.process.pid, signal.SIGKILL)


def test_a_killed_run_ends_by_itself_with_the_bits_of_an_unbroken_one(tmp_path, configs, start_federation, experiment):
    alone = Ledger(tmp_path / "alone", experiment)
    with closing(InProcessGrid(client_app, configs)) as grid:
        run_experiment(experiment, alone, Sites(grid, grid.node_ids, experiment.rounds))

    federation = start_federation(configs)
    superlink = federation.superlink
    kills = {1: [kill_serverapp], 2: [kill_superlink], 3: [kill_serverapp, kill_superlink]}
    told = []

    def tell(record):
        told.append(record)
        for kill in kills.pop(record.get("round"), []):
            kill(superlink)

    with kept_up(federation):
        folder = launch(superlink.control, superlink.folder, experiment, "killed", tell)

    assert kills == {}
    ledger = Ledger(folder, experiment)
    assert [record["why"] for record in ledger.find("restart")][:2] == ["serverapp-died", "superlink-died"]
    assert len(ledger.find("restart")) == 3
    assert [record["round"] for record in ledger.find("round")] == [1, 2, 3, 4]
    one, two = alone.load_model("federated"), ledger.load_model("federated")
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert wanted(folder) is None
    assert not is_held(folder / "lock")


def test_a_run_whose_watcher_is_gone_goes_on_and_can_be_stopped_and_continued(configs, start_federation, experiment):
    superlink = start_federation(configs).superlink
    rounds, said = [], []

    def leave(record):
        if record["kind"] == "round":
            raise LeavesError

    with pytest.raises(LeavesError):
        launch(superlink.control, superlink.folder, experiment, "left", leave)
    run_folder = superlink.runs_folder / "left"
    with closing(Takeover(superlink.control, superlink.folder, said.append)) as takeover:
        while not any("round 2/" in line for line in said):
            takeover.look()
            time.sleep(0.5)
        assert stop_runs(superlink.control, superlink.runs_folder) == ["left"]
        assert not is_held(run_folder / "lock")
        while not any("the run was stopped" in line for line in said):
            time.sleep(0.5)

    launch(superlink.control, superlink.folder, experiment, "left", rounds.append)
    assert [record["round"] for record in rounds if record["kind"] == "round"][-1] == 4
    assert len(Ledger(run_folder, experiment).find("round")) == 4


def test_a_second_watcher_takes_over_and_the_first_says_so(configs, start_federation, experiment):
    superlink = start_federation(configs).superlink
    begun, ended = threading.Event(), []

    def first():
        try:
            launch(superlink.control, superlink.folder, experiment, "shared", lambda _: begun.set())
        except (WorkError, StoppedError) as error:
            ended.append(str(error))

    watcher = threading.Thread(target=first)
    watcher.start()
    assert begun.wait(120.0)
    folder = launch(superlink.control, superlink.folder, experiment, "shared", lambda _: None)
    watcher.join()
    assert ended == ["run 'shared' is watched from elsewhere now; it goes on"]
    assert len(Ledger(folder, experiment).find("round")) == 4
