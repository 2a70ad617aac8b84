"""A site's work: counts, training that repeats itself, measuring, and what its policy holds back."""

import json
import logging
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.measuring import summary
from client.round_checkpoint import FOLDER
from client.site import Site
from common.checkpoint import Weights
from common.dataset import read_index, split_cases, write_index
from common.errors import CheckpointError, ConfigError, InputError, LabelError, WorkError
from common.metrics import CaseMetrics
from common.model import build_model, model_weights
from common.recipe import NetworkConfig, Recipe, StageConfig
from common.site_config import PolicyConfig, SiteConfig
from common.split import SplitConfig
from common.tasks import EvaluateTask, NormalisationRecord, StatisticsTask, TrainTask

torch.set_num_threads(1)
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.4)  # of ten patients: 4 train, 3 validate, 3 test
NORMALISATION = NormalisationRecord(mean=40.0, sd=50.0)
MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(tmp_path: Path, tiny_cases: Path, tiny_cache: Path) -> MakeSite:
    def make(name: str = "A", cases: Path = tiny_cases, **policy: Any) -> Site:
        config = SiteConfig(
            site=name, cases=cases, state=Path(name), device="cpu", num_threads=1, policy=PolicyConfig(**policy)
        )
        site = Site(config, tmp_path)
        if cases == tiny_cases and not site.work_folder.exists():
            site.work_folder.mkdir()
            (site.work_folder / "cache").symlink_to(tiny_cache)
        return site

    return make


def statistics_task(recipe: Recipe, split: SplitConfig = SPLIT) -> StatisticsTask:
    return StatisticsTask(experiment="demo", recipe=recipe, split=split)


def train_task(recipe: Recipe, epochs_done: int = 0, local_epochs: int = 1, **fields: Any) -> TrainTask:
    values = {
        "experiment": "demo",
        "recipe": recipe,
        "split": SPLIT,
        "model": "federated",
        "step": 1,
        "round": 1 + epochs_done // local_epochs,
        "epochs_done": epochs_done,
        "local_epochs": local_epochs,
        "epochs_total": 2,
        "lr0": 0.05,
        "seed": 1,
        "normalisation": NORMALISATION,
        "validate_received": False,
    }
    return TrainTask.model_validate(values | fields)


def evaluate_task(recipe: Recipe, *models: str, pictures: int = 0, part: str = "test") -> EvaluateTask:
    values = {
        "experiment": "demo",
        "recipe": recipe,
        "split": SPLIT,
        "models": models,
        "part": part,
        "normalisation": NORMALISATION,
        "pictures": pictures,
    }
    return EvaluateTask.model_validate(values)


def with_training(recipe: Recipe, **fields: Any) -> Recipe:
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=fields)})


def with_threshold(recipe: Recipe, threshold: float) -> Recipe:
    return recipe.model_copy(update={"inference": recipe.inference.model_copy(update={"threshold": threshold})})


def fresh(recipe: Recipe, seed: int = 1) -> Weights:
    return model_weights(build_model(recipe, seed))


def same(one: Weights, two: Weights) -> bool:
    return one.keys() == two.keys() and all(np.array_equal(one[name], two[name]) for name in one)


