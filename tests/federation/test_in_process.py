"""Whole experiments in one process: the real ClientApp on tiny cases, through statistics, training and evaluation.

A run repeats itself bit for bit, whatever its threads do and wherever it was stopped.
"""

import json
import math
from contextlib import closing

import numpy as np
import pytest
import torch

from client.app import app as client_app
from client.audit import AuditLog
from client.border import guarded
from client.cases import open_cases
from client.ingest import import_folder
from client.splits import kept_parts
from common import wire
from common.card import read_card
from common.checkpoint import load_metadata, load_weights
from common.errors import WorkError
from common.experiment import Experiment
from common.model import build_model, model_weights
from common.recipe import NetworkConfig, PreprocessConfig, Recipe, RoiConfig, StageConfig, TrainingConfig
from common.site_config import IngestConfig
from common.split import SplitConfig
from common.tasks import TrainResult
from common.volume import Geometry, Volume, write_nifti
from deploy.in_process import InProcessGrid
from deploy.pooled import make_pools, with_pools
from server import sites as server_sites
from server.experiment import run_experiment
from server.ledger import Ledger
from server.matrix import load_matrices
from server.run_record import read_run
from server.sites import Sites

torch.set_num_threads(1)
NETWORK = NetworkConfig(widths=(2, 4), strides=((2, 2, 2),), aspp=None)
RECIPE = Recipe(
    preprocess=PreprocessConfig(spacing_mm=(12.0, 12.0, 12.0), roi=RoiConfig(crop_at_neck=False)),
    stage1=StageConfig(network=NETWORK, patch_size=(8, 8, 8)),
    stage2=StageConfig(network=NETWORK.model_copy(update={"encoder_dropout": 0.3}), patch_size=(4, 8, 8)),
    training=TrainingConfig(lr0=0.05, momentum=0.5, batch_size=2, accumulation=1, autocast="off"),
)
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.3)  # of 4 and 5 patients: 2 or 3 train
CASES = {"A": range(0, 4), "B": range(4, 8), "C": range(8, 13)}
STATISTICS = {"kind": "statistics"}
TRAIN = {"kind": "train", "model": "federated", "rounds": 2}
STEPS = (
    STATISTICS,
    {**TRAIN, "select": "best"},
    {"kind": "local", "model": "local"},
    {"kind": "finetune", "model": "tuned", "initial": "federated", "lr0": 0.001},
    {"kind": "evaluate", "models": ("federated", "local", "tuned"), "models_per_message": 7},
)


def write_case(folder, number):
    """Writes phantom patient `number`: an elliptic cylinder of noisy water with a bone and a brighter target."""
    rng = np.random.default_rng(number)
    _, y, x = np.mgrid[:16, :24, :24]
    inside = ((y - 12) / (8 + number % 3)) ** 2 + ((x - 12) / 9) ** 2 < 1
    hu = np.where(inside, 20 + 3 * number, -1000) + rng.integers(-20, 20, inside.shape)
    label = np.zeros(hu.shape, np.uint8)
    label[5:11, 8 + number % 4 : 14, 8 : 13 + number % 3] = 1
    hu[label == 1] += 60
    hu[:, 12, 18:20] = 400
    folder.mkdir(parents=True)
    write_nifti(Volume(hu.astype(np.int16), Geometry(hu.shape, (6.0, 6.0, 6.0))), folder / "ct.nii.gz")
    write_nifti(Volume(label, Geometry(hu.shape, (6.0, 6.0, 6.0))), folder / "gtv.nii.gz")


@pytest.fixture(scope="module")
def make_sites(tmp_path_factory):
    """make_sites(site -> numbers of its patients) imports them and returns each site's site.yaml."""

    def make(cases, min_cases=1):
        folder = tmp_path_factory.mktemp("sites")
        configs = {}
        for site, numbers in cases.items():
            for number in numbers:
                write_case(folder / "export" / site / f"patient-{number:02d}", number)
            report = import_folder(folder / "export" / site, folder / site / "cases", IngestConfig(), site)
            assert (len(report.imported), report.refused) == (len(numbers), ())
            configs[site] = folder / site / "site.yaml"
            told = {"site": site, "device": "cpu", "num_threads": 1, "policy": {"min_cases": min_cases}}
            configs[site].write_text(json.dumps(told))
        return configs

    return make


