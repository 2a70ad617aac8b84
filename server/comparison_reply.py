"""What the coordinator accepts of a comparison: the rows and pairs that were asked, of values that agree.

A site may leave out numbers of few cases; those that it tells must be such as cases could have.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

from common.tasks import CompareResult, CompareTask, MetricDifference, MetricSpread, PairDifference, RowSpread
from server.metric import METRIC

ROUNDING = 1e-6
MOST_CASES = 1_000_000


def refuse_comparison(result: CompareResult, task: CompareTask) -> str | None:
    """Returns why an answer may not stand in the ledger, or None when it may.

    Checked: exactly the rows, pairs and metrics that were asked; no more undefined or empty cases than cases; values in
    their metric's range and in order; a pair of no more cases than either row, and where it is over all of both, with
    the difference of their means; of Wilcoxon's sums, no more than so many ranks can give.
    """
    if set(result.rows) != set(task.rows):
        return "tells of other rows than were asked for"
    if tuple((pair.first, pair.second) for pair in result.pairs) != task.pairs:
        return "tells of other pairs than were asked for"
    wanted = set(task.metrics)
    told = [set(row.metrics) for row in result.rows.values()] + [set(pair.metrics) for pair in result.pairs]
    if any(metrics != wanted for metrics in told):
        return f"tells of other metrics than {', '.join(task.metrics)}"
    return next(_faults(result), None)


def _faults(result: CompareResult) -> Iterator[str]:
    for name, row in result.rows.items():
        yield from (f"{name}: {fault}" for fault in _row_faults(row))
    for pair in result.pairs:
        yield from (f"{pair.first} less {pair.second}: {fault}" for fault in _pair_faults(pair, result.rows))


def _row_faults(row: RowSpread) -> Iterator[str]:
    if not max(row.num_undefined, row.num_empty) <= row.n <= MOST_CASES:
        yield f"{row.num_undefined} undefined, {row.num_empty} empty of {row.n} cases; expected no more than there are"
    for name, spread in row.metrics.items():
        if spread.n > row.n:
            yield f"{name} of {spread.n} cases; expected no more than {row.n}"
        yield from (f"{name}: {fault}" for fault in _spread_faults(spread, highest(name)))


def highest(metric: str) -> float:
    """Returns the largest value that a metric can have: 1 for a share, no limit for a distance."""
    return math.inf if METRIC[metric].is_distance else 1.0


def _spread_faults(spread: MetricSpread, most: float) -> Iterator[str]:
    for name, value in spread.model_dump(exclude={"n"}, exclude_none=True).items():
        if not -ROUNDING <= value <= most + ROUNDING:
            yield f"{name} is {value:g}; expected {'at least 0' if math.isinf(most) else '0 to 1'}"
    for order in (("low", "mean", "high"), ("whisker_low", "q1", "median", "q3", "whisker_high")):
        values = [value for value in (getattr(spread, name) for name in order) if value is not None]
        if any(one > two + ROUNDING for one, two in pairwise(values)):
            yield f"{', '.join(order)} are out of order"


def _pair_faults(pair: PairDifference, rows: Mapping[str, RowSpread]) -> Iterator[str]:
    for name, told in pair.metrics.items():
        one, two = (rows[row].metrics[name] for row in (pair.first, pair.second))
        if told.difference is None:
            continue
        if told.n < 1 or told.sd is None:
            yield f"{name}: a difference of {told.n} cases with SD {told.sd}; expected both of one case or more"
        if told.n > min(one.n, two.n):
            yield f"{name}: {told.n} pairs; expected no more than the {min(one.n, two.n)} cases of the smaller row"
        if abs(told.difference) > highest(name) + ROUNDING or (told.sd or 0.0) > 2 * highest(name):
            yield f"{name}: difference {told.difference:g} with SD {told.sd}; expected what two shares can have"
        if told.n == one.n == two.n and None not in (one.mean, two.mean):
            yield from _other_means(name, told, one, two)
        yield from _rank_faults(name, told)


def _other_means(name: str, told: MetricDifference, one: MetricSpread, two: MetricSpread) -> Iterator[str]:
    assert one.mean is not None
    assert two.mean is not None
    assert told.difference is not None
    if not math.isclose(told.difference, one.mean - two.mean, rel_tol=ROUNDING, abs_tol=ROUNDING):
        means = f"{one.mean:g} and {two.mean:g}"
        yield f"{name}: difference {told.difference:g} over all cases of two rows; expected that of their means {means}"


def _rank_faults(name: str, told: MetricDifference) -> Iterator[str]:
    most = told.n * (told.n + 1) / 2
    if abs(told.ranks or 0.0) > most or (told.squares or 0.0) > most * (2 * told.n + 1) / 3:
        yield f"{name}: ranks sum to {told.ranks}, squared to {told.squares}; {told.n} pairs have no more than {most:g}"
