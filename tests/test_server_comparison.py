"""Comparisons over sites: pairs, tests over all cases, Holm, what is missing, and replies that cannot be."""

import numpy as np
import pytest
from scipy import stats

from common.paired_tests import holm, signed_ranks
from common.recipe import Recipe
from common.split import SplitConfig
from common.steps import EvaluateStep
from common.tasks import CompareResult, CompareTask, MetricDifference, MetricSpread, PairDifference, RowSpread
from server.comparison import Compared, comparison_lines, fill, pairs_of
from server.comparison_reply import refuse_comparison
from server.metric import METRIC

DIGEST = "0" * 64
PAIRS = [("m", "k"), ("m", "l")]
RANDOM = np.random.default_rng(4)
DIFFERENCES = {
    site: {pair: RANDOM.normal(0.02, 0.05, n) for pair in PAIRS} for site, n in (("A", 7), ("B", 4), ("C", 12))
}


def difference(values):
    ranks = signed_ranks(values)
    return MetricDifference(
        n=len(values), difference=float(np.mean(values)), sd=float(np.std(values, ddof=1)),
        ranks=ranks.ranks, squares=ranks.squares, wilcoxon_p=ranks.p,
    )  # fmt: skip


def spread(n, mean=0.5):
    return MetricSpread(n=n, mean=mean, sd=0.1, median=mean, low=mean - 0.1, high=mean + 0.1)


def answer(site, dsc=difference):
    n = len(DIFFERENCES[site][PAIRS[0]])
    rows = {
        name: RowSpread(n=n, num_undefined=0, num_empty=1, metrics=dict.fromkeys(METRIC, spread(n, mean)))
        for name, mean in (("m", 0.5), ("k", 0.4), ("l", 0.3))
    }
    pairs = tuple(
        PairDifference(first=pair[0], second=pair[1], metrics=dict.fromkeys(METRIC, dsc(DIFFERENCES[site][pair])))
        for pair in PAIRS
    )
    return CompareResult(rows=rows, pairs=pairs, seconds=0.0)


@pytest.fixture
def lines():
    compared = Compared({site: answer(site) for site in "AB"}, {"C": "policy-task"})
    return comparison_lines(compared, PAIRS, ["A", "B", "C"])


def of(lines, site, pair=PAIRS[0], metric="dsc"):
    key = (*pair, site, metric)
    (found,) = [line for line in lines if (line["first"], line["second"], line["site"], line["metric"]) == key]
    return found


def test_the_test_over_sites_is_scipys_on_all_cases(lines):
    for pair in PAIRS:
        whole = np.concatenate([DIFFERENCES[site][pair] for site in "AB"])
        line, scipys = of(lines, None, pair), stats.ttest_1samp(whole, 0)
        assert (line["n"], line["sites"], line["withheld"]) == (11, ["A", "B"], None)
        assert (line["t"], line["t_p"]) == pytest.approx((scipys.statistic, scipys.pvalue), rel=1e-11)
        assert (line["low"], line["high"]) == pytest.approx(tuple(scipys.confidence_interval(0.95)), rel=1e-11)
        assert line["difference"] == pytest.approx(whole.mean())
        alone = DIFFERENCES["A"][pair]
        assert of(lines, "A", pair)["t_p"] == pytest.approx(stats.ttest_1samp(alone, 0).pvalue, rel=1e-11)
        assert of(lines, "A", pair)["wilcoxon_p"] == stats.wilcoxon(alone).pvalue


@pytest.mark.parametrize("site", ["A", "B", None])
def test_holm_corrects_over_the_pairs_of_a_site(lines, site):
    table = [of(lines, site, pair) for pair in PAIRS]
    assert [line["holm_p"] for line in table] == holm([line["t_p"] for line in table])


def test_a_site_that_does_not_tell_is_there_with_its_reason(lines):
    line = of(lines, "C")
    assert (line["withheld"], line["n"], line["difference"], line["t_p"], line["holm_p"]) == (
        "policy-task", None, None, None, None,
    )  # fmt: skip
    few = comparison_lines(Compared({"A": answer("A", lambda values: MetricDifference(n=2))}, {}), PAIRS, ["A"])
    assert of(few, "A")["withheld"] == "too few cases"
    assert of(few, None)["withheld"] == "no site told"
    none = comparison_lines(Compared({"A": answer("A", lambda values: MetricDifference(n=0))}, {}), PAIRS, ["A"])
    assert {of(none, site)["withheld"] for site in ("A", None)} == {"undefined in every case"}


