"""Pairs of models on the same cases: a table a metric, and what is and is not shown, in words.

A difference is called shown where both tests agree: the paired t-test after Holm's correction over the comparisons of
its metric and site, and Wilcoxon's signed ranks, both two-tailed at 0.05. "Not shown" never means equal: the
interval says which differences the cases leave open.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace

from common.text import counted
from server.matrix import MANY_CASES, Matrix
from server.metric import METRIC, METRICS, NONE, Metric, signed
from server.run_record import UNDEFINED, ComparisonLine
from server.table import Cell, Table

ALPHA = 0.05
"""Paper, section 3.A.2."""
LEAST_RANKED = 6
"""Cases: of five, Wilcoxon's two-tailed p is never below 2 / 2 ** 5."""
CLOSE_POINTS = 1.0
"""[C] Two models whose whole interval lies within so many points of DSC, PPV or SEN are called close."""
MAX_SENTENCES = 3
ALL_SITES = "all sites"
FIELDS = ("n", "difference", "sd", "low", "high", "t", "t_p", "wilcoxon_p", "holm_p", "withheld")
"""What comparisons.csv holds of every pair."""
NOTE = (
    "Difference: first less second, the mean over the cases that both were measured on. Interval: 95 %, by the paired "
    "t-test, like p. Holm: that p, corrected for all pairs of the table at the same site. Wilcoxon: signed ranks, over "
    "sites by strata; not corrected. A test is about these models and cases like these: it does not tell what training "
    "them again from another seed gives."
)
HEADER = ("first − second", "site", "shown?", "n", "difference", "95 % interval", "t-test p", "Holm p", "Wilcoxon p")


