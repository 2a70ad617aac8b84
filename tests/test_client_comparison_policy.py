"""What of a comparison leaves a site: by number of cases, and never so that one case can be told by subtraction."""

import pytest

from client.comparison_policy import limit_comparison
from client.policy import Withheld
from common.errors import PolicyError
from common.recipe import Recipe
from common.site_config import PolicyConfig
from common.split import SplitConfig
from common.tasks import CompareResult, CompareTask, MetricDifference, MetricSpread, PairDifference, RowSpread

DIGEST = "0" * 64
TASK = CompareTask(
    experiment="e", recipe=Recipe(), split=SplitConfig(), rows={"a": ((DIGEST, 0),), "b": ((DIGEST, 0),)},
    pairs=(("a", "b"),), part="test", metrics=("assd_mm",),
)  # fmt: skip
NUMBERS = {name: 0.5 for name in MetricSpread.model_fields if name != "n"}
TOLD = {"difference": 0.1, "sd": 0.1, "ranks": 1.0, "squares": 2.0, "wilcoxon_p": 0.5}


def row(n: int, defined: int | None = None, metric: str = "assd_mm") -> RowSpread:
    spread = MetricSpread(n=n if defined is None else defined, **NUMBERS)
    return RowSpread(n=n, num_undefined=n - spread.n, num_empty=0, fewest=n, metrics={metric: spread})


def result(a: RowSpread, b: RowSpread, n: int) -> CompareResult:
    pair = PairDifference(first="a", second="b", metrics={"assd_mm": MetricDifference(n=n, **TOLD)})
    return CompareResult(rows={"a": a, "b": b}, pairs=(pair,), seconds=1.0)


def limited(n: int, pairs: int | None = None, **policy: bool | int) -> CompareResult:
    given = result(row(n), row(n, pairs), n if pairs is None else pairs)
    return limit_comparison(PolicyConfig(**policy), TASK, given, Withheld())


@pytest.mark.parametrize(
    ("n", "told"),
    [
        (2, set()),
        (3, {"mean", "sd"}),
        (5, {"mean", "sd"}),
        (6, {"mean", "sd", "median", "low", "high"}),
        (11, {"mean", "sd", "median", "low", "high"}),
        (12, set(NUMBERS)),
    ],
)
def test_fewer_numbers_are_told_than_there_are_cases(n: int, told: set[str]) -> None:
    spread = limited(n).rows["a"].metrics["assd_mm"]
    found = {name for name in NUMBERS if getattr(spread, name) is not None}
    assert found == told
    assert len(found) < n


def test_who_shares_single_cases_metrics_tells_all_of_few_cases() -> None:
    spread = limited(3, share_case_metrics=True).rows["a"].metrics["assd_mm"]
    assert None not in spread.model_dump().values()
    assert limited(2, share_case_metrics=True).rows["a"].metrics["assd_mm"].mean is None


@pytest.mark.parametrize(
    ("n", "pairs", "told"), [(9, 9, True), (9, 8, False), (9, 7, False), (9, 6, True), (4, 2, False)]
)
def test_a_pair_that_leaves_few_cases_of_a_row_out_is_not_told(n: int, pairs: int, told: bool) -> None:
    """Row a's mean over 9 less what a pair over 8 says of it would be the ninth case's distance."""
    found = limited(n, pairs).pairs[0].metrics["assd_mm"]
    assert (found.n, found.difference is not None) == (pairs, told)
    assert told or found == MetricDifference(n=pairs)


def test_names_that_were_not_asked_for_are_held_back() -> None:
    for odd in (
        result(row(9), row(9), 9).model_copy(update={"rows": {"Mustermann": row(9), "b": row(9)}}),
        result(row(9), row(9), 9).model_copy(update={"pairs": ()}),
        result(row(9), row(9, metric="Mustermann"), 9),
    ):
        with pytest.raises(PolicyError, match="than were asked for"):
            limit_comparison(PolicyConfig(), TASK, odd, Withheld())


def test_what_is_taken_out_is_told_here() -> None:
    told = Withheld()
    limit_comparison(PolicyConfig(), TASK, result(row(2), row(2), 2), told)
    assert told.what == ["spread of 2 cases", "spread of 2 cases", "difference in assd_mm of 2 cases"]


@pytest.mark.parametrize(("fewest", "told"), [(2, False), (3, True)])
def test_a_row_with_a_fold_of_few_cases_is_not_told_nor_its_pairs(fewest: int, told: bool) -> None:
    """Its mean over 14 less those of the other folds, 3 each, which were told, would be that of the fold of 2."""
    whole, words = row(14), Withheld()
    given = result(whole.model_copy(update={"fewest": fewest}), whole, 14)
    found = limit_comparison(PolicyConfig(share_case_metrics=True), TASK, given, words)
    assert (found.rows["a"].n, found.rows["a"].metrics["assd_mm"].mean is not None) == (14, told)
    assert found.rows["b"].metrics["assd_mm"].mean is not None
    assert (found.pairs[0].metrics["assd_mm"].difference is not None) == told
    assert ("spread of 14 cases, a fold of 2" in words.what) != told
