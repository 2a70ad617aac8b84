"""Stages in real processes: the weights of a site with one device, and no process that outlives its use.

Two CPUs stand for two GPUs, and gloo for NCCL.
"""

import logging
import os
import select
import shutil
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client import case_guard
from client.round_checkpoint import RoundCheckpoint
from client.site import Site
from client.stage_process import StageJob
from client.stage_team import StageTeam, reports
from common.checkpoint import Weights
from common.errors import WorkerLostError, WorkError
from common.model import build_model, model_weights
from common.recipe import Recipe
from common.settings import load_yaml
from common.site_config import PolicyConfig, SiteConfig
from common.split import SplitConfig
from common.statistics import Normalisation
from common.tasks import NormalisationRecord, TrainResult, TrainTask
from common.training import Span

torch.set_num_threads(1)
ROOT = Path(__file__).parents[1]
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.4)  # of ten patients: 4 train, 3 validate
MakeSite = Callable[..., Site]


class Killed(BaseException):
    """Stands in for SIGKILL."""


@pytest.fixture
def make_site(tmp_path: Path, tiny_cases: Path, tiny_cache: Path) -> MakeSite:
    """Returns make(name, devices) -> a site of its own folder, with one device where none are named."""

    def make(name: str, *devices: str) -> Site:
        one = {"devices": devices} if devices else {"device": "cpu"}
        site = Site(
            SiteConfig.model_validate(
                {"site": "A", "cases": tiny_cases, "num_threads": 1, "checkpoint_s": 0.0, **one}
                | {"policy": PolicyConfig(min_cases=1)}
            ),
            tmp_path / name,
        )
        if not site.work_folder.exists():
            site.work_folder.mkdir(parents=True)
            (site.work_folder / "cache").symlink_to(tiny_cache)
        return site

    return make


def asked(recipe: Recipe, **fields: Any) -> tuple[TrainTask, Weights]:
    values = {
        "experiment": "demo", "recipe": recipe, "split": SPLIT, "model": "federated", "step": 1, "round": 1,
        "epochs_done": 0, "local_epochs": 2, "epochs_total": 4, "lr0": 0.05, "seed": 1,
        "normalisation": NormalisationRecord(mean=40.0, sd=50.0), "validate_received": False,
    }  # fmt: skip
    return TrainTask.model_validate(values | fields), model_weights(build_model(recipe, 1))


def small(**training: Any) -> Recipe:
    """The smaller of the presets, in fp32, and without the time that its patches' changes take."""
    recipe = load_yaml(ROOT / "configs" / "recipes" / "small_cmdr_unet.yaml", Recipe)
    roi = recipe.preprocess.roi.model_copy(update={"crop_at_neck": False})
    fields = {"autocast": "off", "patches_per_case": 1} | training
    return recipe.model_copy(
        update={
            "preprocess": recipe.preprocess.model_copy(update={"roi": roi}),
            "training": recipe.training.model_copy(update=fields),
        }
    )


def same(one: Weights, two: Weights) -> bool:
    return list(one) == list(two) and all(np.array_equal(one[name], two[name]) for name in one)


def told(result: TrainResult) -> dict[str, Any]:
    return result.model_dump(exclude={"seconds"})