@pytest.fixture(scope="module")
def sites(make_sites):
    return make_sites(CASES)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short pauses between looks for replies, and no waits for the disk."""
    monkeypatch.setattr(server_sites, "POLL_MAX_S", 0.02)
    monkeypatch.setattr("os.fsync", lambda handle: None)


class Stop(Exception):  # noqa: N818 (it is no error)
    """What ends a run between two lines of its ledger."""


def experiment(*steps, recipe=RECIPE, split=SPLIT, sites=tuple(CASES), seed=1, **config):
    return Experiment(
        name="tiny", seed=seed, sites=sites, recipe=recipe, split=split, steps=steps or STEPS, rounds=config
    )


def run(config, configs, folder, on_record=None, num_workers=1, app=client_app, runs=None):
    """Runs or resumes in `folder` and returns the ledger; models of the runs in `runs` may be copied."""
    ledger = Ledger(folder, config, on_record)
    with closing(InProcessGrid(app, configs, num_workers)) as grid:
        run_experiment(config, ledger, Sites(grid, grid.node_ids, config.rounds), runs=runs)
    return ledger


def files(ledger):
    """The tensors of every file of weights or of a strategy's state, as bytes, by model and round."""
    weights = {}
    for path in sorted(ledger.folder.rglob("*.safetensors")):
        key = (path.stem,) if path.parent.name == "models" else (path.parent.name, path.stem)
        weights[key] = {name: array.tobytes() for name, array in load_weights(path)[0].items()}
    return weights


def told(ledger):
    """All lines without times."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(each) for key, each in value.items() if key not in ("time", "seconds", "answered_s")}
        return [plain(each) for each in value] if isinstance(value, list) else value

    return [plain(record) for record in ledger.records]


@pytest.fixture(scope="module")
def whole(sites, tmp_path_factory):
    """The full experiment, run once by one worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_sites, "POLL_MAX_S", 0.02)
        return run(experiment(), sites, tmp_path_factory.mktemp("whole"))


def test_a_whole_experiment_runs_through(whole):
    record = read_run(whole.folder)
    assert {site: (told.train, told.validation, told.test) for site, told in record.statistics.sites.items()} == {
        "A": (2, 1, 1),
        "B": (2, 1, 1),
        "C": (2, 1, 2),
    }
    assert len(record.rounds) == 2 + 3 + 3
    for line in record.rounds:
        assert line.dropped == {}
        for site in line.sites.values():
            assert site.cases == 2
            assert all(math.isfinite(epoch.stage1) and math.isfinite(epoch.stage2) for epoch in site.epochs)
    (matrix,) = load_matrices(whole.folder)
    own = [f"{base}-{site}" for base in ("local", "tuned") for site in "ABC"]
    assert matrix.models == ("federated", *own)
    assert [matrix.num_cases(site) for site in "ABC"] == [1, 1, 2]
    assert all(0 <= matrix.mean(model, site, "dsc") <= 1 for model in matrix.models for site in "ABC")


def test_training_moves_every_model_apart(whole):
    start = model_weights(build_model(RECIPE, 1))
    models = [start, *(whole.load_model(name) for name in ("federated", "local-A", "local-B", "tuned-A", "tuned-B"))]
    for name in ("stage1.head.weight", "stage2.head.weight"):
        assert len({model[name].tobytes() for model in models}) == len(models)


@pytest.mark.parametrize("num_workers", [1, 3])
def test_the_same_seed_gives_the_same_bits_whatever_the_threads(whole, sites, tmp_path, num_workers):
    again = run(experiment(), sites, tmp_path, num_workers=num_workers)
    assert files(again) == files(whole)
    assert told(again) == told(whole)


def test_another_seed_gives_other_weights(whole, sites, tmp_path):
    other = run(experiment(STATISTICS, {**TRAIN, "rounds": 1}, seed=2), sites, tmp_path)
    assert files(other)["federated", "round-0001"] != files(whole)["federated", "round-0001"]


