"""Experiments over scripted sites: order of steps, what is asked of whom, what is chosen, and how a run goes on."""

import contextlib
import shutil
import threading
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message

from common import wire
from common.card import read_card
from common.checkpoint import load_weights
from common.digest import model_digest
from common.errors import ConfigError, DiskFullError, InputError, NoResultsError, PolicyError, SiteError, WorkError
from common.experiment import Experiment, RoundConfig
from common.recipe import NetworkConfig, Recipe, StageConfig
from common.shortage import explained
from common.split import SplitConfig
from common.statistics import HuHistogram
from common.tasks import (
    CompareResult,
    CompareTask,
    Drawing,
    EpochRecord,
    EvaluateResult,
    EvaluateTask,
    MetricDifference,
    MetricSpread,
    MetricSummary,
    ModelSummary,
    PairDifference,
    Picture,
    PictureResult,
    PictureTask,
    RowSpread,
    SiteStatistics,
    StatisticsTask,
    TrainResult,
    TrainTask,
)
from deploy.in_process import InProcessGrid
from server import sites as server_sites
from server.evaluation import NO_ANSWER
from server.evaluation_reply import PNG_SIGNATURE
from server.experiment import cautions, run_experiment
from server.figures import figures, figures_withheld
from server.ledger import Ledger
from server.run_record import concurrent_rounds, read_run
from server.sites import Sites
from server.spool import Spool
from server.watch import Watch

RECIPE = Recipe(
    stage1=StageConfig(network=NetworkConfig(widths=(2, 2), strides=((2, 2, 2),), aspp=None), patch_size=(8, 8, 8)),
    stage2=None,
)
START = {"stage1.head.bias": np.array([0.25], np.float32), "stage1.body": np.zeros((2, 3), np.float32)}
STATISTICS = {"kind": "statistics"}
TRAIN = {"kind": "train", "model": "m", "rounds": 3, "local_epochs": 2}
STEPS = (
    STATISTICS,
    TRAIN,
    {"kind": "local", "model": "own", "rounds": 2, "select": "best"},
    {"kind": "finetune", "model": "tuned", "initial": "m", "sites": ("B",), "lr0": 0.001},
    {"kind": "evaluate", "models": ("m", "own", "tuned-B"), "models_per_message": 2, "pictures": 1},
)


