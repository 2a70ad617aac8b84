"""The policy's rules by hand: limits, hours, clipping, noise and epsilon, layers that stay, few cases."""

import math
from datetime import datetime

import numpy as np
import pytest

from client.policy import (
    Done,
    Withheld,
    admit,
    admit_disk,
    epsilon,
    keeping,
    limit_evaluation,
    limit_training,
    limit_update,
    local_names,
)
from common.errors import PolicyError
from common.layers import Layers
from common.model import build_model, model_weights
from common.recipe import AsppConfig, NetworkConfig, Recipe, StageConfig
from common.site_config import PolicyConfig
from common.split import SplitConfig
from common.tasks import (
    EvaluateResult,
    EvaluateTask,
    MetricSummary,
    ModelSummary,
    NormalisationRecord,
    StatisticsTask,
    TrainResult,
    TrainTask,
)

NETWORK = NetworkConfig(widths=(4, 8), strides=((2, 2, 2),), aspp=AsppConfig(rates=(1, 2), image_pooling=True))
STAGE = StageConfig(network=NETWORK, patch_size=(8, 8, 8))
CASCADE = Recipe(stage1=STAGE, stage2=STAGE)
NOON = datetime(2026, 11, 30, 12, 0)
BASE = {"experiment": "e", "recipe": Recipe(), "split": SplitConfig()}
MORE = {"normalisation": NormalisationRecord(mean=0, sd=1)}
TRAIN = TrainTask(
    **BASE, **MORE, model="m", step=1, round=1, epochs_done=0, local_epochs=3, epochs_total=9, lr0=0.1, seed=1
)
TASKS = {
    "statistics": StatisticsTask(**BASE),
    "train": TRAIN,
    "evaluate": EvaluateTask(**BASE, **MORE, models=("m",), part="test"),
}


def refused(policy, task, done=Done(), now=NOON):
    """The code of the refusal, or None."""
    try:
        admit(policy, task, done, now)
    except PolicyError as error:
        return error.code
    return None


@pytest.mark.parametrize("allowed", [(), ("statistics",), ("train", "evaluate"), ("statistics", "train", "evaluate")])
def test_only_the_kinds_that_are_allowed(allowed):
    told = {name: refused(PolicyConfig(tasks=allowed), task) for name, task in TASKS.items()}
    assert told == {name: None if name in allowed else "policy-task" for name in TASKS}


def test_rounds_and_epochs_of_a_run_are_counted():
    rounds = PolicyConfig(max_rounds=2)
    assert [refused(rounds, TRAIN, Done(rounds=done)) for done in (0, 1, 2)] == [None, None, "policy-rounds"]
    epochs = PolicyConfig(max_epochs=7)
    assert [refused(epochs, TRAIN, Done(epochs=done)) for done in (0, 4, 5)] == [None, None, "policy-epochs"]
    assert refused(PolicyConfig(max_rounds=1), TASKS["evaluate"], Done(rounds=5)) is None


@pytest.mark.parametrize(
    ("hours", "at", "quiet"),
    [
        ("07:00-18:00", "06:59", False), ("07:00-18:00", "07:00", True), ("07:00-18:00", "17:59", True),
        ("07:00-18:00", "18:00", False), ("22:00-06:00", "23:30", True), ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False), ("22:00-06:00", "12:00", False), ("08:00-08:00", "03:00", True),
    ],
)  # fmt: skip
def test_quiet_hours(hours, at, quiet):
    now = datetime.fromisoformat(f"2026-11-30T{at}")
    assert refused(PolicyConfig(quiet_hours=(hours,)), TRAIN, now=now) == ("policy-hours" if quiet else None)


def test_disk():
    admit_disk(PolicyConfig(), 10**15)
    admit_disk(PolicyConfig(max_disk_gb=2), 2 * 10**9)
    with pytest.raises(PolicyError, match=r"2\.10 GB of 2") as told:
        admit_disk(PolicyConfig(max_disk_gb=2), 2_100_000_000)
    assert told.value.code == "policy-disk"


@pytest.mark.parametrize(
    "bad",
    [{"noise_multiplier": 1.0}, {"max_epsilon": 1.0}, {"clip_norm": 0}, {"quiet_hours": ("7-18",)}, {"delta": 0},
     {"quiet_hours": ("25:00-06:00",)}, {"tasks": ("segment",)}, {"max_rounds": 0}],
)  # fmt: skip
def test_a_policy_that_means_nothing_is_refused(bad):
    with pytest.raises(ValueError, match="validation error"):
        PolicyConfig(**bad)