def test_cases_imported_anew_give_the_same_statistics(whole, make_sites, tmp_path):
    fresh = run(experiment(STATISTICS), make_sites(CASES), tmp_path)
    assert told(fresh)[:3] == told(whole)[:3]


ALL_TRAIN = SplitConfig(test_fraction=0, validation_fraction=0)
SPREADS = [
    {"A": range(0, 4), "B": range(4, 8), "C": range(8, 13)},
    {"A": [12], "B": [0, 7], "C": [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]},
    {"A": range(1, 13, 2), "B": range(0, 13, 2)},
]


@pytest.fixture(scope="module")
def pooled(make_sites):
    """All patients at one site."""
    return make_sites({"P": range(13)})["P"]


@pytest.mark.parametrize("spread", SPREADS, ids=["even", "uneven", "two"])
def test_federated_statistics_are_the_pooled_ones_exactly(make_sites, pooled, tmp_path, spread):
    config = experiment(STATISTICS, split=ALL_TRAIN, sites=("P",))
    (together,) = run(config, {"P": pooled}, tmp_path / "pooled").find("statistics")
    apart = experiment(STATISTICS, split=ALL_TRAIN, sites=tuple(spread))
    (federated,) = run(apart, make_sites(spread), tmp_path / "federated").find("statistics")
    assert (federated["mean"], federated["sd"]) == (together["mean"], together["sd"])
    assert sum(told["voxels"] for told in federated["sites"].values()) == together["sites"]["P"]["voxels"]


def test_statistics_are_those_of_the_voxels(pooled, tmp_path):
    config = experiment(STATISTICS, split=ALL_TRAIN, sites=("P",))
    (line,) = run(config, {"P": pooled}, tmp_path).find("statistics")
    cases = open_cases(pooled.parent / "cases", pooled.parent / "work", RECIPE, ALL_TRAIN).train
    voxels = np.concatenate([case.cached.image[0][case.cached.body > 0] for case in cases]).astype(float)
    assert line["sites"]["P"]["voxels"] == len(voxels)
    assert line["mean"] == pytest.approx(voxels.mean(), rel=1e-12)
    assert line["sd"] == pytest.approx(voxels.std(), rel=1e-12)


def test_a_round_is_the_mean_of_what_the_sites_sent(sites, tmp_path):
    sent = {}

    def tapped(message, context):
        reply = client_app(message, context)
        if message.metadata.message_type == wire.TRAIN:
            weights = wire.record_to_weights(reply.content.array_records[wire.ARRAYS])
            sent[context.node_config["site"]] = (wire.read_result(reply, TrainResult).num_examples, weights)
        return reply

    split = SplitConfig(test_fraction=0.2, validation_fraction=0)
    config = experiment(STATISTICS, {**TRAIN, "rounds": 1}, split=split)
    ledger = run(config, sites, tmp_path, app=tapped)
    cases = [sent[site][0] for site in "ABC"]
    assert cases == [3, 3, 4]
    for name, array in ledger.load_round("federated", 1).items():
        by_hand = np.average([sent[site][1][name].astype(np.float64) for site in "ABC"], axis=0, weights=cases)
        np.testing.assert_allclose(array, by_hand, rtol=1e-5, atol=1e-7)


def stopping_after_round(number):
    def hear(record):
        if record["kind"] == "round" and record["round"] == number:
            raise Stop

    return hear


