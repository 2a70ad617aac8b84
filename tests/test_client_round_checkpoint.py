"""A round that is cut short at any epoch, with a site that is killed there, ends with an unbroken round's bits."""

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client import round_checkpoint, site_round
from client.momentum import momentum_of
from client.progress import forget_progress, leave_off
from client.removal import CasePlaces
from client.round_checkpoint import FOLDER, RESULT, STANDING, RoundCheckpoint, Standing, round_key
from client.site import Site
from common.checkpoint import Weights
from common.errors import WorkError
from common.model import build_model, model_weights
from common.recipe import Recipe
from common.site_config import PolicyConfig, SiteConfig
from common.split import SplitConfig
from common.tasks import NormalisationRecord, TrainResult, TrainTask

torch.set_num_threads(1)
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.4)
MakeSite = Callable[..., Site]


class Killed(BaseException):
    """Stands in for SIGKILL: nothing catches it, and nothing is written after it."""


@pytest.fixture
def make_site(tmp_path: Path, tiny_cases: Path, tiny_cache: Path) -> MakeSite:
    def make(name: str = "home", checkpoint_s: float = 0.0, **policy: Any) -> Site:
        folder = tmp_path / name
        config = SiteConfig(
            site="A", cases=tiny_cases, device="cpu", num_threads=1, checkpoint_s=checkpoint_s,
            policy=PolicyConfig(**policy),
        )  # fmt: skip
        site = Site(config, folder)
        if not site.work_folder.exists():
            site.work_folder.mkdir(parents=True)
            (site.work_folder / "cache").symlink_to(tiny_cache)
        return site

    return make


def task(recipe: Recipe, round_number: int = 1, **fields: Any) -> TrainTask:
    values = {
        "experiment": "demo", "recipe": recipe, "split": SPLIT, "model": "federated", "step": 1, "round": round_number,
        "epochs_done": 2 * (round_number - 1), "local_epochs": 2, "epochs_total": 4, "lr0": 0.05, "seed": 1,
        "normalisation": NormalisationRecord(mean=40.0, sd=50.0), "validate_received": False,
    }  # fmt: skip
    return TrainTask.model_validate(values | fields)


def fresh(recipe: Recipe) -> Weights:
    return model_weights(build_model(recipe, 1))


def same(one: Weights, two: Weights) -> bool:
    return list(one) == list(two) and all(np.array_equal(one[name], two[name]) for name in one)


def killed_after(monkeypatch: pytest.MonkeyPatch, num_kept: int, site: Site, *asked: Any) -> None:
    """Trains until so many epochs were kept, and no further."""
    keep, kept = RoundCheckpoint.keep, []

    def keep_then_die(self: RoundCheckpoint, *given: Any) -> None:
        keep(self, *given)
        kept.append(given)
        if len(kept) == num_kept:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RoundCheckpoint, "keep", keep_then_die)
        with pytest.raises(Killed):
            site.train(*asked)


def trained_epochs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Grows by stage and number of epochs with every span that is trained from now on."""
    train_stage, seen = site_round.train_stage, []

    def note(network: Any, stage: str, cases: Any, recipe: Any, span: Any, *others: Any) -> Any:
        seen.append((stage, span.num_epochs))
        return train_stage(network, stage, cases, recipe, span, *others)

    monkeypatch.setattr(site_round, "train_stage", note)
    return seen


def with_training(recipe: Recipe, **fields: Any) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=fields)})


@pytest.mark.parametrize("num_kept", [1, 2, 3, 4])
@pytest.mark.parametrize("way", ["plain", "fedprox", "bf16", "clipped", "local"])
def test_a_round_cut_short_after_any_epoch_ends_with_the_same_bits(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, num_kept: int, way: str
) -> None:
    """Its second stage has dropout, whose stream is an epoch's own."""
    training = {"bf16": {"autocast": "bf16"}, "clipped": {"gradient_clip": 0.1}}.get(way, {})
    recipe = with_training(tiny_recipe, **training)
    asked = task(recipe, proximal_mu=5.0 if way == "fedprox" else 0.0, validate_received=True), fresh(recipe)
    policy = {"local_layers": ("stage1.*",)} if way == "local" else {}
    unbroken, told = make_site("unbroken", **policy).train(*asked)
    site = make_site(**policy)
    killed_after(monkeypatch, num_kept, site, *asked)
    seen = trained_epochs(monkeypatch)
    monkeypatch.setattr(Site, "_validation_dsc", lambda *_: pytest.fail("was measured already"))
    weights, result = make_site(**policy).train(*asked)
    assert same(weights, unbroken)
    assert result.model_dump(exclude={"seconds"}) == told.model_dump(exclude={"seconds"})
    assert sum(number for _, number in seen) == 4 - num_kept