def experiment(*steps, sites=("A", "B"), **config):
    return Experiment(
        name="tiny", seed=5, sites=sites, recipe=RECIPE, steps=steps or STEPS, rounds=RoundConfig(**config)
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Two small arrays for a network, no pauses between looks, and no waits for the disk."""
    monkeypatch.setattr("server.training.build_model", lambda recipe, seed: seed)
    monkeypatch.setattr("server.training.model_weights", lambda seed: {5: START}[seed])
    monkeypatch.setattr(server_sites, "POLL_MAX_S", 0.01)
    monkeypatch.setattr("os.fsync", lambda handle: None)


def level(weights):
    """How far training has moved the weights from the start: what the scripted sites add."""
    return round(float(weights["stage1.head.bias"][0] - START["stage1.head.bias"][0]), 3)


def picture(text, dsc=0.5):
    return Picture(PNG_SIGNATURE + text.encode(), dsc)


class Hospitals:
    """Scripted sites: A adds 1 to every weight in a round, B 2, and so on; they are as many cases.

    `score(part, level)` is the DSC of weights; `asked` lists (what, site, model or part, round or None, level).
    """

    def __init__(self, score=lambda part, level: 0.5):
        self.score = score
        self.asked = []
        self.tasks = []
        self.faults = {}
        """Site -> what a message type is answered with, instead of work: an exception, or a RecordDict's maker."""
        self.withheld = {}
        self.kept = {}
        """DSC by (site, digest of the model as it came there)."""
        self.compared = []
        """(site, task) of every comparison."""

    def __call__(self, message: Message, context) -> Message:
        site = context.node_config["site"]
        kind = message.metadata.message_type
        fault = self.faults.get((site, kind))
        if isinstance(fault, Exception):
            return Message(wire.error_reply(fault), reply_to=message)
        works = {wire.STATISTICS: self.statistics, wire.TRAIN: self.train, wire.EVALUATE: self.evaluate}
        work = (works | {wire.COMPARE: self.compare, wire.DRAW: self.draw})[kind]
        return Message(work(site, message) if fault is None else fault(), reply_to=message)

    def draw(self, site, message):
        """Without a step `pictures`; `drawing_hospitals` has its own."""
        raise AssertionError("no step asks for pictures")

    def number(self, site):
        return "ABC".index(site) + 1

    def statistics(self, site, message):
        wire.read_task(message, StatisticsTask)
        self.asked.append(("statistics", site, None, None, None))
        told = SiteStatistics(train=self.number(site), validation=1, test=1, seconds=0.0)
        return wire.statistics_reply(told, HuHistogram.from_values([-10, 30 * self.number(site)]).to_array())

    def train(self, site, message):
        task = wire.read_train_task(message)
        weights = wire.record_to_weights(message.content.array_records[wire.ARRAYS])
        self.tasks.append(task)
        self.asked.append(("train", site, task.model, task.round, level(weights)))
        epochs = tuple(
            EpochRecord(epoch=task.epochs_done + k, lr=task.lr0, losses={"stage1": 0.5})
            for k in range(task.local_epochs)
        )
        asked = task.validate_received and not self.withheld.get(site)
        dsc = self.score("validation", level(weights)) if asked else None
        told = TrainResult(
            model=task.model,
            round=task.round,
            num_examples=self.number(site),
            epochs=epochs,
            validation_dsc=dsc,
            seconds=0.0,
        )
        moved = {name: array + np.float32(self.number(site)) for name, array in weights.items()}
        return wire.train_reply(moved, weights, told, task.transport)

    def evaluate(self, site, message):
        task, _ = wire.read_task(message, EvaluateTask)
        models = wire.read_models(message)
        self.tasks.append(task)
        self.asked += [("evaluate", site, task.part, name, level(models[name])) for name in task.models]
        if self.withheld.get(site):
            return wire.evaluate_reply(EvaluateResult(summaries={}, withheld=self.withheld[site], seconds=0.0), [])
        summaries = {name: self.summary(task.part, models[name]) for name in task.models}
        digests = {name: model_digest(models[name], task.recipe, task.normalisation) for name in task.models}
        self.kept |= {(site, digests[name]): told.metrics["dsc"].mean for name, told in summaries.items()}
        pictures = [picture(f"{site} {task.models[0]}")] * task.pictures
        return wire.evaluate_reply(EvaluateResult(summaries=summaries, seconds=0.0), pictures)

    def summary(self, part, weights):
        dsc = MetricSummary(mean=self.score(part, level(weights)), sd=None)
        return ModelSummary(n=4, num_undefined=1, metrics={"dsc": dsc})

    def compare(self, site, message):
        """Four cases a row and fold, three a pair: the second model is below the first by the site's number."""
        task, _ = wire.read_task(message, CompareTask)
        self.compared.append((site, task))
        known = self.kept if (site, wire.EVALUATE) not in self.faults else defaultdict(lambda: 0.5)
        rows = {}
        for name, parts in task.rows.items():
            mean, num = fmean(known[site, digest] for digest, _ in parts), len(parts)
            spread = MetricSpread(n=4 * num, mean=mean, sd=0.1, median=mean, low=mean, high=mean)
            metrics = dict.fromkeys(task.metrics, spread)
            rows[name] = RowSpread(n=4 * num, num_undefined=num, num_empty=num, metrics=metrics)
        by = self.number(site) / 100
        told = MetricDifference(n=3, difference=by, sd=by / 2, ranks=6.0, squares=14.0, wilcoxon_p=0.25)
        pairs = [PairDifference(first=a, second=b, metrics=dict.fromkeys(task.metrics, told)) for a, b in task.pairs]
        result = CompareResult(rows=rows, pairs=tuple(pairs), seconds=0.0)
        return wire.compare_reply(result)


class Stop(Exception):  # noqa: N818 (it is no error)
    """What ends a run between two lines of its ledger."""


@pytest.fixture
def folder(tmp_path):
    """Where `go` puts its run when it is told nothing else."""
    return tmp_path / "run"


@pytest.fixture
def go(tmp_path):
    """go(hospitals, experiment, folder) runs or resumes and returns the ledger; `stop_after`: at that new line."""

    def go(hospitals, config, folder="run", stop_after=None, num_workers=1):
        heard = []

        def hear(record):
            heard.append(record)
            if len(heard) == stop_after:
                raise Stop

        ledger = Ledger(tmp_path / folder, config, hear)
        grid = InProcessGrid(hospitals, {site: Path(site) for site in config.sites}, num_workers)
        try:
            watch = Watch(ledger.folder, ledger.append)
            run_experiment(config, ledger, Sites(grid, grid.node_ids, config.rounds, watch))
        finally:
            grid.close()
        return ledger

    return go


def kinds(ledger):
    return [(record["kind"], record.get("model")) for record in ledger.records]


def levels(ledger, *models):
    return {model: level(ledger.load_model(model)) for model in models}


def test_steps_are_done_in_order_and_written_down(go):
    ledger = go(Hospitals(), experiment())
    step, done = ("step", None), ("done", None)
    own = [("round", "own-A"), ("round", "own-B")]
    assert kinds(ledger) == [
        *[step, ("statistics", None), done],
        *[("step", "m"), *[("round", "m")] * 3, ("model", "m"), done],
        *[("step", "own"), *own, *own, ("model", "own-A"), ("model", "own-B"), done],
        *[("step", "tuned"), ("round", "tuned-B"), ("model", "tuned-B"), done],
        *[step, ("evaluation", None), done],
        ("end", None),
    ]
    record = read_run(ledger.folder)
    assert [len(record.rounds_of(step)) for step in range(5)] == [0, 3, 4, 1, 0]


def test_models_are_what_their_cohorts_made(go):
    """A (1 case) adds 1, B (2 cases) adds 2: 5/3 a federated round; a site alone adds its own number."""
    ledger = go(Hospitals(), experiment())
    expected = {"m": 5.0, "own-A": 2.0, "own-B": 4.0, "tuned-B": 7.0}
    assert levels(ledger, *expected) == pytest.approx(expected, abs=1e-2)


def test_what_is_asked_of_whom(go):
    hospitals = Hospitals()
    go(hospitals, experiment(STATISTICS, TRAIN, STEPS[3]))
    trained = [(site, model, number) for what, site, model, number, _ in hospitals.asked if what == "train"]
    assert trained == [*[(site, "m", k) for k in (1, 2, 3) for site in "AB"], ("B", "tuned-B", 1)]
    first, last = hospitals.tasks[0], hospitals.tasks[-1]
    assert (first.epochs_done, first.epochs_total, first.step, first.seed) == (0, 6, 1, 5)
    assert (first.lr0, last.lr0, last.step) == (RECIPE.training.lr0, 0.001, 2)
    assert [task.epochs_done for task in hospitals.tasks if task.model == "m"][::2] == [0, 2, 4]


def test_statistics_are_those_of_all_cases_together(go):
    (line,) = go(Hospitals(), experiment(STATISTICS)).find("statistics")
    together = np.array([-10, 30, -10, 60])
    assert line["mean"] == together.mean()
    assert line["sd"] == pytest.approx(together.std(), rel=1e-15)
    assert line["sites"]["B"] == {
        **{"train": 2, "validation": 1, "test": 1, "refused": 0, "voxels": 2},
        "digest": None,
    }


def test_a_withheld_histogram_is_left_out_and_null(go):
    hospitals = Hospitals()
    told = SiteStatistics(train=1, validation=0, test=0, seconds=0.0)
    hospitals.faults["A", wire.STATISTICS] = lambda: wire.statistics_reply(told, None)
    (line,) = go(hospitals, experiment(STATISTICS)).find("statistics")
    assert (line["mean"], line["sites"]["A"]["voxels"]) == (25.0, None)
    hospitals.faults["B", wire.STATISTICS] = lambda: wire.statistics_reply(told, None)
    with pytest.raises(WorkError, match="no site may send its histogram"):
        go(hospitals, experiment(STATISTICS), "none")


def test_bodies_of_one_value_are_refused(go):
    hospitals = Hospitals()
    told = SiteStatistics(train=1, validation=0, test=0, seconds=0.0)
    for site in "AB":
        hospitals.faults[site, wire.STATISTICS] = lambda: wire.statistics_reply(
            told, HuHistogram.from_values([7]).counts
        )
    with pytest.raises(InputError, match=r"mean 7\.0 and SD 0\.0"):
        go(hospitals, experiment(STATISTICS))


BAD_HISTOGRAMS = [
    Array(np.zeros(7, np.int64)),
    Array(np.full(5120, -1)),
    Array(np.full(5120, np.nan)),
    Array("int64", (5120,), "numpy.ndarray", b"no array"),
    None,
]


@pytest.mark.parametrize("array", BAD_HISTOGRAMS, ids=["short", "negative", "nan", "no array", "absent"])
def test_a_site_that_sends_no_histogram_is_named(go, array):
    def broken():
        content = wire.statistics_reply(SiteStatistics(train=1, validation=0, test=0, seconds=0.0), None)
        content[wire.ARRAYS] = ArrayRecord({} if array is None else {wire.HISTOGRAM: array})
        return content

    hospitals = Hospitals()
    hospitals.faults["B", wire.STATISTICS] = broken
    with pytest.raises(WorkError, match="site B: sent no usable histogram"):
        go(hospitals, experiment(STATISTICS))


@pytest.mark.parametrize("kind", [wire.STATISTICS, wire.TRAIN, wire.EVALUATE])
def test_a_site_that_fails_is_named_with_its_code_alone(go, kind):
    hospitals = Hospitals()
    hospitals.faults["B", kind] = InputError("Secret^Name")
    with pytest.raises(WorkError, match=r"B \(bad-input\)") as caught:
        go(hospitals, experiment())
    assert "Secret" not in str(caught.value)
    assert "A (" not in str(caught.value)
    hospitals.faults.clear()
    assert levels(go(hospitals, experiment()), "m") == pytest.approx({"m": 5.0}, abs=1e-2)


def test_a_site_that_measures_other_models_is_named(go):
    hospitals = Hospitals()
    empty = EvaluateResult(summaries={"other": hospitals.summary("test", START)}, seconds=0.0)
    hospitals.faults["A", wire.EVALUATE] = lambda: wire.evaluate_reply(empty, [])
    with pytest.raises(WorkError, match="site A: did not measure own-A but other"):
        go(hospitals, experiment())


def test_a_quorum_leaves_the_failing_site_out_and_says_so(go):
    hospitals = Hospitals()
    hospitals.faults["A", wire.TRAIN] = InputError("Secret^Name")
    ledger = go(hospitals, experiment(STATISTICS, TRAIN, quorum=1))
    assert levels(ledger, "m") == pytest.approx({"m": 6.0}, abs=1e-3)
    for line in ledger.find("round"):
        assert line["dropped"] == {"A": "bad-input"}
        assert list(line["sites"]) == ["B"]


def test_a_quorum_of_a_federation_spares_no_site_alone(go):
    hospitals = Hospitals()
    hospitals.faults["A", wire.TRAIN] = InputError("bad")
    with pytest.raises(WorkError, match="0 good replies of 1, 1 needed"):
        go(hospitals, experiment(STATISTICS, {"kind": "local", "model": "own"}, quorum=2))


def test_an_unknown_option_is_refused_before_anyone_is_asked(go):
    hospitals = Hospitals()
    step = {**TRAIN, "strategy": "fedprox", "strategy_options": {"mu": 1.0}}
    with pytest.raises(ConfigError, match="'mu' is no option of fedprox"):
        go(hospitals, experiment(STATISTICS, step))
    assert hospitals.asked == []


def test_training_needs_statistics(go):
    with pytest.raises(WorkError, match="put a `statistics` step before"):
        go(Hospitals(), experiment(TRAIN))


def test_a_site_without_a_node_is_refused(tmp_path):
    grid = InProcessGrid(Hospitals(), {"A": Path("A")}, 1)
    config = experiment(STATISTICS)
    with pytest.raises(SiteError, match="'B' is not enrolled"):
        run_experiment(config, Ledger(tmp_path, config), Sites(grid, grid.node_ids, config.rounds))
    grid.close()


BY_LEVEL = {0.0: 0.9, 1.0: 0.2, 2.0: 0.6, 3.0: 0.4}
"""Validation DSC of the start and of rounds 1 to 3 of site A alone; the start is best and no round's."""


def chosen(go, step, score, site="A"):
    hospitals = Hospitals(score)
    ledger = go(hospitals, experiment(STATISTICS, step, sites=("A",)))
    assert not [asked for asked in hospitals.asked if asked[0] == "evaluate" and asked[2] == "test"]
    (line,) = ledger.find("model")
    return line["round"], line["validation_dsc"], level(ledger.load_model(line["model"]))


@pytest.mark.parametrize("kind", ["train", "local"])
def test_best_is_by_validation_only(go, kind):
    """The test cases, which prefer the last round, have no say and are not looked at."""

    def score(part, at):
        return BY_LEVEL[at] if part == "validation" else at / 3

    assert chosen(go, {**TRAIN, "kind": kind, "select": "best"}, score) == (2, 0.6, 2.0)


def test_last_is_the_last_and_measures_nothing(go):
    assert chosen(go, TRAIN, lambda part, at: BY_LEVEL[at]) == (3, None, 3.0)


def test_no_validation_is_asked_for_where_it_tells_nothing(go):
    """Of fresh weights, and in a step's only round."""
    steps = [{"kind": "finetune", "initial": "m", "model": f"tuned-{n}", "rounds": n, "select": "best"} for n in (1, 2)]
    hospitals = Hospitals()
    ledger = go(hospitals, experiment(STATISTICS, TRAIN, *steps, sites=("A",)))
    tasks = [task for task in hospitals.tasks if isinstance(task, TrainTask)]
    assert [(task.model, task.round) for task in tasks if task.validate_received] == [
        ("m", 2), ("m", 3), ("tuned-2-A", 1), ("tuned-2-A", 2)
    ]  # fmt: skip
    assert [line["sites"]["A"]["validation_dsc"] is not None for line in ledger.find("round")] == [
        False, True, True, False, True, True
    ]  # fmt: skip
    assert all(line["validation_dsc"] is not None for line in ledger.find("model") if line["model"] != "m")


def test_of_equals_the_later_is_kept(go):
    assert chosen(go, {**TRAIN, "select": "best"}, lambda part, at: 0.5) == (3, 0.5, 3.0)
    assert chosen_twice(go) == 2


def chosen_twice(go):
    scores = {0.0: 0.0, 1.0: 0.7, 2.0: 0.7, 3.0: 0.1}
    hospitals = Hospitals(lambda part, at: scores[at])
    ledger = go(hospitals, experiment(STATISTICS, {**TRAIN, "select": "best"}, sites=("A",)), "equal")
    return ledger.find("model")[0]["round"]


def test_best_is_the_mean_over_sites_that_may_tell(go):
    hospitals = Hospitals(lambda part, at: 1.0 / (1.0 + at))
    hospitals.withheld["A"] = "too few"
    ledger = go(hospitals, experiment(STATISTICS, {**TRAIN, "select": "best"}))
    (line,) = ledger.find("model")
    assert (line["round"], line["validation_dsc"]) == (1, pytest.approx(1 / (1 + 5 / 3), abs=1e-3))


def test_best_where_no_site_may_tell_is_the_last(go):
    hospitals = Hospitals(lambda part, at: 1.0)
    hospitals.withheld = {"A": "too few", "B": "too few"}
    (line,) = go(hospitals, experiment(STATISTICS, {**TRAIN, "select": "best"})).find("model")
    assert (line["round"], line["validation_dsc"]) == (3, None)


CYCLIC = {**TRAIN, "strategy": "cyclic"}


def trainings(hospitals):
    return [(site, number, at) for what, site, _, number, at in hospitals.asked if what == "train"]


def test_a_cyclic_model_goes_from_site_to_site_in_the_steps_order(go):
    """B adds 2 to what it gets, then A adds 1 to what B made."""
    hospitals = Hospitals()
    ledger = go(hospitals, experiment(STATISTICS, {**CYCLIC, "sites": ("B", "A")}), num_workers=2)
    assert trainings(hospitals) == [(site, k, 3.0 * (k - 1) + (site == "A") * 2) for k in (1, 2, 3) for site in "BA"]
    assert levels(ledger, "m") == {"m": 9.0}
    tasks = [task for task in hospitals.tasks if isinstance(task, TrainTask)]
    assert [(task.epochs_done, task.epochs_total) for task in tasks] == [(k, 6) for k in (0, 0, 2, 2, 4, 4)]
    norms = [line["sites"] for line in ledger.find("round")]
    size = sum(array.size for array in START.values())
    assert norms[0]["A"]["norm"] == pytest.approx(size**0.5, rel=1e-5)
    assert norms[0]["B"]["norm"] == pytest.approx(2 * size**0.5, rel=1e-5)


def test_a_cyclic_round_goes_on_after_the_last_site_that_answered(go):
    hospitals = Hospitals()
    config = experiment(STATISTICS, {**CYCLIC, "rounds": 2, "select": "best"}, sites=("A", "B", "C"))
    unbroken = go(Hospitals(), config, "unbroken")
    with pytest.raises(Stop):
        go(hospitals, config, stop_after=5)  # after the first round
    hospitals.faults["C", wire.TRAIN] = InputError("bad")
    with pytest.raises(WorkError, match=r"round 2: the model must go through 3 of 3 sites; at fault: C \(bad-input\)"):
        go(hospitals, config)
    del hospitals.faults["C", wire.TRAIN]
    before = len(hospitals.asked)
    ledger = go(hospitals, config)
    again = hospitals.asked[before:]
    assert [(what, site) for what, site, *_ in again] == [("train", "C"), *[("evaluate", site) for site in "ABC"]]
    assert levels(ledger, "m") == levels(unbroken, "m") == {"m": 12.0}


def test_a_cyclic_round_passes_over_a_site_if_the_quorum_allows(go):
    hospitals = Hospitals()
    hospitals.faults["B", wire.TRAIN] = InputError("Secret^Name")
    config = experiment(STATISTICS, CYCLIC, sites=("A", "B", "C"), quorum=2)
    ledger = go(hospitals, config)
    assert levels(ledger, "m") == {"m": 12.0}
    assert [line["dropped"] for line in ledger.find("round")] == [{"B": "bad-input"}] * 3
    hospitals.faults["A", wire.TRAIN] = InputError("bad")
    with pytest.raises(WorkError, match=r"through 2 of 3 sites; at fault: A \(bad-input\), B \(bad-input\)"):
        go(hospitals, config, "two")


def test_who_was_passed_over_before_the_run_was_stopped_stays_so(go):
    """A failed and B went on without it; A, well again, would make B's work useless."""
    hospitals = Hospitals()
    config = experiment(STATISTICS, {**CYCLIC, "rounds": 1}, sites=("A", "B", "C"), quorum=2)
    for site in "AC":
        hospitals.faults[site, wire.TRAIN] = InputError("bad")
    with pytest.raises(WorkError, match=r"at fault: A \(bad-input\), C \(bad-input\)"):
        go(hospitals, config)
    hospitals.faults.clear()
    ledger = go(hospitals, config)
    assert [site for site, *_ in trainings(hospitals)] == ["B", "C"]
    assert ledger.find("round")[0]["dropped"] == {"A": "passed-over"}
    assert levels(ledger, "m") == {"m": 5.0}


def test_of_cyclic_rounds_the_best_is_by_what_all_sites_measured_of_their_result(go):
    scores = {0.0: 0.1, 3.0: 0.7, 6.0: 0.9, 9.0: 0.2}  # a level on the way has none
    hospitals = Hospitals(lambda part, at: scores[at])
    ledger = go(hospitals, experiment(STATISTICS, {**CYCLIC, "select": "best"}))
    (line,) = ledger.find("model")
    assert (line["round"], line["validation_dsc"]) == (2, pytest.approx(0.9))
    told = [[site["validation_dsc"] for site in line["sites"].values()] for line in ledger.find("round")]
    assert told == [[None, None], [0.7, 0.7], [0.9, 0.9]]


def test_the_matrix_holds_every_model_at_every_site(go):
    hospitals = Hospitals(lambda part, at: at / 10)
    ledger = go(hospitals, experiment())
    (line,) = ledger.find("evaluation")
    assert list(line["matrix"]) == ["m", "own-A", "own-B", "tuned-B"]
    for model, row in line["matrix"].items():
        assert list(row) == ["A", "B"]
        dsc = pytest.approx(level(ledger.load_model(model)) / 10, abs=1e-3)
        for told in row.values():
            assert (told["n"], told["num_undefined"], told["num_empty"]) == (4, 1, 1)
            assert (told["metrics"]["dsc"]["mean"], told["metrics"]["dsc"]["median"]) == (dsc, dsc)
    assert [(site, task.pairs) for site, task in hospitals.compared] == [
        (site, (("m", "own-A"), ("m", "own-B"), ("m", "tuned-B"))) for site in "AB"
    ]
    asked = [task.models for task in hospitals.tasks if isinstance(task, EvaluateTask) and task.part == "test"]
    assert asked == [("m", "own-A")] * 2 + [("own-B", "tuned-B")] * 2
    common = {"model": "m", "case": 1, "dsc": 0.5}
    assert line["pictures"] == [{"file": f"pictures/{site}-1.png", "site": site, **common} for site in "AB"]
    assert (ledger.folder / "pictures" / "B-1.png").read_bytes() == picture("B m").png


def test_a_value_that_cannot_be_is_told_with_its_site_and_leaves_no_line(go, folder):
    hospitals = Hospitals()
    hospitals.score = lambda part, at: 1.5 if part == "test" else 0.5
    config = experiment(STATISTICS, TRAIN, {"kind": "evaluate", "models": ("m",)})
    with pytest.raises(WorkError) as caught:
        go(hospitals, config)
    expected = "site A: m: mean of dsc is 1.5; expected 0 to 1; let it run the coordinator's release"
    assert str(caught.value) == expected
    assert Ledger(folder, config).find("evaluation") == []
    hospitals.score = lambda part, at: 0.5
    assert go(hospitals, config).find("end")


def test_validation_scores_are_held_to_the_same(go):
    hospitals = Hospitals()
    told = {"dsc": MetricSummary(mean=-0.5, sd=None)}
    result = EvaluateResult(summaries={"m": ModelSummary(n=4, num_undefined=0, metrics=told)}, seconds=0.0)
    hospitals.faults["B", wire.EVALUATE] = lambda: wire.evaluate_reply(result, [])
    with pytest.raises(WorkError, match=r"site B: m: mean of dsc is -0\.5; expected 0 to 1"):
        go(hospitals, experiment(STATISTICS, {**TRAIN, "select": "best"}))


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ([picture("1"), Picture(b"<svg onload=alert(1)>", 0.5)], r"picture 2 begins with b'<svg onl'; expected a PNG"),
        ([picture("1", 1.01)], r"picture 1 has a DSC of 1\.01; expected 0 to 1"),
    ],
)
def test_a_picture_that_is_none_is_told_with_its_site_and_nothing_is_kept(go, folder, sent, why):
    hospitals = Hospitals()
    told = EvaluateResult(summaries={"m": hospitals.summary("test", START)}, seconds=0.0)
    hospitals.faults["B", wire.EVALUATE] = lambda: wire.evaluate_reply(told, sent)
    step = {"kind": "evaluate", "models": ("m",), "pictures": 2}
    with pytest.raises(WorkError, match=f"^site B: {why}; let it run the coordinator's release$"):
        go(hospitals, experiment(STATISTICS, TRAIN, step))
    assert not (folder / "pictures").exists()