STRATEGIES = {
    "fedavg": {},
    "fedavgm": {"server_momentum": 0.9},
    "fedadam": {"eta": 0.01},
    "fedyogi": {"eta": 0.01},
    "median": {},
    "krum": {},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_interrupted_run_goes_on_to_the_same_bits(sites, tmp_path, strategy):
    """What a strategy keeps lies beside the round's weights, so the run goes on with round 2."""
    step = {**TRAIN, "select": "best", "strategy": strategy, "strategy_options": STRATEGIES[strategy]}
    config = experiment(STATISTICS, step)
    unbroken = run(config, sites, tmp_path / "unbroken")
    with pytest.raises(Stop):
        run(config, sites, tmp_path / "broken", stopping_after_round(1))
    resumed = run(config, sites, tmp_path / "broken")
    assert files(resumed) == files(unbroken)
    assert told(resumed)[-3:] == told(unbroken)[-3:]
    assert [line["round"] for line in resumed.find("round")] == [1, 2]


def test_momentum_kept_at_the_sites_survives_a_round_that_was_lost(whole, sites, tmp_path, monkeypatch):
    """The sites have trained round 2, and the coordinator dies before it writes it down: round 2 is done again."""
    training = RECIPE.training.model_copy(update={"momentum_across_rounds": "keep"})
    recipe = RECIPE.model_copy(update={"training": training})
    config = experiment(STATISTICS, TRAIN, recipe=recipe)
    unbroken = run(config, sites, tmp_path / "unbroken")
    save_round = Ledger.save_round

    def dies(ledger, model, number, *rest):
        if number == 2:
            raise Stop
        save_round(ledger, model, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "save_round", dies)
        with pytest.raises(Stop):
            run(config, sites, tmp_path / "broken")
    assert files(run(config, sites, tmp_path / "broken")) == files(unbroken)
    assert files(unbroken)["federated", "round-0002"] != files(whole)["federated", "round-0002"]


def test_fedprox_holds_the_sites_back(sites, tmp_path):
    training = RECIPE.training.model_copy(update={"momentum": 0.0})
    recipe = RECIPE.model_copy(update={"training": training})
    start = model_weights(build_model(recipe, 1))

    def distance(**strategy):
        step = {**TRAIN, "rounds": 1, "local_epochs": 2, **strategy}
        ledger = run(experiment(STATISTICS, step, recipe=recipe), sites, tmp_path / str(len(list(tmp_path.iterdir()))))
        model = ledger.load_model("federated")
        return math.sqrt(sum(float(((model[name] - start[name]) ** 2).sum()) for name in start))

    free = distance()
    held = distance(strategy="fedprox", strategy_options={"proximal_mu": 8.0})
    assert held < 0.9 * free


def test_fp16_transport_stays_close_to_fp32(whole, sites, tmp_path):
    ledger = run(experiment(STATISTICS, {**TRAIN, "rounds": 1}, transport="fp16"), sites, tmp_path)
    for name, array in ledger.load_round("federated", 1).items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, whole.load_round("federated", 1)[name], rtol=1e-2, atol=1e-2)


def test_a_site_whose_cases_are_gone_is_named_and_nothing_else_is(make_sites, tmp_path, caplog):
    configs = make_sites({"A": [0, 1, 2], "B": [3, 4, 5]})
    config = experiment(STATISTICS, TRAIN, sites=("A", "B"))
    index = configs["B"].parent / "cases" / "cases.json"
    index.rename(index.with_suffix(".gone"))
    with pytest.raises(WorkError, match=r"no result from site B \(bad-input\)") as caught:
        run(config, configs, tmp_path)
    assert str(configs["B"].parent) not in str(caught.value)
    assert "cases.json" in caplog.text  # the site's own log says it
    index.with_suffix(".gone").rename(index)
    assert run(config, configs, tmp_path).find("end")


def test_a_quorum_goes_on_without_a_failing_site(make_sites, tmp_path):
    configs = make_sites({"A": [0, 1, 2], "B": [3, 4, 5]})
    config = experiment(STATISTICS, TRAIN, sites=("A", "B"), quorum=1)

    def loses_its_cases(record):
        if record["kind"] == "statistics":
            (configs["B"].parent / "cases" / "cases.json").unlink()

    ledger = run(config, configs, tmp_path, loses_its_cases)
    assert [line["dropped"] for line in ledger.find("round")] == [{"B": "bad-input"}] * 2


def test_a_site_with_too_few_cases_withholds_its_results(make_sites, tmp_path):
    configs = make_sites({"A": range(8), "B": range(8, 11)}, min_cases=2)
    step = {**TRAIN, "rounds": 1, "select": "best"}
    config = experiment(STATISTICS, step, {"kind": "evaluate", "models": ("federated",)}, sites=("A", "B"))
    ledger = run(config, configs, tmp_path)
    assert ledger.find("statistics")[0]["sites"]["B"]["voxels"] is None
    row = ledger.find("evaluation")[0]["matrix"]["federated"]
    assert row["A"]["n"] == 2
    assert row["B"] == {"n": None, "num_undefined": None, "metrics": {}, "withheld": row["B"]["withheld"]}
    assert "fewer than" in row["B"]["withheld"]