def test_a_site_opens_from_its_file_and_paths_start_there(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("{site: A, cases: mine, policy: {min_cases: 5}}\n")
    site = Site.open(path)
    assert (site.cases_folder, site.work_folder, site.state_folder) == (
        tmp_path / "mine",
        tmp_path / "work",
        tmp_path / "state",
    )
    assert site.config.policy == PolicyConfig(share_pictures=False, min_cases=5)
    path.write_text("{site: A, polcy: {}}\n")
    with pytest.raises(ConfigError, match=r"site\.yaml: unknown key 'polcy'"):
        Site.open(path)


def test_statistics_count_the_training_cases_body_voxels(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    site = make_site()
    result, histogram = site.statistics(statistics_task(tiny_recipe))
    assert (result.train, result.validation, result.test, result.refused) == (4, 3, 3, 0)
    assert histogram is not None
    cases = site.open_cases(statistics_task(tiny_recipe)).train
    values = np.concatenate([case.cached.image[0][case.cached.body.astype(bool)] for case in cases])
    counted = np.repeat(np.arange(-1024, 4096), histogram)
    assert np.array_equal(counted, np.sort(values))


def test_statistics_under_min_cases_hold_the_histogram_back(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    task = statistics_task(tiny_recipe)
    assert make_site(min_cases=4).statistics(task)[1] is not None
    result, histogram = make_site(min_cases=5).statistics(task)
    assert histogram is None
    assert result.train == 4


def test_a_digest_is_of_the_cases_content_their_parts_and_what_the_policy_does_to_updates(
    make_site: MakeSite, tiny_recipe: Recipe, tiny_cases: Path, tmp_path: Path
) -> None:
    """Not of names, places or file times: the same export imported anew is known again."""
    task = statistics_task(tiny_recipe)
    digest = make_site().statistics(task)[0].digest
    assert digest is not None
    copy = tmp_path / "copy"
    shutil.copytree(tiny_cases, copy, copy_function=shutil.copyfile)
    config = SiteConfig(site="C", cases=copy, work=Path("other"), state=Path("C"), device="cpu", num_threads=1)
    anew = Site(config, tmp_path)
    assert anew.statistics(task)[0].digest == digest
    assert make_site(share_pictures=True).statistics(task)[0].digest == digest
    assert make_site(clip_norm=1.0).statistics(task)[0].digest != digest
    assert make_site(min_cases=5).statistics(task)[0].digest is None
    other = SplitConfig(test_fraction=0.3, validation_fraction=0.4, seed=8)
    assert make_site().statistics(statistics_task(tiny_recipe, other))[0].digest != digest
    write_index(copy, read_index(copy)[1:])
    assert anew.statistics(task)[0].digest != digest


def test_a_fold_in_which_few_test_has_no_histogram_for_it_and_the_whole_differ_by_those(
    make_site: MakeSite, tiny_recipe: Recipe
) -> None:
    """Ten patients in five folds: two test in each."""
    task = statistics_task(tiny_recipe, SplitConfig(validation_fraction=0.0, folds=5, fold=1))
    result, histogram = make_site(min_cases=3).statistics(task)
    assert (result.train, result.test, histogram, result.digest) == (8, 2, None, None)
    assert make_site(min_cases=2).statistics(task)[1] is not None


def test_a_refused_case_is_logged_here_and_counted(
    make_site: MakeSite, tiny_recipe: Recipe, tiny_cases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = tmp_path / "copy"
    shutil.copytree(tiny_cases, cases)
    refused = split_cases(read_index(cases), SPLIT).train[0]
    (cases / refused.images[0]).write_bytes(b"no image")
    with caplog.at_level(logging.WARNING, "fedgtv.site"):
        result, histogram = make_site(cases=cases).statistics(statistics_task(tiny_recipe))
    assert (result.train, result.refused) == (3, 1)
    assert histogram is not None
    assert f"case {refused.case_id} is left out" in caplog.text
    assert refused.case_id not in result.model_dump_json()


def test_cases_imported_later_never_move_one_that_was_used(
    make_site: MakeSite, tiny_recipe: Recipe, tiny_cases: Path, tmp_path: Path
) -> None:
    cases, entries = tmp_path / "growing", read_index(tiny_cases)
    shutil.copytree(tiny_cases, cases)
    site, task = make_site(cases=cases), statistics_task(tiny_recipe)

    def parts() -> dict[str, str]:
        opened = site.open_cases(task)
        named = {"train": opened.train, "validation": opened.validation, "test": opened.test}
        return {case.cached.case_id: part for part, held in named.items() for case in held}

    seen: dict[str, str] = {}
    for number in (4, 7, 10):
        write_index(cases, entries[:number])
        assert parts().items() >= seen.items()
        seen = parts()
    result, _ = site.statistics(task)
    assert (result.train, result.validation, result.test) == (4, 3, 3)


def test_the_site_s_log_says_what_it_is_at_work_on(
    make_site: MakeSite, tiny_recipe: Recipe, caplog: pytest.LogCaptureFixture
) -> None:
    site, weights = make_site(), fresh(tiny_recipe)
    with caplog.at_level(logging.INFO, "fedgtv.site"):
        site.statistics(statistics_task(tiny_recipe))
        site.train(train_task(tiny_recipe, 1, validate_received=True), weights)
        site.evaluate(evaluate_task(tiny_recipe, "federated"), {"federated": weights})
    (first, *lines) = [line for line in caplog.messages if not line.startswith(("T-", "case "))]
    assert first == "statistics: 4 cases to train, 3 to validate, 3 to test, 0 refused"
    expected = [
        r"federated round 2: 4 cases, epochs 2 to 2 of 2",
        r"federated round 2: the received model's mean DSC on 3 validation cases is 0\.\d{3}",
        r"federated round 2, stage1 epoch 2 of 2: loss \d\.\d{4}",
        r"federated round 2, stage2 epoch 2 of 2: loss \d\.\d{4}",
        r"federated round 2: done in \d+ s",
        r"evaluation: federated on 3 test cases",
        r"evaluation: federated has a mean DSC of 0\.\d{3}",
    ]
    assert all(re.fullmatch(*pair) for pair in zip(expected, lines, strict=True)), lines


def test_a_site_without_cases_says_so(make_site: MakeSite, tiny_recipe: Recipe, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    with pytest.raises(InputError, match=r"cases\.json: cannot be read"):
        make_site(cases=empty).train(train_task(tiny_recipe), fresh(tiny_recipe))
    write_index(empty, [])
    with pytest.raises(WorkError, match="site A: no training case is left; import cases"):
        make_site(cases=empty).train(train_task(tiny_recipe), fresh(tiny_recipe))


def test_training_changes_every_stage_and_repeats_itself(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    received = fresh(tiny_recipe)
    before = {name: value.copy() for name, value in received.items()}
    site = make_site()
    weights, result = site.train(train_task(tiny_recipe), received)
    assert same(received, before)
    assert result.num_examples == 4
    assert result.validation_dsc is None
    assert [name for name in weights if np.array_equal(weights[name], received[name])] == []
    shutil.rmtree(site.work_folder / FOLDER)
    again, _ = site.train(train_task(tiny_recipe), received)
    assert same(weights, again)


@pytest.mark.parametrize("change", [{"seed": 2}, {"step": 2}, {"lr0": 0.04}, {"proximal_mu": 5.0, "local_epochs": 2}])
def test_what_else_the_weights_depend_on(make_site: MakeSite, tiny_recipe: Recipe, change: dict[str, Any]) -> None:
    received = fresh(tiny_recipe)
    weights, _ = make_site().train(train_task(tiny_recipe), received)
    assert not same(weights, make_site().train(train_task(tiny_recipe, **change), received)[0])


def test_every_site_draws_its_own_patches(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    received = fresh(tiny_recipe)
    weights, _ = make_site("A").train(train_task(tiny_recipe), received)
    assert not same(weights, make_site("B").train(train_task(tiny_recipe), received)[0])


def test_epochs_are_told_with_rate_and_losses(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    _, result = make_site().train(train_task(tiny_recipe, epochs_done=2, epochs_total=4), fresh(tiny_recipe))
    (record,) = result.epochs
    assert record.epoch == 2
    assert record.lr == pytest.approx(0.05 * 0.5**0.9)
    assert set(record.losses) == {"stage1", "stage2"}
    assert all(0 < loss < 5 for loss in record.losses.values())


def rounds(site: Site, recipe: Recipe, *tasks: TrainTask) -> Weights:
    weights = fresh(recipe)
    for task in tasks:
        weights, _ = site.train(task, weights)
    return weights


def test_two_rounds_with_momentum_kept_are_one_of_two_epochs(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    kept = with_training(tiny_recipe, momentum_across_rounds="keep")
    unbroken = rounds(make_site(), tiny_recipe, train_task(tiny_recipe, local_epochs=2))
    assert same(rounds(make_site(), kept, train_task(kept), train_task(kept, 1)), unbroken)
    reset = rounds(make_site(), tiny_recipe, train_task(tiny_recipe), train_task(tiny_recipe, 1))
    assert not same(reset, unbroken)


def test_a_round_that_is_asked_for_again_gives_the_same(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    """The coordinator stopped before the reply was on its disk, and asks again."""
    kept = with_training(tiny_recipe, momentum_across_rounds="keep")
    site = make_site()
    first, _ = site.train(train_task(kept), fresh(kept))
    second, _ = site.train(train_task(kept, 1), first)
    assert same(site.train(train_task(kept, 1), first)[0], second)
    assert same(site.train(train_task(kept), fresh(kept))[0], first)


def test_a_missed_round_is_told_if_momentum_is_kept(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    kept = with_training(tiny_recipe, momentum_across_rounds="keep")
    with pytest.raises(CheckpointError, match="no momentum of stage1 after 1 epochs"):
        make_site().train(train_task(kept, 1), fresh(kept))


def test_weights_of_another_network_are_refused(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    network = NetworkConfig(widths=(3, 4), strides=((2, 2, 2),), aspp=None)
    other = tiny_recipe.model_copy(update={"stage1": StageConfig(network=network, patch_size=(8, 8, 8))})
    with pytest.raises(CheckpointError, match=r"another network: stage1\..* shape"):
        make_site().train(train_task(tiny_recipe), fresh(other))
    with pytest.raises(CheckpointError, match=r"another network: stage1\..* shape"):
        make_site().evaluate(evaluate_task(tiny_recipe, "m"), {"m": fresh(other)})


def test_validation_measures_what_was_received(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    """With the threshold 0 everything is tumour, so the DSC follows from the label's volume alone."""
    everything, site = with_threshold(tiny_recipe, 0.0), make_site()
    task = train_task(everything, validate_received=True)
    _, result = site.train(task, fresh(everything))
    labels = [case.label() for case in site.open_cases(task).validation]
    expected = [2 * label.sum() / (label.sum() + label.size) for label in labels]
    assert result.validation_dsc == pytest.approx(np.mean(expected))
    assert make_site(min_cases=4).train(task, fresh(everything))[1].validation_dsc is None


def test_evaluation_measures_on_the_original_grid(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    everything, site = with_threshold(tiny_recipe, 0.0), make_site()
    task = evaluate_task(everything, "a", "b")
    result, pictures = site.evaluate(task, {"a": fresh(everything), "b": fresh(everything, 2)})
    labels = [case.label() for case in site.open_cases(task).test]
    assert list(result.summaries) == ["a", "b"]
    for told in result.summaries.values():
        assert (told.n, told.num_undefined) == (3, 0)
        assert told.metrics["sen"].mean == 1.0
        assert told.metrics["ppv"].mean == pytest.approx(np.mean([label.mean() for label in labels]))
    assert pictures == []
    assert result.withheld is None


@pytest.mark.parametrize("part", ["test", "validation"])
def test_metrics_under_min_cases_stay_here(make_site: MakeSite, tiny_recipe: Recipe, part: str) -> None:
    site = make_site(min_cases=4, share_pictures=True)
    task = evaluate_task(tiny_recipe, "m", pictures=2, part=part)
    result, pictures = site.evaluate(task, {"m": fresh(tiny_recipe)})
    assert result.summaries == {}
    assert result.withheld == "3 cases, fewer than the site's min_cases 4"
    assert pictures == []


def case(dsc: float, assd_mm: float) -> CaseMetrics:
    return CaseMetrics(dsc=dsc, ppv=dsc, sen=dsc, assd_mm=assd_mm, hd95_mm=assd_mm)


def test_a_distance_that_few_cases_have_stays_here() -> None:
    """Of three cases two are empty: a mean distance would be that of the third patient."""
    measured = [case(0.5, 2.0), case(0.0, math.nan), case(0.0, math.nan)]
    told = summary(measured, min_cases=3)
    assert (told.n, told.num_undefined) == (3, 2)
    assert told.metrics["dsc"].mean == pytest.approx(0.5 / 3)
    assert (told.metrics["assd_mm"].mean, told.metrics["assd_mm"].sd) == (None, None)
    assert (told.metrics["hd95_mm"].mean, told.metrics["hd95_mm"].sd) == (None, None)
    assert summary(measured, min_cases=1).metrics["assd_mm"].mean == 2.0


def test_pictures_only_by_policy_of_the_first_model_and_without_a_case_s_name(
    make_site: MakeSite, tiny_recipe: Recipe
) -> None:
    models = {"a": fresh(tiny_recipe), "b": fresh(tiny_recipe, 2)}
    task = evaluate_task(tiny_recipe, "a", "b", pictures=2)
    assert make_site().evaluate(task, models)[1] == []
    result, pictures = make_site(share_pictures=True).evaluate(task, models)
    assert [picture.png[:8] for picture in pictures] == [b"\x89PNG\r\n\x1a\n"] * 2
    assert pictures[0].png != pictures[1].png
    assert b"T-00" not in b"".join(picture.png for picture in pictures)
    assert "T-00" not in json.dumps(result.model_dump())
    none_wanted = evaluate_task(tiny_recipe, "a", "b")
    assert make_site(share_pictures=True).evaluate(none_wanted, models)[1] == []
    many = evaluate_task(tiny_recipe, "a", pictures=99)
    assert len(make_site(share_pictures=True).evaluate(many, models)[1]) == 3


def test_a_picture_tells_the_dsc_of_its_own_case(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    """With the threshold 0 everything is tumour, so the DSC follows from the label's volume alone."""
    everything, site = with_threshold(tiny_recipe, 0.0), make_site(share_pictures=True)
    task = evaluate_task(everything, "a", pictures=3)
    _, pictures = site.evaluate(task, {"a": fresh(everything)})
    labels = [case.label() for case in site.open_cases(task).test]
    by_hand = [2 * label.sum() / (label.sum() + label.size) for label in labels]
    assert [picture.dsc for picture in pictures] == pytest.approx(by_hand)


def test_an_open_case_without_a_label_is_named(make_site: MakeSite, tiny_recipe: Recipe) -> None:
    opened = make_site().open_cases(statistics_task(tiny_recipe)).train[0]
    object.__setattr__(opened.cached.entry, "label", None)
    with pytest.raises(LabelError, match=f"case {opened.cached.case_id}: has no label; import it with its contour"):
        opened.label()


def test_the_number_of_threads_is_the_site_s(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    assert make_site().device() == torch.device("cpu")
    assert asked == [1]
    site = make_site()
    site.config = site.config.model_copy(update={"num_threads": 0})
    site.device()
    assert asked == [1]


def test_of_several_devices_the_first_measures_and_all_must_be_here(
    make_site: MakeSite, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site()
    assert site.groups(tiny_recipe) == {}
    site.config = SiteConfig(site="A", devices=("cuda:1", "cuda:0"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert site.device() == torch.device("cuda:1")
    assert site.groups(tiny_recipe) == {"stage1": ("cuda:1",), "stage2": ("cuda:0",)}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="'cuda:1' is not here"):
        site.groups(tiny_recipe)
