"""What is told of kept results: how each row is spread, and how two rows differ on the cases that both hold.

All that comes from here passes `client/policy.py` before it leaves.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from client.cases import OpenCase
from client.kept_results import KeptResults, MeasuredCase
from common.distribution import box, mean_interval
from common.errors import NoResultsError
from common.metrics import METRIC_NAMES
from common.paired_tests import moments, signed_ranks
from common.tasks import CompareResult, CompareTask, MetricDifference, MetricSpread, PairDifference, RowSpread

Row = dict[str, MeasuredCase]
"""By case."""


def compare(
    task: CompareTask,
    folder: Path,
    cases_of: Callable[[int], Sequence[OpenCase]],
    seconds: Callable[[], float],
) -> CompareResult:
    """Returns the whole answer, whatever the number of cases.

    Args:
        task: what is asked.
        folder: of the kept results.
        cases_of: the part's cases of a fold (0: of the plain split).
        seconds: since the task began.

    Raises:
        NoResultsError: a result is missing, damaged, or of other weights; or a metric is none of this release's.
    """
    odd = sorted(set(task.metrics) - set(METRIC_NAMES))
    if odd:
        raise NoResultsError(f"metric {odd[0]!r} is not measured; expected {', '.join(METRIC_NAMES)}; update one side")
    parts = cache(cases_of)
    rows = {name: _row(name, each, folder, parts) for name, each in task.rows.items()}
    fewest = {name: _fewest([len(parts(fold)) for _, fold in each]) for name, each in task.rows.items()}
    return CompareResult(
        rows={name: _spread(list(row.values()), fewest[name], task.metrics) for name, row in rows.items()},
        pairs=tuple(_difference(one, two, rows, task.metrics) for one, two in task.pairs),
        seconds=seconds(),
    )


def _row(
    name: str, parts: Sequence[tuple[str, int]], folder: Path, cases_of: Callable[[int], Sequence[OpenCase]]
) -> Row:
    row: Row = {}
    for digest, fold in parts:
        kept = KeptResults(folder, digest)
        for case in cases_of(fold):
            found = kept.find(case)
            if found is None:
                raise NoResultsError(
                    f"{name}: case {case.cached.case_id} was not measured with model {digest[:12]}, or has changed "
                    "since; let the coordinator run its `evaluate` step again"
                )
            row[case.cached.case_id] = found
    return row


def _fewest(numbers: Sequence[int]) -> int:
    return min((number for number in numbers if number), default=0)


def _spread(row: Sequence[MeasuredCase], fewest: int, metrics: Sequence[str]) -> RowSpread:
    return RowSpread(
        n=len(row),
        fewest=fewest,
        num_undefined=sum(math.isnan(each.metrics.assd_mm) for each in row),
        num_empty=sum(each.is_empty for each in row),
        metrics={name: _metric_spread([value(each, name) for each in row]) for name in metrics},
    )


def value(measured: MeasuredCase, metric: str) -> float:
    """Returns one metric of a case; NaN where it is undefined."""
    return float(getattr(measured.metrics, metric))


def _metric_spread(values: Sequence[float]) -> MetricSpread:
    defined = [each for each in values if not math.isnan(each)]
    if not defined:
        return MetricSpread(n=0)
    whole, drawn, (low, high) = moments(defined), box(defined), mean_interval(defined)
    return MetricSpread(
        n=whole.n,
        mean=whole.mean,
        sd=whole.sd if whole.n > 1 else None,
        median=drawn.median,
        low=low,
        high=high,
        q1=drawn.q1,
        q3=drawn.q3,
        whisker_low=drawn.whisker_low,
        whisker_high=drawn.whisker_high,
    )


def _difference(first: str, second: str, rows: dict[str, Row], metrics: Sequence[str]) -> PairDifference:
    both = [case for case in rows[first] if case in rows[second]]
    found = {
        name: _metric_difference([value(rows[first][case], name) - value(rows[second][case], name) for case in both])
        for name in metrics
    }
    return PairDifference(first=first, second=second, metrics=found)


def _metric_difference(differences: Sequence[float]) -> MetricDifference:
    defined = [each for each in differences if not math.isnan(each)]
    if not defined:
        return MetricDifference(n=0)
    whole, ranks = moments(defined), signed_ranks(defined)
    return MetricDifference(
        n=whole.n, difference=whole.mean, sd=whole.sd, ranks=ranks.ranks, squares=ranks.squares, wilcoxon_p=ranks.p
    )