def run_with_pools(config, configs, folder, on_record=None):
    """As `run`, with what a simulation puts beside the sites; returns the ledger and the pools by model."""
    pools = make_pools(config, configs, next(iter(configs.values())).parents[1])
    workers = configs | {name: pool.config for name, pool in pools.items()}
    return run(config, workers, folder, on_record, app=guarded(with_pools(client_app, pools))), pools


POOLED = {"kind": "pooled", "model": "pooled", "rounds": 2, "select": "best"}


def test_a_pool_of_one_site_is_that_site_bit_for_bit(sites, tmp_path):
    alone = {**POOLED, "kind": "local", "model": "own", "sites": ("A",)}
    own = run(experiment(STATISTICS, alone), sites, tmp_path / "own")
    pooled, _ = run_with_pools(experiment(STATISTICS, {**POOLED, "sites": ("A",)}), sites, tmp_path / "pooled")
    assert files(pooled)["pooled", "round-0001"] == files(own)["own-A", "round-0001"]
    assert files(pooled)[("pooled",)] == files(own)[("own-A",)]


def test_a_pool_holds_every_sites_cases_in_the_part_that_the_site_gave_them(make_sites, tmp_path):
    configs = make_sites(CASES)
    config = experiment(STATISTICS, POOLED, {"kind": "evaluate", "models": ("pooled",)})
    ledger, pools = run_with_pools(config, configs, tmp_path)
    pool = pools["pooled"].config.parent
    together = open_cases(pool / "cases", pool / "work", RECIPE, SPLIT)
    for part in ("train", "validation", "test"):
        apart = [case for path in configs.values() for case in
                 getattr(open_cases(path.parent / "cases", path.parent / "work", RECIPE, SPLIT), part)]  # fmt: skip
        found = getattr(together, part)
        assert [case.cached.case_id for case in found] == [case.cached.case_id for case in apart]
        for one, other in zip(found, apart, strict=True):  # no pixel is written twice
            assert one.cached.folder.samefile(other.cached.folder)
            assert (one.folder / one.cached.entry.images[0]).samefile(other.folder / other.cached.entry.images[0])
    assert {line["sites"]["pooled"]["cases"] for line in ledger.find("round")} == {6}
    assert list(ledger.find("evaluation")[0]["matrix"]["pooled"]) == ["A", "B", "C"]
    card = read_card(load_metadata(ledger.model_path("pooled")), "pooled")
    assert card.origin == "trained on the cases of A, B, C in one place"
    assert [(each.site, each.num_cases) for each in card.trained_on] == [("A", 2), ("B", 2), ("C", 2)]


def test_patients_of_two_sites_with_one_name_stay_two(make_sites, tmp_path):
    """Both sites call their patients X-0001 and so on; their cases have names of their own."""
    configs = make_sites({"A": range(0, 4), "B": range(4, 8)})
    for path in configs.values():
        index = path.parent / "cases" / "cases.json"
        told = json.loads(index.read_text())
        for number, case in enumerate(told["cases"]):
            case["patient_id"] = f"X-{number:04d}"
        index.write_text(json.dumps(told))
    config = experiment(STATISTICS, POOLED, sites=("A", "B"))
    ledger, pools = run_with_pools(config, configs, tmp_path)
    assert ledger.find("round")[-1]["sites"]["pooled"]["cases"] == 4
    parts = kept_parts(SPLIT, pools["pooled"].config.parent / "work")
    assert sorted(parts) == [f"{site}/X-{number:04d}" for site in "AB" for number in range(4)]


def test_a_pool_without_a_sites_cases_fails_and_the_log_says_why(make_sites, tmp_path, caplog):
    configs = make_sites({"A": range(0, 3), "B": range(3, 6)})

    def loses_its_cases(record):
        if record["kind"] == "statistics":
            (configs["B"].parent / "cases" / "cases.json").unlink()

    with pytest.raises(WorkError, match=r"pooled \(bad-input\)"):
        run_with_pools(experiment(STATISTICS, POOLED, sites=("A", "B")), configs, tmp_path, loses_its_cases)
    assert "cases.json" in caplog.text