def comparisons_csv(matrices: Iterable[Matrix]) -> str:
    """Returns one row for each split, metric, site and pair, in the ledger's units; what is not told is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["split", "metric", "site", "first", "second", *FIELDS])
    for matrix in matrices:
        for line in matrix.comparisons:
            numbers = [getattr(line, field) for field in FIELDS]
            writer.writerow([matrix.split, line.metric, line.site or ALL_SITES, line.first, line.second, *numbers])
    return stream.getvalue()


def comparison_tables(lines: Sequence[ComparisonLine], split: str) -> tuple[Table, ...]:
    """Returns one table for each metric that was compared: over all sites first, then by site.

    Where all that tell are one site, it is not told twice.
    """
    return tuple(_table(lines, split, metric) for metric in METRICS if any(line.metric == metric.key for line in lines))


def _table(lines: Sequence[ComparisonLine], split: str, metric: Metric) -> Table:
    own = sorted((line for line in lines if line.metric == metric.key), key=lambda line: line.site is not None)
    alone = {(line.first, line.second, *line.sites) for line in own if line.site is None and len(line.sites) == 1}
    own = [line for line in own if (line.first, line.second, line.site) not in alone]
    return Table(
        name=f"comparisons-{split}-{metric.key.removesuffix('_mm')}",
        title=f"{metric.title}, {metric.difference_unit}: pairs of models on the same {split} cases",
        header=tuple(map(Cell, HEADER)),
        rows=tuple(_row(line, metric) for line in own),
        num_labels=3,
    )


def other_metrics_table(lines: Sequence[ComparisonLine], split: str) -> Table:
    """Returns the comparisons over all sites of every metric but DSC, for the page."""
    others = [
        (metric, line) for metric in METRICS[1:] for line in lines if (line.metric, line.site) == (metric.key, None)
    ]
    rows = tuple((Cell(f"{metric.title}, {metric.difference_unit}"), *_row(line, metric)) for metric, line in others)
    title = f"The other metrics over all sites, {split} cases"
    return Table(f"comparisons-{split}-others", title, tuple(map(Cell, ("metric", *HEADER))), rows, num_labels=4)


def _row(line: ComparisonLine, metric: Metric) -> tuple[Cell, ...]:
    texts = (
        f"{line.first} − {line.second}",
        line.site or ALL_SITES,
        reading(line),
        NONE if line.n is None else str(line.n),
        _shown(metric, line.difference, line),
        interval(metric, line) or NONE,
        *map(show_p, (line.t_p, line.holm_p, line.wilcoxon_p)),
    )
    cells = [Cell(text, best=number == 2 and is_shown(line)) for number, text in enumerate(texts)]
    cells[2] = replace(cells[2], note=line.withheld or "")
    return tuple(cells)


def is_shown(line: ComparisonLine) -> bool:
    """Returns whether both tests reject that the two models are alike."""
    tests = (line.holm_p, line.wilcoxon_p)
    return line.difference is not None and all(p is not None and p < ALPHA for p in tests)


def is_close(line: ComparisonLine) -> bool:
    """Returns whether the interval leaves no difference as large as `CLOSE_POINTS`; never for distances."""
    if METRIC[line.metric].is_distance or line.low is None or line.high is None:
        return False
    return 100 * max(abs(line.low), abs(line.high)) < CLOSE_POINTS


def better(line: ComparisonLine) -> str:
    """Returns the model of the pair with the better mean: the higher one, of distances the lower."""
    first_is_higher = (line.difference or 0.0) > 0
    return line.first if first_is_higher != METRIC[line.metric].is_distance else line.second


def reading(line: ComparisonLine) -> str:
    """Returns what the comparison shows in a few words."""
    if line.withheld:
        return "withheld" if line.withheld != UNDEFINED else "not measured"
    if None in (line.holm_p, line.wilcoxon_p, line.difference):
        return "not tested"
    if is_shown(line):
        return f"{better(line)} is better" + (", by less than 1 point" if is_close(line) else "")
    if (line.holm_p or 0.0) < ALPHA:
        is_few = line.n is not None and line.n < LEAST_RANKED
        return f"not shown: {'too few cases for the rank test' if is_few else 'rank test disagrees'}"
    return "not shown; less than 1 point apart" if is_close(line) else "not shown"


def comparison_sentences(lines: Iterable[ComparisonLine]) -> tuple[str, ...]:
    """Returns a sentence for each first model of pairs over all sites by DSC, at most `MAX_SENTENCES` of them.

    It says which others the model is better or worse than, and for which nothing is shown.
    """
    by_first: dict[str, list[ComparisonLine]] = {}
    for line in lines:
        if line.site is None and line.metric == "dsc" and line.difference is not None:
            by_first.setdefault(line.first, []).append(line)
    told = list(by_first.items())
    left_out = sum(len(pairs) for _, pairs in told[MAX_SENTENCES:])
    sentences = tuple(_sentence(first, pairs) for first, pairs in told[:MAX_SENTENCES])
    return (*sentences, f"{counted(left_out, 'more pair')} in the table below.") if left_out else sentences


def _sentence(first: str, pairs: Sequence[ComparisonLine]) -> str:
    """`a against 2 others on the same 40 cases (...): better than b (+2.10; +0.80 to +3.40); ...`."""
    metric = METRIC["dsc"]
    found: dict[str, list[str]] = {}
    for line in pairs:
        numbers = "; ".join(filter(None, (_shown(metric, line.difference, line), interval(metric, line))))
        found.setdefault(_relation(line), []).append(f"{line.second} ({numbers})")
    told = "; ".join(f"{relation} {', '.join(found[relation])}" for relation in RELATIONS if relation in found)
    numbers_of_cases = {line.n for line in pairs}
    cases = f"the same {pairs[0].n} cases" if len(numbers_of_cases) == 1 and pairs[0].n else "the same cases"
    others = counted(len(pairs), "other")
    return f"{first} against {others} on {cases} (points of DSC, 95 % interval): {told}."


RELATIONS = ("better than", "worse than", "no difference shown from", "not tested against")


def _relation(line: ComparisonLine) -> str:
    if is_shown(line):
        return RELATIONS[0 if better(line) == line.first else 1]
    return RELATIONS[3 if None in (line.holm_p, line.wilcoxon_p) else 2]


def _shown(metric: Metric, value: float | None, line: ComparisonLine) -> str:
    """A difference in the shown unit; one decimal over few cases."""
    return NONE if value is None else signed(value * metric.factor, _decimals(line))


def interval(metric: Metric, line: ComparisonLine) -> str:
    """Returns `+0.8 to +3.4`, or nothing."""
    if line.low is None or line.high is None:
        return ""
    return f"{_shown(metric, line.low, line)} to {_shown(metric, line.high, line)}"


def _decimals(line: ComparisonLine) -> int:
    return 1 if line.n is not None and line.n < MANY_CASES else 2


def show_p(p: float | None) -> str:
    """Returns p with two decimals that tell something, `< 0.001` below that, or an en dash."""
    if p is None:
        return NONE
    return "<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
