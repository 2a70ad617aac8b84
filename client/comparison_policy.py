"""What of a comparison may leave a site: nothing of fewer cases than `min_cases`, alone or by simple subtraction.

Of one row and metric fewer numbers are told than there are cases: 2 (mean, SD) of 3 cases, 5 (and median and interval)
of 6, 9 (and quartiles and whiskers) of 12, with the default `min_cases` of 3. That is a bound for one row alone: pairs
of many models, and several metrics, tell more of the same cases. Medians, quartiles and whiskers are values of single
cases, or lie between two.
"""

from client.policy import METRICS, Withheld
from common.errors import PolicyError
from common.site_config import PolicyConfig
from common.tasks import CompareResult, CompareTask, MetricDifference, MetricSpread, PairDifference, RowSpread

MIDDLE, MIDDLE_FACTOR = ("median", "low", "high"), 2
"""Told of this many times `min_cases`."""
BOX, BOX_FACTOR = ("q1", "q3", "whisker_low", "whisker_high"), 4


def limit_comparison(policy: PolicyConfig, task: CompareTask, result: CompareResult, told: Withheld) -> CompareResult:
    """Returns a comparison of the task's rows and pairs alone, with nothing that rests on too few cases.

    Of fewer than `min_cases` cases only their number is told. So it is of a row with a fold of so few, and of its
    pairs: the row less the other folds, which were told, would be that fold. So it is of a pair that leaves out so few
    cases of a row, for want of a distance: the row's mean less the pair's would tell theirs. A site that shares single
    cases' metrics tells median, interval, quartiles and such pairs too.

    Raises:
        PolicyError: it holds another row, pair or metric, which could carry words out.
    """
    pairs = tuple((each.first, each.second) for each in result.pairs)
    if set(result.rows) != set(task.rows) or pairs != task.pairs:
        raise PolicyError.of("policy-reply", "reply: tells of other rows or pairs than were asked for")
    expected = set(task.metrics) & METRICS
    given = [set(row.metrics) for row in result.rows.values()] + [set(pair.metrics) for pair in result.pairs]
    if any(metrics != expected for metrics in given):
        raise PolicyError.of("policy-reply", "reply: tells of other metrics than were asked for")
    return CompareResult(
        rows={name: _limit_row(policy, each, told) for name, each in result.rows.items()},
        pairs=tuple(_limit_pair(policy, each, result.rows, told) for each in result.pairs),
        seconds=result.seconds,
    )


def _limit_row(policy: PolicyConfig, row: RowSpread, told: Withheld) -> RowSpread:
    if not _is_whole(policy, row):
        of = f", a fold of {row.fewest}" if row.n >= policy.min_cases else ""
        told.what.append(f"spread of {row.n} cases{of}")
        none = {name: MetricSpread(n=0) for name in row.metrics}
        return RowSpread(n=row.n, num_undefined=0, num_empty=0, metrics=none)
    return row.model_copy(update={"metrics": {name: _limit_spread(policy, each) for name, each in row.metrics.items()}})


def _is_whole(policy: PolicyConfig, row: RowSpread) -> bool:
    """Whether all of its parts may be told."""
    return min(row.n, row.fewest) >= policy.min_cases


def _limit_spread(policy: PolicyConfig, spread: MetricSpread) -> MetricSpread:
    if spread.n < policy.min_cases:
        return MetricSpread(n=spread.n)
    if policy.share_case_metrics:
        return spread
    hidden = [name for name in MIDDLE if spread.n < MIDDLE_FACTOR * policy.min_cases]
    hidden += [name for name in BOX if spread.n < BOX_FACTOR * policy.min_cases]
    return spread.model_copy(update=dict.fromkeys(hidden))


def _limit_pair(
    policy: PolicyConfig, pair: PairDifference, rows: dict[str, RowSpread], told: Withheld
) -> PairDifference:
    both_whole = all(_is_whole(policy, rows[row]) for row in (pair.first, pair.second))
    metrics = {}
    for name, each in pair.metrics.items():
        left_out = [rows[row].metrics[name].n - each.n for row in (pair.first, pair.second)]
        subtracts = any(0 < number < policy.min_cases for number in left_out) and not policy.share_case_metrics
        hidden = each.n < policy.min_cases or subtracts or not both_whole
        if hidden and each.difference is not None:
            told.what.append(f"difference in {name} of {each.n} cases")
        metrics[name] = MetricDifference(n=each.n) if hidden else each
    return pair.model_copy(update={"metrics": metrics})