def renyi_epsilon(noises, delta):
    """Mironov 2017 (arXiv 1702.07476): alpha s^2 / 2 sigma^2 adds up; converted as by Canonne (arXiv 2004.00010)."""
    alphas = np.linspace(1.01, 400, 200_000)
    total = sum(alphas * (2 / noise) ** 2 / 2 for noise in noises)  # twice the clip norm is what one patient can move
    return (total + np.log((alphas - 1) / alphas) - (np.log(delta) + np.log(alphas)) / (alphas - 1)).min()


@pytest.mark.parametrize("noises", [(4.0,), (8.0,) * 10, (20.0,) * 40, (5.0, 10.0, 10.0)])
def test_epsilon_is_renyi_accounting(noises):
    assert epsilon(noises, 1e-5) == pytest.approx(renyi_epsilon(noises, 1e-5), rel=0.01)


def test_epsilon_of_nothing_and_of_no_noise():
    assert epsilon((), 1e-5) == 0
    assert math.isinf(epsilon((8.0, 0.0), 1e-5))


def test_a_budget_of_epsilon_ends_training():
    once, twice = epsilon((8.0,), 1e-5), epsilon((8.0, 8.0), 1e-5)
    policy = PolicyConfig(clip_norm=1, noise_multiplier=8, max_epsilon=(once + twice) / 2)
    assert [refused(policy, TRAIN, Done(noises=(8.0,) * done)) for done in (0, 1)] == [None, "policy-epsilon"]
    assert refused(policy, TASKS["evaluate"], Done(noises=(8.0,) * 9)) is None


SENT = {"stage1.a.weight": np.ones((2, 3), np.float32), "stage1.a.bias": np.zeros(2, np.float32)}
TRAINED = {"stage1.a.weight": np.full((2, 3), 1.5, np.float32), "stage1.a.bias": np.full(2, 1.0, np.float32)}
NORM = math.sqrt(6 * 0.5**2 + 2 * 1.0**2)


def test_an_update_is_scaled_to_the_norm():
    free = limit_update(PolicyConfig(), Layers.of(SENT), Layers.of(TRAINED))
    assert free.norm == pytest.approx(NORM)
    assert all(np.shares_memory(free.layers.array(name), TRAINED[name]) for name in SENT)
    loose = limit_update(PolicyConfig(clip_norm=10), Layers.of(SENT), Layers.of(TRAINED)).layers.arrays()
    assert all(np.array_equal(loose[name], TRAINED[name]) for name in SENT)
    tight = limit_update(PolicyConfig(clip_norm=0.5), Layers.of(SENT), Layers.of(TRAINED)).layers.arrays()
    np.testing.assert_allclose(tight["stage1.a.bias"], 1.0 * 0.5 / NORM, rtol=1e-6)
    np.testing.assert_allclose(tight["stage1.a.weight"], 1 + 0.5 * 0.5 / NORM, rtol=1e-6)
    same = limit_update(PolicyConfig(clip_norm=0.5), Layers.of(SENT), Layers.of(SENT))
    assert (same.norm, all(np.array_equal(same.layers.array(name), SENT[name]) for name in SENT)) == (0.0, True)


def test_noise_has_the_spread_that_is_told():
    sent = {"w": np.zeros((400, 500), np.float32)}
    policy = PolicyConfig(clip_norm=0.5, noise_multiplier=3.0)
    update = limit_update(policy, Layers.of(sent), Layers.of(sent), np.random.default_rng(1))
    assert update.noise == 3.0
    assert update.layers.array("w").std() == pytest.approx(1.5, rel=0.01)  # four standard errors of 200,000 draws
    assert abs(update.layers.array("w").mean()) < 4 * 1.5 / math.sqrt(200_000)
    again = [limit_update(policy, Layers.of(sent), Layers.of(sent)).layers.array("w") for _ in range(2)]
    assert not np.array_equal(*again)


def test_layers_that_stay_are_named_by_pattern_or_as_norms():
    weights = model_weights(build_model(CASCADE))
    norms = local_names(PolicyConfig(local_layers=("norm",)), Layers.of(weights).shapes)
    assert {"stage1.encoder.0.0.1.weight", "stage1.encoder.0.0.1.bias"} <= set(norms)
    assert all(weights[name].ndim == 1 for name in norms)
    assert not [name for name in norms if "head" in name or "convolution" in name]
    assert len(norms) == sum(weights[name].ndim == 1 and name.endswith(".weight") for name in weights) * 2
    heads = local_names(PolicyConfig(local_layers=("stage?.head.*",)), Layers.of(weights).shapes)
    assert heads == ("stage1.head.weight", "stage1.head.bias", "stage2.head.weight", "stage2.head.bias")
    assert local_names(PolicyConfig(), Layers.of(weights).shapes) == ()