def test_pictures_that_are_no_list_are_told_with_their_site(go):
    hospitals = Hospitals()
    told = EvaluateResult(summaries={"m": hospitals.summary("test", START)}, seconds=0.0)

    def broken():
        content = wire.evaluate_reply(told, [])
        content.config_records[wire.RESULT][wire.PICTURES] = "picture"
        return content

    hospitals.faults["B", wire.EVALUATE] = broken
    with pytest.raises(WorkError, match=r"^site B: reply: pictures are no list of files"):
        go(hospitals, experiment(STATISTICS, TRAIN, {"kind": "evaluate", "models": ("m",), "pictures": 1}))


def test_more_pictures_than_asked_are_not_kept(go):
    hospitals = Hospitals()
    told = EvaluateResult(summaries={"m": hospitals.summary("test", START)}, seconds=0.0)
    hospitals.faults["A", wire.EVALUATE] = lambda: wire.evaluate_reply(
        told, [picture("1"), picture("2"), Picture(b"no PNG", 9.0)]
    )
    step = {"kind": "evaluate", "models": ("m",), "sites": ("A",), "pictures": 2}
    (line,) = go(hospitals, experiment(STATISTICS, TRAIN, step)).find("evaluation")
    assert [told["file"] for told in line["pictures"]] == ["pictures/A-1.png", "pictures/A-2.png"]


