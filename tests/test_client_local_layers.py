"""Layers that a site keeps: they go on from its own last round, are used for measuring, and never leave."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.local_layers import last_layers, load_layers, save_layers
from client.policy import local_names
from client.site import Site
from common.errors import CheckpointError
from common.layers import Layers
from common.model import build_model, model_weights
from common.recipe import Recipe
from common.site_config import PolicyConfig, SiteConfig
from common.split import SplitConfig
from common.tasks import EvaluateTask, NormalisationRecord, TrainTask

torch.set_num_threads(1)
NORMALISATION = NormalisationRecord(mean=40.0, sd=50.0)
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.4)


def task(recipe: Recipe, epochs_done: int = 0, **more: Any) -> TrainTask:
    fields: dict[str, Any] = {"model": "fed-er", "step": 1, "seed": 1, "local_epochs": 1} | more
    return TrainTask(
        experiment="demo", recipe=recipe, split=SPLIT, round=epochs_done + 1, epochs_done=epochs_done, epochs_total=9,
        lr0=0.05, normalisation=NORMALISATION, validate_received=False, **fields,
    )  # fmt: skip


def layers(value: float) -> dict[str, np.ndarray]:
    return {"stage1.a.weight": np.full(2, value, np.float32), "stage1.a.bias": np.full(2, -value, np.float32)}


NAMES = tuple(layers(0))


def test_a_round_begins_with_what_the_round_before_left(tmp_path: Path, tiny_recipe: Recipe) -> None:
    assert load_layers(tmp_path, task(tiny_recipe), NAMES) == {}
    for done in range(4):
        save_layers(tmp_path, task(tiny_recipe, done), layers(done + 1))
    assert load_layers(tmp_path, task(tiny_recipe), NAMES) == {}  # a step's first round starts from what is sent
    assert load_layers(tmp_path, task(tiny_recipe, 4), NAMES)["stage1.a.bias"].tolist() == [-4, -4]
    assert load_layers(tmp_path, task(tiny_recipe, 3), NAMES)["stage1.a.bias"].tolist() == [-3, -3]  # asked for again
    assert load_layers(tmp_path, task(tiny_recipe, 7), NAMES)["stage1.a.bias"].tolist() == [-4, -4]  # missed some
    assert set(load_layers(tmp_path, task(tiny_recipe, 4), ("stage1.a.bias",))) == {"stage1.a.bias"}
    for other in ({"seed": 2}, {"step": 2}, {"model": "fed"}):
        assert load_layers(tmp_path, task(tiny_recipe, 4, **other), NAMES) == {}
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_the_last_layers_of_a_model_are_its_own(tmp_path: Path, tiny_recipe: Recipe) -> None:
    save_layers(tmp_path, task(tiny_recipe, model="fed-er"), layers(1))
    assert last_layers(tmp_path, "demo", "fed-er", NAMES)["stage1.a.bias"].tolist() == [-1, -1]
    assert last_layers(tmp_path, "demo", "er", NAMES) == {}
    assert last_layers(tmp_path, "other", "fed-er", NAMES) == {}


def test_a_damaged_file_is_told(tmp_path: Path, tiny_recipe: Recipe) -> None:
    save_layers(tmp_path, task(tiny_recipe), layers(1))
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(b"x")
    with pytest.raises(CheckpointError):
        load_layers(tmp_path, task(tiny_recipe, 1), NAMES)


@pytest.fixture
def site(tmp_path: Path, tiny_cases: Path, tiny_cache: Path) -> Site:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "cache").symlink_to(tiny_cache)
    policy = PolicyConfig(local_layers=("norm",), min_cases=1)
    return Site(SiteConfig(site="A", cases=tiny_cases, device="cpu", num_threads=1, policy=policy), tmp_path)


def test_training_goes_on_from_the_kept_layers_whatever_is_sent(site: Site, tiny_recipe: Recipe) -> None:
    sent = model_weights(build_model(tiny_recipe, 1))
    kept = local_names(site.config.policy, Layers.of(sent).shapes)
    assert kept
    first, _ = site.train(task(tiny_recipe), sent)
    spoilt = first | {name: np.full_like(first[name], 7.0) for name in kept}
    plain, _ = site.train(task(tiny_recipe, 1), first)
    again, _ = site.train(task(tiny_recipe, 1), spoilt)
    assert all(np.array_equal(plain[name], again[name]) for name in plain)


def test_a_model_is_measured_with_the_kept_layers(site: Site, tiny_recipe: Recipe) -> None:
    first, _ = site.train(task(tiny_recipe), model_weights(build_model(tiny_recipe, 1)))
    kept = local_names(site.config.policy, Layers.of(first).shapes)
    spoilt = first | {name: np.full_like(first[name], 7.0) for name in kept}
    measured = EvaluateTask(
        experiment="demo", recipe=tiny_recipe, split=SPLIT, models=("fed-er", "other"), part="test",
        normalisation=NORMALISATION,
    )  # fmt: skip
    good, _ = site.evaluate(measured, {"fed-er": first, "other": first})
    with_spoilt, _ = site.evaluate(measured, {"fed-er": spoilt, "other": first})
    assert good.summaries == with_spoilt.summaries