def test_a_cell_takes_what_the_comparison_tells():
    cell = {"n": None, "num_undefined": None, "metrics": {}, "withheld": "why"}
    compared = Compared({"A": answer("A")}, {})
    assert fill(cell, compared, "B", "m") == cell
    filled = fill(cell, compared, "A", "m")
    assert (filled["n"], filled["num_empty"], filled["metrics"]["dsc"]["median"]) == (7, 1, 0.5)
    assert "n" not in filled["metrics"]["dsc"]


def test_what_a_cell_has_of_true_tumours_stays():
    truth = {"dsc": {"mean": 0.9, "sd": 0.1}}
    cell = {"n": 7, "num_undefined": 0, "metrics": {"dsc": {"mean": 0.5, "sd": 0.1}}, "truth_metrics": truth}
    filled = fill(cell, Compared({"A": answer("A")}, {}), "A", "m")
    assert (filled["num_empty"], filled["truth_metrics"]) == (1, truth)


def test_pairs_are_the_first_against_each_other_or_as_named():
    expanded = {"m": ("m",), "own": ("own-A", "own-B"), "tuned": ("tuned-A", "tuned-B")}
    step = {"kind": "evaluate", "models": ("m", "own", "tuned")}
    assert pairs_of(EvaluateStep(**step), expanded) == [
        ("m", name) for name in ("own-A", "own-B", "tuned-A", "tuned-B")
    ]
    named = EvaluateStep(**step, compare=(("tuned", "own"), ("own-A", "m"), ("m", "tuned")))
    assert pairs_of(named, expanded) == [
        ("tuned-A", "own-A"), ("tuned-B", "own-B"), ("own-A", "m"), ("m", "tuned-A"), ("m", "tuned-B"),
    ]  # fmt: skip


TASK = CompareTask(
    experiment="e", recipe=Recipe(), split=SplitConfig(), rows=dict.fromkeys("mkl", ((DIGEST, 0),)),
    pairs=tuple(PAIRS), part="test", metrics=tuple(METRIC),
)  # fmt: skip


def told(row=None, pair=None, metric="dsc"):
    """An answer with differences as the rows' means have them, then one row's or pair's metric changed."""
    n, means = 7, {"m": 0.5, "k": 0.4, "l": 0.3}
    differences = {
        two: MetricDifference(n=n, difference=0.5 - means[two], sd=0.1, ranks=2.0, squares=9.0) for two in "kl"
    }
    rows = {
        name: RowSpread(n=n, num_undefined=0, num_empty=1, metrics=dict.fromkeys(METRIC, spread(n, mean)))
        for name, mean in means.items()
    }
    pairs = [PairDifference(first="m", second=two, metrics=dict.fromkeys(METRIC, differences[two])) for two in "kl"]
    if row:
        rows["m"].metrics[metric] = rows["m"].metrics[metric].model_copy(update=row)
    if pair:
        pairs[0].metrics[metric] = pairs[0].metrics[metric].model_copy(update=pair)
    return CompareResult(rows=rows, pairs=tuple(pairs), seconds=0.0)


def test_an_answer_that_can_be_is_taken():
    assert refuse_comparison(told(), TASK) is None
    assert refuse_comparison(told(row={"median": None, "low": None, "high": None}), TASK) is None
    assert refuse_comparison(told(pair={"n": 2, "difference": None, "sd": None}), TASK) is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (told(row={"mean": 1.2, "high": 1.3}), "mean is 1.2"),
        (told(row={"n": 8}), "expected no more than 7"),
        (told(row={"low": 0.6}), "out of order"),
        (told(row={"q1": 0.6}), "out of order"),
        (told(row={"sd": -0.1}), "sd is -0.1"),
        (told(pair={"difference": 0.2}), "expected that of their means 0.5 and 0.4"),
        (told(pair={"n": 8}), "8 pairs; expected no more than the 7 cases"),
        (told(pair={"n": 6, "difference": 1.1}), "expected what two shares can have"),
        (told(pair={"sd": None}), "expected both"),
        (told(pair={"ranks": 29.0}), "no more than 28"),
        (told().model_copy(update={"pairs": ()}), "other pairs"),
        (told().model_copy(update={"rows": {}}), "other rows"),
    ],
)
def test_an_answer_that_cannot_be_is_refused_with_its_reason(given, why):
    assert why in refuse_comparison(given, TASK)