def test_what_a_site_withholds_is_null(go):
    hospitals = Hospitals()
    hospitals.withheld["B"] = "2 cases, fewer than the site's min_cases 3"
    ledger = go(hospitals, experiment(STATISTICS, TRAIN, {"kind": "evaluate", "models": ("m",)}))
    (line,) = ledger.find("evaluation")
    withheld = {"n": None, "num_undefined": None, "metrics": {}, "withheld": hospitals.withheld["B"]}
    assert line["matrix"]["m"]["B"] == withheld
    assert line["matrix"]["m"]["A"]["n"] == 4
    assert read_run(ledger.folder).evaluations[0].matrix["m"]["B"].withheld == hospitals.withheld["B"]


TWO = (STATISTICS, TRAIN, {"kind": "local", "model": "own", "sites": ("A",)})
COMPARED = {"kind": "evaluate", "models": ("m", "own")}


@pytest.mark.parametrize("transport", ["fp32", "fp16"])
def test_models_are_compared_by_what_came_to_the_sites(go, transport):
    """Scripted sites keep results by the digest of what they received: another one would be a KeyError."""
    hospitals = Hospitals()
    (line,) = go(hospitals, experiment(*TWO, COMPARED, transport=transport)).find("evaluation")
    told = {each["site"]: each for each in line["comparisons"] if each["metric"] == "dsc"}
    assert (told["A"]["first"], told["A"]["second"], told["A"]["n"]) == ("m", "own-A", 3)
    assert (told["A"]["difference"], told["B"]["difference"]) == pytest.approx((0.01, 0.02))
    assert (told[None]["n"], told[None]["difference"]) == (6, pytest.approx(0.015))
    assert told[None]["t_p"] == told[None]["holm_p"]
    assert len(line["comparisons"]) == 5 * 3


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (NoResultsError("case A-0001 of Mustermann"), "no-results"),
        (PolicyError.of("policy-hours", "07:00-18:00"), "policy-hours"),
        (lambda: wire.compare_reply(CompareResult(rows={}, pairs=(), seconds=0.0)), "other-result"),
    ],
)
def test_a_site_that_does_not_compare_is_named_and_what_it_measured_stays(go, fault, why):
    hospitals = Hospitals()
    hospitals.faults["B", wire.COMPARE] = fault
    ledger = go(hospitals, experiment(*TWO, COMPARED))
    (line,) = ledger.find("evaluation")
    assert line["matrix"]["m"]["B"] == {"n": 4, "num_undefined": 1, "metrics": {"dsc": {"mean": 0.5, "sd": None}}}
    told = {each["site"]: each for each in line["comparisons"] if each["metric"] == "dsc"}
    assert (told["B"]["withheld"], told["B"]["difference"]) == (why, None)
    assert (told[None]["sites"], told[None]["n"]) == (["A"], 3)
    assert "Mustermann" not in (ledger.folder / "ledger.jsonl").read_text()