def test_both_stages_at_once_have_the_bits_of_one_after_another(
    make_site: MakeSite, tiny_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    task, weights = asked(tiny_recipe, proximal_mu=1.0, validate_received=True)
    in_turn, result = make_site("one").train(task, weights)
    with caplog.at_level(logging.INFO, "fedgtv.site"):
        together, other = make_site("two", "cpu", "cpu").train(task, weights)
    assert same(together, in_turn)
    assert told(other) == told(result)
    assert "federated round 1: stage1 on cpu, stage2 on cpu" in caplog.messages


@pytest.mark.slow
def test_two_devices_a_stage_have_the_bits_of_one_with_the_small_preset(make_site: MakeSite) -> None:
    """Its updates are two batches of one patch, of which a device sees one: nothing is added up in another order."""
    task, weights = asked(small(), lr0=0.01)
    alone, result = make_site("one").train(task, weights)
    shared, other = make_site("four", *["cpu"] * 4).train(task, weights)
    assert same(shared, alone)
    assert told(other) == told(result)
    assert max(np.abs(shared[name] - weights[name]).max() for name in weights) > 1e-3


def test_a_batch_that_is_parted_differs_by_rounding_alone(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    """A convolution of two patches adds up in another order than two of one; four updates, with dropout."""
    training = tiny_recipe.training.model_copy(update={"accumulation": 1, "gradient_clip": 1.0})
    recipe = tiny_recipe.model_copy(update={"stage1": tiny_recipe.stage2, "stage2": None, "training": training})
    task, weights = asked(recipe)
    alone, result = make_site("one").train(task, weights)
    shared, other = make_site("two", "cpu", "cpu").train(task, weights)
    for name, value in alone.items():
        np.testing.assert_allclose(shared[name], value, rtol=1e-5, atol=1e-5 * np.abs(value).max())
    for mine, its in zip(result.epochs, other.epochs, strict=True):
        assert its.losses == pytest.approx(mine.losses, rel=1e-5)


def test_a_round_cut_short_goes_on_in_each_stage(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, weights = asked(tiny_recipe)
    unbroken, result = make_site("one").train(task, weights)
    keep, kept = RoundCheckpoint.keep, []

    def keep_then_die(self: RoundCheckpoint, *given: Any) -> None:
        keep(self, *given)
        kept.append(given)
        if len(kept) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RoundCheckpoint, "keep", keep_then_die)
        with pytest.raises(Killed):
            make_site("two", "cpu", "cpu").train(task, weights)
    again, other = make_site("two", "cpu", "cpu").train(task, weights)
    assert same(again, unbroken)
    assert told(other) == told(result)


@pytest.mark.slow
def test_a_file_that_goes_under_a_process_has_the_round_begin_anew(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kind of the error, and the file's name, come through the pipe."""
    site = make_site("two", "cpu", "cpu")
    cache = (site.work_folder / "cache").resolve()
    (site.work_folder / "cache").unlink()
    shutil.copytree(cache, site.work_folder / "cache")
    task, weights = asked(tiny_recipe, local_epochs=1)
    begin = StageTeam.begin
    gone: list[Path] = []

    def lose(self: StageTeam, *given: Any) -> None:
        if not gone:
            gone.extend(site.work_folder.glob("cache/*/*/image.npy"))
            for path in gone:
                path.unlink()
        begin(self, *given)

    monkeypatch.setattr(StageTeam, "begin", lose)
    reasons: list[str | None] = []
    real = case_guard._whether_removed
    monkeypatch.setattr(case_guard, "_whether_removed", lambda *given: reasons.append(real(*given)) or reasons[-1])
    trained, _ = site.train(task, weights)
    assert reasons == [f"{reasons[0].removesuffix(' went')} went" if reasons[0] else None]
    assert Path(str(reasons[0]).removesuffix(" went")) in gone
    assert same(trained, make_site("one").train(task, weights)[0])


@pytest.fixture
def job(make_site: MakeSite, tiny_recipe: Recipe) -> StageJob:
    task, _ = asked(tiny_recipe)
    cases = [case.cached for case in make_site("one").open_cases(task).train]
    span = Span(0, 1000, 1000, 0.01, seed=1)
    return StageJob("stage1", cases, tiny_recipe, span, Normalisation(40.0, 50.0), num_threads=1)


def weights_of(job: StageJob) -> Weights:
    return {name.removeprefix("stage1."): each for name, each in asked(job.recipe)[1].items() if "stage1" in name}


def ended(process_ids: list[int]) -> bool:
    return not any(Path(f"/proc/{each}").exists() for each in process_ids)


def process_ids(team: StageTeam) -> list[int]:
    return [process.pid or 0 for process in team._processes.values()]


def run_on(team: StageTeam) -> None:
    """For good."""
    for _ in reports([team]):
        team.go_on()


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_is_killed_is_told_by_its_device_and_the_others_end(
    job: StageJob, victim: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """A Ctrl-C before, which a terminal sends to all of them, they do not see."""
    with StageTeam(job, ["cpu", "cpu"]) as team:
        team.begin(weights_of(job), {}, {})
        coming = reports([team])
        assert next(coming)[:2] == (team, 0)
        started = process_ids(team)
        for each in started:
            os.kill(each, signal.SIGINT)
        team.go_on()
        assert next(coming)[:2] == (team, 1)
        os.kill(started[victim], signal.SIGKILL)
        team.go_on()
        with pytest.raises(WorkerLostError, match=r"stage1: its process on cpu has ended \(exit code -9\)"):
            run_on(team)
    assert ended(started)
    assert capfd.readouterr().err == ""


def test_a_training_that_diverges_says_so_in_its_own_words_and_ends_the_other_stage(
    make_site: MakeSite, tiny_recipe: Recipe
) -> None:
    site = make_site("two", "cpu", "cpu")
    task, weights = asked(tiny_recipe)
    weights["stage2.head.bias"] = np.full_like(weights["stage2.head.bias"], 3e38)
    weights["stage2.head.weight"] = np.full_like(weights["stage2.head.weight"], 3e38)
    with pytest.raises(
        WorkError, match=r"stage2: loss of epoch 0 is (nan|inf); lower lr0 or set gradient_clip"
    ) as raised:
        site.train(task, weights)
    assert "in train_stage" in raised.value.__notes__[0]


def hold_a_team(job: StageJob, weights: Weights, pipe: Connection) -> None:
    """A site's process that is killed in the middle of a stage."""
    with StageTeam(job, ["cpu", "cpu"]) as team:
        team.begin(weights, {}, {})
        next(reports([team]))
        pipe.send(process_ids(team))
        team.go_on()
        run_on(team)


def test_no_process_outlives_a_site_s_that_is_killed(job: StageJob) -> None:
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with ours, theirs:
        site = context.Process(target=hold_a_team, args=(job, weights_of(job), theirs))
        site.start()
        handles = [os.pidfd_open(each) for each in ours.recv()]
        site.kill()
        site.join()
    for handle in handles:
        assert select.select([handle], [], [], 60)[0]
        os.close(handle)