def with_policy(configs, **policies):
    """Gives each named site a policy of its own."""
    for site, policy in policies.items():
        told = json.loads(configs[site].read_text())
        configs[site].write_text(json.dumps(told | {"policy": {"min_cases": 1, **policy}}))
    return configs


def norms_and_others(weights):
    norms = {
        name.removesuffix(".weight") for name, each in weights.items() if name.endswith("weight") and each.ndim == 1
    }
    mine = {name for name in weights if name.rpartition(".")[0] in norms}
    return mine, set(weights) - mine


def test_behind_the_border_the_bits_are_the_same(whole, make_sites, tmp_path):
    guarded_run = run(experiment(STATISTICS, {**TRAIN, "select": "best"}), make_sites(CASES), tmp_path,
                      app=guarded(client_app))  # fmt: skip
    for key, weights in files(guarded_run).items():
        assert weights == files(whole)[key], key


def test_norm_layers_that_all_sites_keep_never_leave(make_sites, tmp_path):
    keep = {"local_layers": ["norm"]}
    configs = with_policy(make_sites(CASES), A=keep, B=keep, C=keep)
    ledger = run(experiment(STATISTICS, TRAIN), configs, tmp_path, app=guarded(client_app))
    start, end = model_weights(build_model(RECIPE, 1)), ledger.load_model("federated")
    norms, others = norms_and_others(start)
    assert norms
    assert all(np.array_equal(start[name], end[name]) for name in norms)
    assert not any(np.array_equal(start[name], end[name]) for name in others if start[name].size > 10)
    kept = [sorted((path.parent / "work" / "layers").rglob("*.safetensors"))[-1] for path in configs.values()]
    assert len({path.read_bytes() for path in kept}) == len(kept)


def test_fedbn_is_what_the_policy_of_every_site_would_do(make_sites, tmp_path):
    """The same bits in the models and in the matrix: sites that trained it measure it with their own layers."""
    keep = {"local_layers": ["norm"]}
    configs = with_policy(make_sites(CASES), A=keep, B=keep, C=keep)
    evaluate = {"kind": "evaluate", "models": ("federated",)}
    by_policy = run(experiment(STATISTICS, TRAIN, evaluate), configs, tmp_path / "policy", app=guarded(client_app))
    step = {**TRAIN, "strategy": "fedbn"}
    by_task = run(experiment(STATISTICS, step, evaluate), make_sites(CASES), tmp_path / "task", app=guarded(client_app))
    assert files(by_task) == files(by_policy)
    assert by_task.find("evaluation")[0]["matrix"] == by_policy.find("evaluation")[0]["matrix"]
    start, end = model_weights(build_model(RECIPE, 1)), by_task.load_model("federated")
    norms, others = norms_and_others(start)
    assert all(np.array_equal(start[name], end[name]) for name in norms)
    assert not any(np.array_equal(start[name], end[name]) for name in others if start[name].size > 10)


def test_a_layer_that_one_site_keeps_comes_from_the_others(make_sites, tmp_path):
    """As if that site had no part in it; `without` it is dropped by its own policy, and a quorum goes on."""
    config = experiment(STATISTICS, {**TRAIN, "rounds": 1}, quorum=2)
    keeps, absent = {"local_layers": ["norm"]}, {"tasks": ["statistics"]}
    mixed = run(config, with_policy(make_sites(CASES), C=keeps), tmp_path / "mixed", app=guarded(client_app))
    without = run(config, with_policy(make_sites(CASES), C=absent), tmp_path / "without", app=guarded(client_app))
    assert mixed.find("round")[0]["dropped"] == {}
    assert without.find("round")[0]["dropped"] == {"C": "policy-task"}
    one, two = mixed.load_model("federated"), without.load_model("federated")
    norms, others = norms_and_others(one)
    for name in norms:
        np.testing.assert_allclose(one[name], two[name], atol=1e-6)
    assert any(not np.allclose(one[name], two[name], atol=1e-6) for name in others)