def test_a_run_that_dies_before_comparing_asks_again_and_ends_alike(go, monkeypatch):
    whole = go(Hospitals(), experiment(*TWO, COMPARED), "whole")
    with monkeypatch.context() as patched:
        patched.setattr("server.evaluation.compare", lambda *_: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            go(Hospitals(), experiment(*TWO, COMPARED), "broken")
    resumed = go(Hospitals(), experiment(*TWO, COMPARED), "broken")
    (one,), (two,) = resumed.find("evaluation"), whole.find("evaluation")
    assert (one["matrix"], one["comparisons"]) == (two["matrix"], two["comparisons"])


def test_only_measured_models_are_compared():
    with pytest.raises(ValueError, match="step 4 compares model 'own-B', which it does not measure; add it"):
        experiment(*TWO, {**COMPARED, "compare": (("own-B", "m"),)})
    with pytest.raises(ValueError, match="'m' with itself"):
        experiment(*TWO, {**COMPARED, "compare": (("m", "m"),)})


def test_a_name_stands_for_its_steps_models_or_for_itself():
    config = experiment(
        STATISTICS,
        {**TRAIN, "model": "own-C"},
        {"kind": "local", "model": "own"},
        {"kind": "finetune", "model": "own-C-t", "initial": "own-A", "sites": ("B",)},
    )
    names = {"own-C": ("own-C",), "own": ("own-A", "own-B"), "own-A": ("own-A",), "own-C-t": ("own-C-t-B",)}
    for name, models in {**names, "own-C-t-B": ("own-C-t-B",)}.items():
        assert config.named(name) == models


def test_a_step_cannot_start_from_a_name_of_several_models():
    with pytest.raises(ValueError, match="starts from 'own', which is one model a site; name one, such as 'own-A'"):
        experiment(STATISTICS, {"kind": "local", "model": "own"}, {**TRAIN, "initial": "own"})


def final(ledger):
    models = [line["model"] for line in ledger.find("model")]
    return {model: {name: array.tobytes() for name, array in ledger.load_model(model).items()} for model in models}


TIMES = ("time", "seconds", "answered_s")


def told(ledger, kind):
    """What the last line of each kind, step, model and round says, but for times."""
    lines = {(line.get("step"), line.get("model"), line.get("round")): line for line in ledger.find(kind)}
    return {key: {k: v for k, v in line.items() if k not in TIMES} for key, line in lines.items()}


def test_a_run_stopped_after_any_line_ends_as_an_unbroken_one(go):
    best = {"kind": "local", "model": "own", "rounds": 2, "select": "best"}
    config = experiment(STATISTICS, {**TRAIN, "rounds": 2}, best, {"kind": "evaluate", "models": ("m", "own")})

    def hospitals():
        return Hospitals(lambda part, at: 1 / (1 + abs(at - 2)) if part == "validation" else at / 10)

    whole = go(hospitals(), config, "whole")
    for stop_after in range(1, len(whole.records)):
        with pytest.raises(Stop):
            go(hospitals(), config, f"run-{stop_after}", stop_after)
        again = go(hospitals(), config, f"run-{stop_after}")
        assert final(again) == final(whole)
        for kind in ("statistics", "round", "model", "evaluation"):
            assert told(again, kind) == told(whole, kind)


def test_a_run_stopped_again_and_again_gets_there(go):
    whole = go(Hospitals(), experiment(), "whole")
    ledger = None
    while ledger is None:
        with contextlib.suppress(Stop):
            ledger = go(Hospitals(), experiment(), stop_after=5)
    assert final(ledger) == final(whole)


def test_only_what_is_missing_is_asked_again(go):
    config = experiment(STATISTICS, TRAIN)
    with pytest.raises(Stop):
        go(Hospitals(), config, stop_after=3 + 1 + 2)  # statistics; step; two rounds
    hospitals = Hospitals()
    go(hospitals, config)
    assert hospitals.asked == [("train", site, "m", 3, pytest.approx(10 / 3, abs=1e-2)) for site in "AB"]


def test_a_finished_run_asks_nobody_and_its_ledger_stays(go, folder):
    records = go(Hospitals(), experiment()).records
    hospitals = Hospitals()
    assert go(hospitals, experiment()).records == records
    assert hospitals.asked == []
    assert Ledger(folder, experiment()).records == records


def test_a_finished_run_waits_for_no_site(go, folder):
    config = experiment(STATISTICS)
    go(Hospitals(), config)
    run_experiment(config, Ledger(folder, config), Sites(None, {}, config.rounds))


STRATEGIES = {
    "fedavg": {},
    "fedadam": {"eta": 0.5},
    "fedyogi": {"eta": 0.5},
    "fedavgm": {"server_momentum": 0.9},
    "fedavgm without momentum": {"server_learning_rate": 0.5},
    "median": {},
    "krum": {},
}


def training_with(strategy, **config):
    step = {**TRAIN, "strategy": strategy.split()[0], "strategy_options": STRATEGIES[strategy]}
    return experiment(STATISTICS, step, sites=("A", "B", "C"), **config)


def round_files(ledger):
    """Bytes of the weights and the strategy's state after every round."""
    return {path.name: path.read_bytes() for path in (ledger.folder / "rounds" / "m").iterdir()}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("rounds_done", [1, 2])
def test_a_strategy_goes_on_with_what_it_kept(go, strategy, rounds_done):
    """Its moments lie beside the round's weights, so no round is done again, and not a bit is another."""
    config = training_with(strategy, keep_rounds="all")
    unbroken = Hospitals()
    whole = go(unbroken, config, "whole")
    with pytest.raises(Stop):
        go(Hospitals(), config, stop_after=len(whole.records) - 3 - (3 - rounds_done))  # before: model, done, end
    hospitals = Hospitals()
    again = go(hospitals, config)
    assert [asked[3] for asked in hospitals.asked] == [n for n in range(rounds_done + 1, 4) for _ in "ABC"]
    assert hospitals.asked == unbroken.asked[3 + 3 * rounds_done :]
    assert round_files(again) == round_files(whole)
    assert final(again) == final(whole)
    assert told(again, "round") == told(whole, "round")
    assert [line["round"] for line in again.find("round")] == [1, 2, 3]
    assert len(read_run(again.folder).rounds) == 3


def test_a_strategy_with_a_memory_is_not_started_again_once_its_step_is_done(go):
    config = experiment(STATISTICS, {**TRAIN, "strategy": "fedadam"}, {"kind": "local", "model": "own"})
    with pytest.raises(Stop):
        go(Hospitals(), config, stop_after=3 + 1 + 3 + 2 + 1)  # up to the second step's `done`, and the third's begin
    hospitals = Hospitals()
    go(hospitals, config)
    assert {asked[2] for asked in hospitals.asked} == {"own-A", "own-B"}


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [cut_short, Path.unlink], ids=["cut short", "lost"])
@pytest.mark.parametrize("ending", [".safetensors", ".state.safetensors"])
@pytest.mark.parametrize("in_spool", [True, False], ids=["replies there", "replies gone"])
def test_a_round_whose_file_is_not_whole_is_done_again_from_the_one_before(go, folder, harm, ending, in_spool):
    config = training_with("fedadam")
    whole = go(Hospitals(), config, "whole")
    with pytest.raises(Stop):
        go(Hospitals(), config, stop_after=len(whole.records) - 4)  # two rounds of three
    harm(Ledger(folder, config).round_path("m", 2).with_suffix(ending))
    if not in_spool:
        shutil.rmtree(folder / "spool")
    hospitals = Hospitals()
    again = go(hospitals, config)
    assert [asked[3] for asked in hospitals.asked] == [*([] if in_spool else [2, 2, 2]), 3, 3, 3]
    assert final(again) == final(whole)
    assert round_files(again) == round_files(whole)
    assert told(again, "round") == told(whole, "round")
    (note,) = [line["text"] for line in again.find("note") if "again" in line["text"]]
    assert "round 2 of m is done again" in note
    assert f"round-0002{ending}" in note