def test_what_a_task_leaves_at_the_site_stays_beside_what_the_policy_keeps():
    """No task can make a site send what its policy keeps."""
    policy = PolicyConfig(local_layers=("stage1.head.*",), min_cases=7)
    assert keeping(policy, TRAIN) == policy
    both = keeping(policy, TRAIN.model_copy(update={"local_layers": ("norm",)}))
    assert both == policy.model_copy(update={"local_layers": ("stage1.head.*", "norm")})


def test_the_norms_found_by_shape_are_torch_s():
    from torch import nn

    kinds = (nn.InstanceNorm3d, nn.GroupNorm)
    expected = {
        f"{stage}.{name}.{part}"
        for stage, network in build_model(CASCADE).items()
        for name, module in network.named_modules()
        if isinstance(module, kinds)
        for part in ("weight", "bias")
    }
    assert (
        set(local_names(PolicyConfig(local_layers=("norm",)), Layers.of(model_weights(build_model(CASCADE))).shapes))
        == expected
    )


def test_what_stays_is_neither_sent_nor_counted():
    update = limit_update(PolicyConfig(local_layers=("*.bias",), clip_norm=0.1), Layers.of(SENT), Layers.of(TRAINED))
    assert (set(update.layers.shapes), update.local) == ({"stage1.a.weight"}, ("stage1.a.bias",))
    assert update.norm == pytest.approx(math.sqrt(6 * 0.25))


@pytest.mark.parametrize(
    "change",
    [{"stage1.a.bias": None}, {"Mustermann": np.zeros(1, np.float32)}, {"stage1.a.bias": np.zeros(3, np.float32)},
     {"stage1.a.bias": np.array([np.nan, 0], np.float32)}, {"stage1.a.bias": np.array([np.inf, 0], np.float32)},
     {"stage1.a.bias": np.zeros(2, np.int64)}],
)  # fmt: skip
def test_a_reply_with_other_weights_is_held_back(change):
    trained = {name: value for name, value in (TRAINED | change).items() if value is not None}
    with pytest.raises(PolicyError) as told:
        limit_update(PolicyConfig(), Layers.of(SENT), Layers.of(trained))
    assert told.value.code == "policy-reply"


def summary(n, undefined=0, **metrics):
    told = {name: MetricSummary(mean=value, sd=0.1) for name, value in metrics.items()}
    return ModelSummary(n=n, num_undefined=undefined, metrics=told)


def evaluated(policy, told, task=TASKS["evaluate"]):
    withheld = Withheld()
    return limit_evaluation(policy, task, EvaluateResult(summaries=told, seconds=1.0), withheld), withheld.what


def test_metrics_over_few_cases_stay():
    policy = PolicyConfig(min_cases=3)
    result, what = evaluated(policy, {"m": summary(2, dsc=0.8)})
    assert (result.summaries, result.withheld) == ({}, "fewer cases than the site's min_cases 3")
    assert what == ["metrics of fewer than 3 cases"]
    result, what = evaluated(policy, {"m": summary(4, 2, dsc=0.8, assd_mm=2.0)})
    assert result.summaries["m"].metrics["dsc"].mean == 0.8
    assert result.summaries["m"].metrics["assd_mm"] == MetricSummary(mean=None, sd=None)
    assert what == ["assd_mm of 2 cases"]


@pytest.mark.parametrize("told", [{"Mustermann": summary(9, dsc=0.5)}, {"m": summary(9, Mustermann=0.5)}])
def test_a_name_in_place_of_a_model_or_a_metric_is_held_back(told):
    with pytest.raises(PolicyError):
        evaluated(PolicyConfig(), told)


def test_words_about_withholding_are_the_policy_s_own():
    said = EvaluateResult(summaries={}, withheld="Mustermann^Erika has two scans", seconds=1.0)
    result = limit_evaluation(PolicyConfig(), TASKS["evaluate"], said, Withheld())
    assert result.withheld == "fewer cases than the site's min_cases 3"


def test_a_validation_dsc_over_few_cases_stays():
    update = limit_update(PolicyConfig(local_layers=("*.bias",)), Layers.of(SENT), Layers.of(TRAINED))
    for num, expected in ((2, None), (3, 0.7)):
        withheld = Withheld()
        given = TrainResult(
            model="m", round=1, num_examples=9, epochs=(), validation_dsc=0.7, num_validated=num, seconds=1.0
        )
        result = limit_training(PolicyConfig(min_cases=3), given, update, withheld)
        assert (result.validation_dsc, bool(withheld.what)) == (expected, expected is None)
        assert result.local_layers == ("stage1.a.bias",)