@pytest.mark.parametrize("num_kept", [1, 2, 3, 4])
def test_momentum_that_is_kept_across_rounds_is_kept_across_kills(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, num_kept: int
) -> None:
    recipe = with_training(tiny_recipe, momentum_across_rounds="keep")

    def both(site: Site) -> Weights:
        first, _ = site.train(task(recipe), fresh(recipe))
        return site.train(task(recipe, 2), first)[0]

    unbroken, site = both(make_site("unbroken")), make_site()
    killed_after(monkeypatch, num_kept, site, task(recipe), fresh(recipe))
    first, _ = site.train(task(recipe), fresh(recipe))
    killed_after(monkeypatch, num_kept, site, task(recipe, 2), first)
    assert same(site.train(task(recipe, 2), first)[0], unbroken)


def test_a_result_whose_reply_was_lost_is_sent_again_without_training(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, result = make_site().train(task(tiny_recipe), fresh(tiny_recipe))
    seen = trained_epochs(monkeypatch)
    again, told = make_site().train(task(tiny_recipe), fresh(tiny_recipe))
    assert seen == []
    assert same(again, weights)
    assert told == result
    assert sorted(path.name for path in (make_site().work_folder / FOLDER).iterdir()) == [RESULT]


@pytest.mark.parametrize("change", ["task", "weights", "policy"])
def test_what_is_kept_of_another_round_is_removed_unused(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    killed_after(monkeypatch, 3, make_site(), task(tiny_recipe), fresh(tiny_recipe))
    seen = trained_epochs(monkeypatch)
    weights = fresh(tiny_recipe)
    if change == "weights":
        weights["stage1.head.bias"] = weights["stage1.head.bias"] + np.float32(1e-6)
    other = task(tiny_recipe, lr0=0.04) if change == "task" else task(tiny_recipe)
    make_site(checkpoint_s=1e9, **({"min_cases": 2} if change == "policy" else {})).train(other, weights)
    assert seen == [("stage1", 2), ("stage2", 2)]
    assert [path.name for path in (make_site().work_folder / FOLDER).iterdir()] == [RESULT]


def test_epochs_are_kept_no_oftener_than_asked(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four epochs of each stage at 20 s; with the second stage the first one's end is kept."""
    now, kept = [0.0], []
    monkeypatch.setattr(round_checkpoint.time, "monotonic", lambda: now[0])
    keep = RoundCheckpoint.keep

    def note(self: RoundCheckpoint, stage: str, standing: Standing) -> None:
        kept.append((stage, len(standing.losses), now[0]))
        keep(self, stage, standing)

    monkeypatch.setattr(RoundCheckpoint, "keep", note)
    monkeypatch.setattr("client.progress.Progress.say", lambda *_: now.__setitem__(0, now[0] + 20))
    make_site(checkpoint_s=60.0).train(task(tiny_recipe, local_epochs=4, epochs_total=8), fresh(tiny_recipe))
    assert kept == [("stage1", 2, 60.0), ("stage2", 1, 120.0), ("stage1", 4, 120.0), ("stage2", 4, 180.0)]


def test_a_round_that_nobody_waits_for_ends_with_its_epoch_which_is_kept(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = task(tiny_recipe), fresh(tiny_recipe)
    unbroken, _ = make_site("unbroken").train(*asked)
    site = make_site(checkpoint_s=1e9)
    leave_off(site.work_folder)
    with pytest.raises(WorkError, match="federated round 1: left off after 1 epoch, kept"):
        site.train(*asked)
    forget_progress(site.work_folder)
    seen = trained_epochs(monkeypatch)
    assert same(site.train(*asked)[0], unbroken)
    assert seen == [("stage1", 1), ("stage2", 2)]


@pytest.mark.parametrize("name", [STANDING.format("stage1"), STANDING.format("stage2"), RESULT])
@pytest.mark.parametrize("way", ["cut", "rubbish", "empty"])
def test_a_damaged_file_costs_the_round_s_work_and_no_more(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    name: str, way: str,
) -> None:  # fmt: skip
    asked = task(tiny_recipe), fresh(tiny_recipe)
    unbroken, _ = make_site("unbroken").train(*asked)
    if name != RESULT:
        killed_after(monkeypatch, 3, make_site(), *asked)
    else:
        make_site().train(*asked)
    path = make_site().work_folder / FOLDER / name
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "rubbish": b"\xff" * 99, "empty": b""}[way])
    with caplog.at_level(logging.WARNING, "fedgtv.site"):
        assert same(make_site().train(*asked)[0], unbroken)
    assert f"{path}: is damaged, and the round begins anew" in caplog.text


def test_what_a_killed_process_left_half_written_goes(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    site = make_site()
    (site.work_folder / FOLDER).mkdir()
    (site.work_folder / FOLDER / f".{STANDING.format('stage1')}.12ab.part").write_bytes(b"half")
    site.train(task(tiny_recipe), fresh(tiny_recipe))
    assert [path.name for path in (site.work_folder / FOLDER).iterdir()] == [RESULT]


def test_a_full_disk_is_told_once_and_training_goes_on(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = task(tiny_recipe), fresh(tiny_recipe)
    unbroken, _ = make_site("unbroken").train(*asked)

    def full(path: Path, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(round_checkpoint, "save_weights", full)
    with caplog.at_level(logging.WARNING, "fedgtv.site"):
        assert same(make_site().train(*asked)[0], unbroken)
    (line,) = [line for line in caplog.messages if "cannot be kept" in line]
    assert "([Errno 28] No space left on device" in line


def test_a_key_names_all_that_a_round_depends_on(tiny_recipe: Recipe) -> None:
    weights = {"a": np.zeros(4, np.float32), "b": np.zeros((2, 2), np.float32)}
    turned = {"a": weights["a"], "b": np.asfortranarray([[0, 1], [0, 0]]).astype(np.float32)}
    keys = [
        round_key(task(tiny_recipe), weights, ["A", 3]),
        round_key(task(tiny_recipe, seed=2), weights, ["A", 3]),
        round_key(task(tiny_recipe), weights, ["A", 4]),
        round_key(task(tiny_recipe), weights | {"a": np.zeros((2, 2), np.float32)}, ["A", 3]),
        round_key(task(tiny_recipe), weights | {"a": np.full(4, -0.0, np.float32)}, ["A", 3]),
        round_key(task(tiny_recipe), turned, ["A", 3]),
        round_key(task(tiny_recipe), {"a": weights["a"]}, ["A", 3]),
    ]
    assert len(set(keys)) == len(keys)
    assert round_key(task(tiny_recipe), {name: each.copy() for name, each in weights.items()}, ["A", 3]) == keys[0]
    assert round_key(task(tiny_recipe), dict(reversed(weights.items())), ["A", 3]) == keys[0]


def test_momentum_lies_by_parameter() -> None:
    network = torch.nn.Linear(2, 1)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    assert momentum_of(optimiser, network) == {}
    network(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    assert momentum_of(optimiser, network)["weight"].tolist() == [[1.0, 1.0]]


def test_a_result_survives_the_disk(tmp_path: Path) -> None:
    kept = RoundCheckpoint(tmp_path, "k", 0.0)
    result = TrainResult(model="m", round=1, num_examples=3, epochs=(), validation_dsc=None, seconds=1.5)
    weights = {"b": np.ones(2, np.float32), "a": np.zeros((), np.float32)}
    kept.finish(weights, result)
    found = RoundCheckpoint(tmp_path, "k", 0.0).result()
    assert found is not None
    assert same(found[0], weights)
    assert found[1] == result
    assert RoundCheckpoint(tmp_path, "other", 0.0).result() is None
    assert RoundCheckpoint(tmp_path, "k", 0.0).result() is None


def test_removal_knows_where_a_round_lies() -> None:
    places = CasePlaces.of(SiteConfig(site="A"), Path("/site"), Path("/site/state/check.html"))
    assert places.rounds == Path("/site/work") / FOLDER