def test_noise_and_clipping_leave_a_run_that_goes_through(make_sites, tmp_path):
    noisy = {"clip_norm": 0.01, "noise_multiplier": 0.5}
    configs = with_policy(make_sites({"A": CASES["A"]}), A=noisy)
    ledger = run(experiment(STATISTICS, TRAIN, sites=("A",)), configs, tmp_path, app=guarded(client_app))
    assert len(ledger.find("round")) == 2
    audit = AuditLog(configs["A"].parent / "state").read()
    assert audit.faults == ()
    spent = [line["epsilon"] for line in audit.records if "epsilon" in line]
    assert len(spent) == 2
    assert 0 < spent[0] < spent[1]


def test_a_run_has_no_more_rounds_than_a_site_gives_it(make_sites, tmp_path):
    configs = with_policy(make_sites({"A": CASES["A"]}), A={"max_rounds": 1})
    with pytest.raises(WorkError, match=r"round 2: .*A \(policy-rounds\)"):
        run(experiment(STATISTICS, TRAIN, sites=("A",)), configs, tmp_path, app=guarded(client_app))


def alone(patch_size, **network):
    """A recipe of one stage."""
    stage = StageConfig(network=NetworkConfig.model_validate(network), patch_size=patch_size)
    return RECIPE.model_copy(update={"stage1": stage, "stage2": None})


COMPARED = {
    "voxresnet": alone((8, 8, 8), kind="voxresnet", widths=(2, 4), strides=((2, 2, 2),)),
    "attention": alone((8, 8, 8), kind="attention-unet", widths=(4, 8), strides=((2, 2, 2),)),
    "nested": alone((16, 16, 32), kind="unet++", widths=(2, 2, 2, 2, 4)),
}


def test_the_compared_networks_go_through_folds_and_every_case_is_measured_once(sites, tmp_path):
    """A has four patients: two test in each of two folds, so that a row of the matrix is over all four."""
    steps = [{"kind": "train", "model": name, "recipe": name, "sites": ["A"], "folds": True} for name in COMPARED]
    measured = {"kind": "evaluate", "models": [*COMPARED], "models_per_message": 7, "sites": ["A"]}
    config = Experiment(
        name="tiny",
        sites=("A",),
        recipe=RECIPE,
        recipes=COMPARED,
        split=SplitConfig(folds=2, validation_fraction=0.0),
        steps=(STATISTICS, *steps, measured),
    )
    ledger = run(config, {"A": sites["A"]}, tmp_path)
    (line,) = ledger.find("evaluation")
    assert {model: row["A"]["n"] for model, row in line["matrix"].items()} == dict.fromkeys(COMPARED, 4)
    assert [cell["A"]["n"] for cell in line["folds"].values()] == [2] * 6
    for name, recipe in COMPARED.items():
        start = model_weights(build_model(recipe, config.seed))
        first, second = (ledger.load_model(f"{name}.fold-{fold}") for fold in (1, 2))
        assert first.keys() == second.keys() == start.keys()
        moved = [key for key in start if not np.array_equal(start[key], first[key])]
        assert len(moved) == len(start)
        assert any(not np.array_equal(first[key], second[key]) for key in start)


def test_another_run_copies_what_was_trained_on_the_same_data_and_measures_it_alike(sites, tmp_path, make_sites):
    config = experiment(STATISTICS, {"kind": "local", "model": "own"}, {"kind": "evaluate", "models": ["own"]})
    first = run(config, sites, tmp_path / "first", runs=tmp_path)
    second = run(config, sites, tmp_path / "second", runs=tmp_path)
    assert [line["reused"] for line in second.find("model")] == ["first/own-A", "first/own-B", "first/own-C"]
    assert second.find("round") == []
    assert first.find("evaluation")[0]["matrix"] == second.find("evaluation")[0]["matrix"]
    assert all(first.load_model(name).keys() == second.load_model(name).keys() for name in ("own-A", "own-B"))
    fewer = run(config, make_sites({**CASES, "A": range(1, 4)}), tmp_path / "fewer", runs=tmp_path)
    assert next(line["reused"] for line in fewer.find("model") if line["model"] == "own-A") is None
