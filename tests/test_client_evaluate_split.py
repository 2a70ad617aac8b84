"""`fedgtv-site evaluate` measures on the cases that the model's own run held out, whatever split it used."""

from types import SimpleNamespace

import numpy as np
import typer

from client import cli, model_package
from client.model_package import read_model
from client.site import Site
from common.checkpoint import save_weights
from common.experiment import Experiment
from common.recipe import Recipe
from common.split import SplitConfig
from common.statistics import Normalisation
from common.steps import StatisticsStep, TrainStep
from common.tasks import EvaluateResult, NormalisationRecord
from server.run import Run

SPLIT = SplitConfig(test_fraction=0.5, validation_fraction=0.0, seed=7)


def test_a_model_file_carries_its_runs_split(tmp_path):
    steps = (StatisticsStep(kind="statistics"), TrainStep(kind="train", model="m"))
    experiment = Experiment(name="e", sites=("A",), split=SPLIT, steps=steps)
    statistics = NormalisationRecord(mean=1.0, sd=2.0)
    ledger = SimpleNamespace(
        find=lambda kind, **_: [statistics.model_dump() | {"sites": {}}] if kind == "statistics" else []
    )
    metadata = Run(experiment, ledger, None).metadata("m", 1, ["A"])
    save_weights(tmp_path / "m.safetensors", {"stage1.w": np.zeros(1, np.float32)}, metadata)
    assert read_model(tmp_path / "m.safetensors").split == SPLIT


def test_evaluate_uses_the_models_split(tmp_path, monkeypatch):
    asked = []
    package = SimpleNamespace(
        name="m", weights={}, recipe=Recipe(), normalisation=Normalisation(1.0, 2.0), split=SPLIT, networks=id
    )
    (tmp_path / "site.yaml").write_text("site: A")
    monkeypatch.setattr(model_package, "read_model", lambda path: package)
    monkeypatch.setattr(
        Site,
        "evaluate",
        lambda self, task, models: (asked.append(task), (EvaluateResult(summaries={}, withheld="few", seconds=0), []))[
            1
        ],
    )
    command = typer.main.get_command(cli.app)
    command(["evaluate", "--model", "m.safetensors", "--config", str(tmp_path / "site.yaml")], standalone_mode=False)
    assert [task.split for task in asked] == [SPLIT]
