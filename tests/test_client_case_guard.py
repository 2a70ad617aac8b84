"""Cases that are taken out while they are in use: the work goes on without them, and no result claims them."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client import case_guard, site_round
from client.case_guard import TRIES
from client.removal import CasePlaces, remove_cases
from client.site import Site
from common.checkpoint import Weights
from common.dataset import read_index, write_index
from common.errors import ImageError, NoCasesError, WorkError
from common.model import build_model, model_weights
from common.recipe import Recipe
from common.site_config import PolicyConfig, SiteConfig
from common.split import SplitConfig
from common.tasks import EvaluateTask, NormalisationRecord, StatisticsTask, TrainTask

torch.set_num_threads(1)
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.4)  # of ten patients: 4 train, 3 validate, 3 test
MORE = {"split": SPLIT, "experiment": "demo"}
NORMALISATION = NormalisationRecord(mean=40.0, sd=50.0)


@pytest.fixture
def site(tmp_path: Path, tiny_cases: Path) -> Site:
    """With a copy of the cases, which may be taken out."""
    shutil.copytree(tiny_cases, tmp_path / "cases")
    (tmp_path / "cases" / "pseudonyms.json").unlink(missing_ok=True)
    config = SiteConfig(site="T", device="cpu", num_threads=1, checkpoint_s=0, policy=PolicyConfig(min_cases=1))
    return Site(config, tmp_path)


def train_task(recipe: Recipe) -> TrainTask:
    return TrainTask.model_validate(
        {"recipe": recipe, "model": "m", "step": 1, "round": 1, "epochs_done": 0, "local_epochs": 2, "epochs_total": 2,
         "lr0": 0.05, "seed": 1, "normalisation": NORMALISATION, "validate_received": False} | MORE
    )  # fmt: skip


def fresh(recipe: Recipe) -> Weights:
    return model_weights(build_model(recipe, 1))


def drop(site: Site, case_id: str) -> None:
    """What `fedgtv-site remove` does, without pseudonyms: the line in the index, the files and the cache go."""
    write_index(site.cases_folder, [each for each in read_index(site.cases_folder) if each.case_id != case_id])
    shutil.rmtree(site.cases_folder / case_id)
    for cached in (site.work_folder / "cache").glob(f"*/{case_id}-*"):
        shutil.rmtree(cached)


def during(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, act: Callable[[], None]) -> None:
    """Has `act` happen once, at the beginning of what is called `name`."""
    real, done = getattr(place, name), []

    def first(*given: Any, **named: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return real(*given, **named)

    monkeypatch.setattr(place, name, first)


@pytest.mark.parametrize("moment", ["_train_stage", "_after_epoch"])
def test_a_training_case_taken_out_in_a_round_has_no_part_in_its_result(
    site: Site, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    task = train_task(tiny_recipe)
    gone = site.open_cases(task).train[0].cached.case_id
    during(monkeypatch, site_round.SiteRound, moment, lambda: drop(site, gone))
    with caplog.at_level(logging.WARNING, "fedgtv.site"):
        weights, result = site.train(task, fresh(tiny_recipe))
    assert result.num_examples == 3
    assert f"case {gone} was taken out while it was in use" in caplog.text
    shutil.rmtree(site.work_folder / "rounds")
    assert all(np.array_equal(weights[name], each) for name, each in site.train(task, fresh(tiny_recipe))[0].items())


def test_a_case_taken_out_after_the_last_epoch_is_not_claimed(
    site: Site, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = train_task(tiny_recipe)
    gone = site.open_cases(task).train[0].cached.case_id
    during(monkeypatch, site_round.SiteRound, "epoch_records", lambda: drop(site, gone))
    assert site.train(task, fresh(tiny_recipe))[1].num_examples == 3


def test_a_cache_that_went_alone_is_made_again(
    site: Site, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = train_task(tiny_recipe)
    site.open_cases(task)
    during(monkeypatch, site_round.SiteRound, "_train_stage", lambda: shutil.rmtree(site.work_folder / "cache"))
    assert site.train(task, fresh(tiny_recipe))[1].num_examples == 4


def test_the_last_training_case_taken_out_leaves_a_code_of_its_own(
    site: Site, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = train_task(tiny_recipe)
    gone = [case.cached.case_id for case in site.open_cases(task).train]

    def drop_all() -> None:
        for case_id in gone:
            drop(site, case_id)

    during(monkeypatch, site_round.SiteRound, "_after_epoch", drop_all)
    with pytest.raises(NoCasesError, match="site T: no training case is left; import cases") as told:
        site.train(task, fresh(tiny_recipe))
    assert told.value.code == "no-cases"


def test_a_measured_case_taken_out_is_not_counted(
    site: Site, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = EvaluateTask.model_validate(
        {"recipe": tiny_recipe, "models": ("m",), "part": "test", "normalisation": NORMALISATION} | MORE
    )
    gone = site.open_cases(task).test[-1].cached.case_id
    during(monkeypatch, Site, "_evaluate", lambda: drop(site, gone))
    result, _ = site.evaluate(task, {"m": fresh(tiny_recipe)})
    assert result.summaries["m"].n == 2


def test_a_counted_case_taken_out_is_not_counted(
    site: Site, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = StatisticsTask.model_validate({"recipe": tiny_recipe} | MORE)
    gone = site.open_cases(task).train[-1].cached.case_id
    during(monkeypatch, Site, "_statistics", lambda: drop(site, gone))
    assert site.statistics(task)[0].train == 3


def test_what_is_no_removal_is_told_as_it_is(site: Site, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ImageError("ct.nii.gz: cut short")

    monkeypatch.setattr(Site, "_statistics", broken)
    with pytest.raises(ImageError, match="cut short"):
        site.statistics(StatisticsTask.model_validate({"recipe": tiny_recipe} | MORE))


def test_files_that_go_every_time_end_the_work(
    site: Site, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise FileNotFoundError(2, "No such file", "image.npy")

    monkeypatch.setattr(Site, "_statistics", gone)
    with pytest.raises(WorkError, match=f"files of cases went {TRIES} times"):
        site.statistics(StatisticsTask.model_validate({"recipe": tiny_recipe} | MORE))
    assert case_guard.TRIES > 1


def test_remove_takes_what_is_kept_of_a_round_too(site: Site, tiny_recipe: Recipe) -> None:
    task = train_task(tiny_recipe)
    site.train(task, fresh(tiny_recipe))
    places = CasePlaces.of(site.config, site.cases_folder.parent, site.state_folder / "check.html")
    assert places.rounds.is_dir()
    remove_cases(places, [site.open_cases(task).train[0].cached.case_id])
    assert not places.rounds.exists()
    assert site.train(task, fresh(tiny_recipe))[1].num_examples == 3