def test_a_round_that_one_of_several_models_lacks_is_done_again_by_all(go, folder):
    """B's first round is lost: A begins anew too, from what the step started from and not from its own first round."""
    config = experiment(STATISTICS, {"kind": "local", "model": "own", "rounds": 2})
    whole = go(Hospitals(), config, "whole")
    with pytest.raises(Stop):
        go(Hospitals(), config, stop_after=3 + 1 + 2)
    cut_short(Ledger(folder, config).round_path("own-B", 1))
    assert final(go(Hospitals(), config)) == final(whole)


def test_a_site_whose_round_another_site_spoilt_need_not_do_it_again(go):
    """Each trains a model of its own; A's reply is kept although B's round failed."""
    config = experiment(STATISTICS, {"kind": "local", "model": "own"})
    whole = go(Hospitals(), config, "whole")
    hospitals = Hospitals()
    hospitals.faults["B", wire.TRAIN] = InputError("bad")
    with pytest.raises(WorkError, match=r"B \(bad-input\)"):
        go(hospitals, config)
    again = Hospitals()
    assert final(go(again, config)) == final(whole)
    assert [asked[:2] for asked in again.asked] == [("train", "B")]


def test_replies_that_are_in_are_not_asked_for_again(go, monkeypatch):
    """The coordinator dies between the first reply and the second, and then between the last and the round's line."""
    config = experiment(STATISTICS, {**TRAIN, "rounds": 1})
    whole = go(Hospitals(), config, "whole")
    put = Spool.put

    def dies(spool, site, *rest):
        put(spool, site, *rest)
        raise Stop

    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "put", dies)
        for _ in "AB":
            hospitals = Hospitals()
            with pytest.raises(Stop):
                go(hospitals, config)
            asked.append([told[1] for told in hospitals.asked if told[0] == "train"])
    hospitals = Hospitals()
    ledger = go(hospitals, config)
    assert hospitals.asked == []
    assert asked[1] == ["B"]
    assert final(ledger) == final(whole)
    assert list((ledger.folder / "spool").iterdir()) == []


@pytest.mark.parametrize(("keep_rounds", "kept"), [("last", [2, 4, 5]), ("all", [1, 2, 3, 4, 5])])
def test_the_last_two_rounds_and_the_best_are_kept(go, keep_rounds, kept):
    """Two levels on from the start the DSC is best: that is after the second round."""
    score = {0.0: 0.1, 1.0: 0.3, 2.0: 0.9, 3.0: 0.5, 4.0: 0.4, 5.0: 0.2}
    step = {**TRAIN, "rounds": 5, "select": "best", "strategy": "fedadam", "strategy_options": {"eta": 1.0}}
    for strategy in ({}, {"strategy": "fedavg", "strategy_options": {}}):
        config = experiment(STATISTICS, {**step, **strategy}, sites=("A",), keep_rounds=keep_rounds)
        hospitals = Hospitals(lambda part, at: score.get(at, 0.0))
        ledger = go(hospitals, config, f"run-{len(strategy)}")
        rounds = sorted(name for name in round_files(ledger) if ".state." not in name)
        states = sorted(name for name in round_files(ledger) if ".state." in name)
        if strategy:
            assert rounds == [f"round-{number:04d}.safetensors" for number in kept]
            assert states == []
            assert ledger.find("model")[0]["round"] == 2
        else:
            assert states == [name.replace(".safe", ".state.safe") for name in rounds]


def test_a_rule_that_means_nothing_is_told_once(go):
    config = training_with("krum")
    with pytest.raises(Stop):
        go(Hospitals(), config, stop_after=4)
    ledger = go(Hospitals(), config)
    assert cautions(config) == [line["text"] for line in ledger.find("note")]
    assert len(cautions(config)) == 1
    assert cautions(training_with("fedavg")) == []


def test_a_rule_is_judged_by_the_sites_that_a_round_may_close_with():
    many = tuple(f"S{number}" for number in range(9))
    train = {**TRAIN, "strategy": "krum", "strategy_options": {}}
    assert cautions(experiment(STATISTICS, train, sites=many)) == []
    (sentence,) = cautions(experiment(STATISTICS, train, sites=many, quorum=4))
    assert "a round may close with 4" in sentence


def test_a_full_disk_ends_the_run_and_keeps_the_last_round_and_the_replies(go, monkeypatch):
    config = experiment(STATISTICS, TRAIN)
    whole = go(Hospitals(), config, "whole")
    save_round = Ledger.save_round

    def full(ledger, model, number, *rest):
        if number == 2:
            raise OSError(28, "No space left on device")
        save_round(ledger, model, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "save_round", full)
        with pytest.raises(OSError, match="No space") as caught:
            go(Hospitals(), config)
    assert isinstance(explained(caught.value), DiskFullError)
    hospitals = Hospitals()
    assert final(go(hospitals, config)) == final(whole)
    assert [asked[3] for asked in hospitals.asked] == [3, 3]  # the second round's replies lay there


