"""A run in one process that came to its end before: told at once, reported anew, and otherwise left alone."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from client.card import card_lines
from common.card import Card
from common.errors import ConfigError, WorkError
from common.experiment import load_experiment
from common.recipe import Recipe
from deploy.simulation import run_simulation

FINISHED_RUN = Path(__file__).parent / "data" / "finished_run"


@pytest.fixture
def run_folder(tmp_path):
    return Path(shutil.copytree(FINISHED_RUN, tmp_path / "run"))


def test_a_finished_run_is_told_and_reported_anew(tmp_path, run_folder):
    """No site is prepared: there is no folder with their data."""
    experiment = load_experiment(run_folder / "experiment.yaml")
    ledger = (run_folder / "ledger.jsonl").read_bytes()
    console = Console(file=io.StringIO(), width=200)
    report = run_simulation(experiment, run_folder, tmp_path / "sites", console)
    assert report == run_folder / "report.html"
    assert report.is_file()
    told = console.file.getvalue().splitlines()
    assert (told[0], told[-1]) == ("finished", f"report: {report}")
    assert any("federated" in line for line in told)
    assert (run_folder / "ledger.jsonl").read_bytes() == ledger
    assert not (tmp_path / "sites").exists()


def test_another_experiment_is_not_taken_for_the_finished_one(tmp_path, run_folder):
    experiment = load_experiment(run_folder / "experiment.yaml").model_copy(update={"seed": 99})
    with pytest.raises(ConfigError, match="another experiment"):
        run_simulation(experiment, run_folder, tmp_path / "sites", Console(file=io.StringIO()))
    assert not (run_folder / "report.html").exists()


def test_a_simulations_models_say_that_there_was_no_coordinator(tmp_path, run_folder, monkeypatch):
    told = []

    def recorded(*arguments):
        told.append(arguments[3])
        raise WorkError("far enough")

    monkeypatch.setattr("deploy.simulation.run_experiment", recorded)
    monkeypatch.setattr("deploy.simulation.exports_folder", lambda *_: None)
    monkeypatch.setattr("deploy.simulation.prepare_sites", lambda *_: {})
    experiment = load_experiment(run_folder / "experiment.yaml")
    with pytest.raises(WorkError, match="far enough"):
        run_simulation(experiment, tmp_path / "new", tmp_path / "sites", Console(file=io.StringIO()))
    (line,) = [
        line for line in card_lines(Card(model="m", coordinator=told[0]), Recipe()) if line.startswith("made by")
    ]
    assert line == "made by:     coordinator none (a simulation), software unknown"
