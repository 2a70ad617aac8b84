"""Tasks and results: what either side refuses to take from the other."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from common import WIRE_VERSION
from common.recipe import Recipe
from common.split import SplitConfig
from common.tasks import (
    EpochRecord,
    EvaluateTask,
    NormalisationRecord,
    ProgressTask,
    SiteProgress,
    StatisticsTask,
    TrainResult,
    TrainTask,
)

COMMON: dict[str, Any] = {"experiment": "demo", "recipe": Recipe(), "split": SplitConfig()}
NORMALISATION = NormalisationRecord(mean=-12.5, sd=198.0)
TRAIN: dict[str, Any] = COMMON | {
    "model": "federated",
    "step": 1,
    "round": 2,
    "epochs_done": 4,
    "local_epochs": 4,
    "epochs_total": 12,
    "lr0": 0.01,
    "seed": 3,
    "normalisation": NORMALISATION,
}


@pytest.mark.parametrize(
    "task",
    [
        StatisticsTask(**COMMON),
        TrainTask(**TRAIN),
        EvaluateTask(**COMMON, models=("a", "b"), part="test", normalisation=NORMALISATION),
        ProgressTask(experiment="demo"),
    ],
)
def test_a_task_survives_json(task: StatisticsTask | TrainTask | EvaluateTask | ProgressTask) -> None:
    assert type(task).model_validate_json(task.model_dump_json()) == task


@pytest.mark.parametrize("version", [0, WIRE_VERSION + 1])
def test_another_wire_version_is_refused(version: int) -> None:
    words = f"the other side speaks wire version {version}; this release {WIRE_VERSION}; update one"
    with pytest.raises(ValidationError, match=words):
        StatisticsTask(**COMMON, wire_version=version)


@pytest.mark.parametrize(
    "change",
    [
        {"round": 0},
        {"local_epochs": 0},
        {"epochs_done": -1},
        {"lr0": 0.0},
        {"proximal_mu": -0.1},
        {"model": "../x"},
        {"experiment": "a/b"},
        {"transport": "int8"},
        {"command": "rm"},
    ],
)
def test_a_train_task_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainTask(**(TRAIN | change))


@pytest.mark.parametrize(("mean", "sd"), [(0.0, 0.0), (0.0, -1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_a_normalisation_needs_a_spread(mean: float, sd: float) -> None:
    with pytest.raises(ValidationError):
        NormalisationRecord(mean=mean, sd=sd)


@pytest.mark.parametrize("count", [0, -1, 10**6 + 1])
def test_a_result_counts_cases_plausibly(count: int) -> None:
    with pytest.raises(ValidationError):
        TrainResult(model="m", round=1, num_examples=count, epochs=(), validation_dsc=None, seconds=1.0)


def test_losses_are_finite() -> None:
    """JSON has no NaN: pydantic would write null, which the other side cannot read."""
    with pytest.raises(ValidationError, match="finite"):
        EpochRecord(epoch=0, lr=0.1, losses={"stage1": math.nan})


def test_a_loss_is_that_of_a_stage() -> None:
    """In the ledger it stands beside `epoch` and `lr`."""
    with pytest.raises(ValidationError, match="stage"):
        EpochRecord(epoch=0, lr=0.1, losses={"epoch": 1.0})


@pytest.mark.parametrize(
    "wrong", [{"state": "hacking"}, {"error": "Mustermann"}, {"epoch": -1}, {"round": 0}, {"model": "a b"}, {"more": 1}]
)
def test_progress_holds_known_words_and_counts_alone(wrong: dict[str, Any]) -> None:
    assert SiteProgress(state="training", model="m", round=1, epoch=1, epochs=4, error="worker-lost").seconds == 0
    with pytest.raises(ValidationError):
        SiteProgress.model_validate({"state": "idle"} | wrong)