def test_a_straggler_is_let_finish_and_comes_into_the_next_round(go, monkeypatch):
    """B answers the first round when that is over; C fails in the second, which so needs B's answer for its quorum.

    A (1 case) and C (3) add 1 and 3 to 0, which makes 2.5; then A adds 1, and B (2) the 2 that it added to the 0 that
    it was sent.
    """
    over = threading.Event()
    hospitals = Hospitals()
    train, append = hospitals.train, Ledger.append

    def slow(site, message):
        number = wire.read_train_task(message).round
        assert (site, number) != ("B", 1) or over.wait(60)
        return wire.error_reply(InputError("bad")) if (site, number) == ("C", 2) else train(site, message)

    def hear(ledger, record):
        append(ledger, record)
        if record["kind"] == "round":
            over.set()

    hospitals.train = slow
    monkeypatch.setattr(Ledger, "append", hear)
    monkeypatch.setattr(server_sites, "POLL_MAX_S", 0.01)
    waits = {"grace_s": 0.0, "patience": 1.0, "timeout_s": 60.0}
    config = experiment(STATISTICS, {**TRAIN, "rounds": 2}, sites=("A", "B", "C"), quorum=2, stragglers="next", **waits)
    ledger = go(hospitals, config, num_workers=3)
    first, second = ledger.find("round")
    assert (list(first["sites"]), first["dropped"]) == (["A", "C"], {"B": "no-answer"})
    assert (list(second["sites"]), second["dropped"]) == (["A", "B"], {"C": "bad-input"})
    assert [(line["site"], line["event"], line["why"]) for line in ledger.find("site")] == [("B", "late", "round-1")]
    assert levels(ledger, "m") == pytest.approx({"m": 2.5 + (1 * 1 + 2 * 2) / 3}, abs=1e-3)
    assert [asked[3] for asked in hospitals.asked if asked[:2] == ("train", "B")] == [1]


def test_a_site_that_is_lost_at_an_evaluation_is_a_cell_without_numbers(go):
    hospitals = Hospitals()
    hospitals.faults["B", wire.EVALUATE] = InputError("Secret^Name")
    ledger = go(hospitals, experiment(STATISTICS, TRAIN, {"kind": "evaluate", "models": ("m",)}, quorum=1))
    (line,) = ledger.find("evaluation")
    assert line["matrix"]["m"]["A"]["n"] == 4
    assert line["matrix"]["m"]["B"] == {"n": None, "num_undefined": None, "metrics": {}, "withheld": NO_ANSWER}
    assert read_run(ledger.folder).evaluations[0].matrix["m"]["B"].withheld == NO_ANSWER


def test_weights_travel_in_fp16_and_rest_in_fp32(go):
    ledger = go(Hospitals(), experiment(STATISTICS, TRAIN, transport="fp16"))
    model = ledger.load_model("m")
    assert {str(array.dtype) for array in model.values()} == {"float32"}
    assert level(model) == pytest.approx(5.0, abs=0.02)


def test_a_line_taken_out_of_the_ledger_costs_no_round_whose_file_is_whole(go, folder):
    """As the error over a broken line advises; the last two rounds' files are there, as by default."""
    config = experiment(STATISTICS, {**TRAIN, "rounds": 5})
    whole = go(Hospitals(), config, "whole")
    with pytest.raises(Stop):
        go(Hospitals(), config, stop_after=len(whole.records) - 4)  # four rounds of five
    path = folder / "ledger.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if b'"round": 2' not in line))
    hospitals = Hospitals()
    again = go(hospitals, config)
    assert {asked[3] for asked in hospitals.asked} == {5}
    assert final(again) == final(whole)


PLAIN = Recipe(stage1=StageConfig(network=RECIPE.stage1.network, patch_size=(4, 4, 4)), stage2=None)


def test_each_model_is_trained_and_measured_by_its_own_recipe(go):
    """Models of one recipe travel together; `models_per_message` would let all three."""
    steps = (
        STATISTICS,
        TRAIN,
        {"kind": "train", "model": "plain", "recipe": "plain"},
        {"kind": "finetune", "model": "tuned", "initial": "plain", "sites": ["A"]},
        {"kind": "evaluate", "models": ["m", "plain", "tuned"], "models_per_message": 7, "sites": ["A"]},
    )
    config = Experiment(name="tiny", seed=5, sites=("A", "B"), recipe=RECIPE, recipes={"plain": PLAIN}, steps=steps)
    hospitals = Hospitals()
    ledger = go(hospitals, config)
    trained = {task.model: task.recipe for task in hospitals.tasks if isinstance(task, TrainTask)}
    assert trained == {"m": RECIPE, "plain": PLAIN, "tuned-A": PLAIN}
    measured = [(task.models, task.recipe) for task in hospitals.tasks if isinstance(task, EvaluateTask)]
    assert measured == [(("m",), RECIPE), (("plain", "tuned-A"), PLAIN)]
    assert list(ledger.find("evaluation")[0]["matrix"]) == ["m", "plain", "tuned-A"]
    _, metadata = load_weights(ledger.model_path("tuned-A"))
    assert Recipe.model_validate_json(metadata["recipe"]) == PLAIN


FOLDED = (
    STATISTICS,
    {**TRAIN, "rounds": 2, "folds": True},
    {"kind": "finetune", "model": "tuned", "initial": "m", "sites": ("B",)},
    {"kind": "evaluate", "models": ("m", "tuned")},
)


def folded(*steps):
    split = SplitConfig(folds=2)
    return Experiment(name="tiny", seed=5, sites=("A", "B"), recipe=RECIPE, split=split, steps=steps or FOLDED)


class FoldedHospitals(Hospitals):
    """In fold 1 the body is at 10 and 20 HU, in fold 2 at 10 and 40, in the plain split at 10 and 30."""

    def statistics(self, site, message):
        task, _ = wire.read_task(message, StatisticsTask)
        self.asked.append(("statistics", site, task.split.fold, None, None))
        told = SiteStatistics(train=self.number(site), validation=1, test=1, seconds=0.0)
        return wire.statistics_reply(told, HuHistogram.from_values([10, (30, 20, 40)[task.split.fold]]).to_array())


def test_a_step_goes_through_its_folds_each_with_its_own_statistics(go):
    hospitals = FoldedHospitals()
    ledger = go(hospitals, folded())
    assert [fold for what, site, fold, *_ in hospitals.asked if (what, site) == ("statistics", "A")] == [0, 1, 2]
    tasks = [task for task in hospitals.tasks if isinstance(task, TrainTask)]
    assert {(task.model, task.split.fold, task.normalisation.mean) for task in tasks} == {
        ("m.fold-1", 1, 15.0),
        ("m.fold-2", 2, 25.0),
        ("tuned-B.fold-1", 1, 15.0),
        ("tuned-B.fold-2", 2, 25.0),
    }
    expected = {"m.fold-1": 10 / 3, "m.fold-2": 10 / 3, "tuned-B.fold-1": 16 / 3, "tuned-B.fold-2": 16 / 3}
    assert levels(ledger, *expected) == pytest.approx(expected, abs=1e-2)


def test_each_fold_s_model_is_measured_on_its_own_cases_and_a_row_is_over_all(go):
    hospitals = FoldedHospitals()
    ledger = go(hospitals, folded())
    asked = {(task.models, task.split.fold) for task in hospitals.tasks if isinstance(task, EvaluateTask)}
    assert asked == {((f"{model}.fold-{fold}",), fold) for model in ("m", "tuned-B") for fold in (1, 2)}
    (line,) = ledger.find("evaluation")
    assert list(line["matrix"]) == ["m", "tuned-B"]
    assert line["matrix"]["m"]["A"]["n"] == 8
    assert line["folds"]["m.fold-2"]["A"]["n"] == 4
    assert (line["matrix"]["m"]["A"]["num_empty"], line["comparisons"][0]["second"]) == (2, "tuned-B")
    (_, compared) = hospitals.compared[0]
    assert [fold for _, fold in compared.rows["m"]] == [1, 2]
    assert len({digest for row in compared.rows.values() for digest, _ in row}) == 4
    card = read_card(load_weights(ledger.model_path("tuned-B.fold-2"))[1], "file")
    assert (card.initial, card.origin) == ("m.fold-2", "m, fine-tuned at B; fold 2 of 2")
    assert [(result.site, result.num_cases) for result in card.results] == [("A", 4), ("B", 4)]


def test_a_fold_that_is_finished_is_not_trained_again(go):
    """Line 8 is fold 2's first round: step, statistics, done, step, two rounds, model."""
    hospitals = FoldedHospitals()
    with pytest.raises(Stop):
        go(hospitals, folded(*FOLDED[:2]), stop_after=8)
    ledger = go(hospitals, folded(*FOLDED[:2]))
    trained = [(model, number) for what, site, model, number, _ in hospitals.asked if (what, site) == ("train", "A")]
    assert trained == [("m.fold-1", 1), ("m.fold-1", 2), ("m.fold-2", 1), ("m.fold-2", 2)]
    assert [line["model"] for line in ledger.find("model")] == ["m.fold-1", "m.fold-2"]


def test_rounds_of_different_folds_do_not_run_at_the_same_time(go):
    record = read_run(go(FoldedHospitals(), folded()).folder)
    assert [len(each) for each in concurrent_rounds(record.rounds_of(1))] == [1, 1, 1, 1]


class TellingHospitals(Hospitals):
    """They tell the digest of their cases."""

    def statistics(self, site, message):
        self.asked.append(("statistics", site, None, None, None))
        told = SiteStatistics(train=self.number(site), validation=1, test=1, digest=site.lower() * 32, seconds=0.0)
        return wire.statistics_reply(told, HuHistogram.from_values([-10, 30]).to_array())


def test_the_same_training_is_done_once_in_a_run(go):
    hospitals = TellingHospitals()
    local = {"kind": "local", "model": "own", "rounds": 2}
    alone = {"kind": "train", "model": "alone", "rounds": 2}
    tuned = {"kind": "finetune", "model": "tuned", "initial": "alone"}
    again = {"kind": "finetune", "model": "again", "initial": "own-A"}
    ledger = go(hospitals, experiment(STATISTICS, local, alone, tuned, again, sites=("A",)))
    trained = [model for what, _, model, *_ in hospitals.asked if what == "train"]
    assert trained == ["own-A", "own-A", "tuned-A"]
    told = [(line["model"], line["reused"], line["round"]) for line in ledger.find("model")]
    assert told == [("own-A", None, 2), ("alone", "own-A", 2), ("tuned-A", None, 1), ("again-A", "tuned-A", 1)]
    assert levels(ledger, "alone", "again-A") == {"alone": 2.0, "again-A": 3.0}
    assert load_weights(ledger.model_path("alone"))[1]["model"] == "alone"


DRAW = {"kind": "pictures", "models": ("m",), "what": ("planes",), "cases": ("best", "worst")}


def drawing_hospitals(file=PNG_SIGNATURE):
    """A draws what it is asked for, B lets nothing go."""
    hospitals = Hospitals()

    def draw(site, message):
        task, _ = wire.read_task(message, PictureTask)
        assert set(wire.read_models(message)) == set(task.models) == {"m"}
        hospitals.asked.append(("draw", site, None, None, None))
        if site == "B":
            return wire.drawings_reply(PictureResult(n=4, withheld="the policy", seconds=0.0), [])
        told = tuple(Drawing(what="planes", rank=rank, case=2, dsc={"m": 0.5}) for rank in task.cases)
        return wire.drawings_reply(PictureResult(n=4, drawings=told, seconds=0.0), [file] * len(told))

    hospitals.draw = draw
    return hospitals


def test_pictures_are_kept_described_and_shown_and_who_sends_none_is_named(go, folder):
    hospitals = drawing_hospitals()
    ledger = go(hospitals, experiment(STATISTICS, TRAIN, DRAW))
    (line,) = ledger.find("pictures")
    common = {"site": "A", "what": "planes", "models": ["m"], "case": 2, "dsc": {"m": 0.5}}
    assert line["pictures"] == [
        {"file": f"pictures/A-step3-planes-{rank}.png", "rank": rank, **common} for rank in ("best", "worst")
    ]
    assert line["withheld"] == {"B": "the policy"}
    record = read_run(folder)
    shown = figures(record)
    assert [caption.split(":")[0] for caption, _ in shown] == [
        "A, test case 2, the best by m", "A, test case 2, the worst by m"
    ]  # fmt: skip
    assert all(uri.startswith("data:image/png;base64,") for _, uri in shown)
    assert figures_withheld(record) == ["No pictures of B: the policy."]
    go(again := drawing_hospitals(), experiment(STATISTICS, TRAIN, DRAW))
    assert again.asked == []


def test_a_drawing_that_is_no_png_is_refused_with_its_site(go):
    with pytest.raises(WorkError, match=r"^site A: picture planes of the best case begins with b'GIF'"):
        go(drawing_hospitals(b"GIF"), experiment(STATISTICS, TRAIN, DRAW))


def test_each_model_is_drawn_by_its_own_recipe(go):
    steps = (
        STATISTICS,
        {"kind": "train", "model": "plain", "recipe": "plain"},
        TRAIN,
        {"kind": "finetune", "model": "tuned", "initial": "plain", "sites": ["A"]},
        {**DRAW, "models": ("tuned", "plain", "m")},
    )
    config = Experiment(name="tiny", seed=5, sites=("A", "B"), recipe=RECIPE, recipes={"plain": PLAIN}, steps=steps)
    hospitals, tasks = Hospitals(), []

    def none(site, message):
        tasks.append(wire.read_task(message, PictureTask)[0])
        return wire.drawings_reply(PictureResult(n=4, withheld="the policy", seconds=0.0), [])

    hospitals.draw = none
    go(hospitals, config)
    assert [task.models for task in tasks] == [("tuned-A", "plain", "m")] * 2
    assert [tasks[0].of(name).recipe for name in tasks[0].models] == [PLAIN, PLAIN, RECIPE]
    assert set(tasks[0].recipes) == {"m"}


def test_a_fold_is_drawn_by_its_models_on_its_cases_with_its_normalisation(go):
    hospitals, asked = FoldedHospitals(), []

    def none(site, message):
        asked.append((wire.read_task(message, PictureTask)[0], set(wire.read_models(message))))
        return wire.drawings_reply(PictureResult(n=4, withheld="the policy", seconds=0.0), [])

    hospitals.draw = none
    go(hospitals, folded(*FOLDED[:2], {**DRAW, "fold": 2}))
    (task, sent), _ = asked
    assert (task.models, task.split.fold, sent) == (("m.fold-2",), 2, {"m.fold-2"})
    assert task.normalisation.mean == 25.0
