"""Models compared on the same cases, at the sites, once they are measured: what an `evaluate` step asks for last.

A site is asked once for all rows and pairs, and answers from what it kept. None that fails, withholds or keeps silent
ends the run: what was measured stands, and the comparison says why it is not there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flwr.app import Message

from common import wire
from common.errors import WorkError
from common.paired_tests import Moments, SignedRanks, holm, paired_t, pooled, stratified_wilcoxon
from common.steps import EvaluateStep
from common.tasks import CompareResult, CompareTask, MetricDifference, Part
from server.comparison_reply import refuse_comparison
from server.metric import METRIC
from server.run import Run
from server.run_record import UNDEFINED
from server.sites import read_result

Pair = tuple[str, str]
Line = dict[str, Any]
FEW, NOBODY = "too few cases", "no site told"


@dataclass(frozen=True)
class Compared:
    """What the sites answered."""

    results: Mapping[str, CompareResult]
    faults: Mapping[str, str]
    """Why a site did not, by its code."""


def compare(
    run: Run,
    rows: Mapping[str, tuple[Part, ...]],
    pairs: Sequence[Pair],
    sites: Sequence[str],
    part: Literal["validation", "test"],
) -> Compared:
    """Returns how the rows are spread and differ at each of `sites`; nothing where there is no row or site.

    Args:
        run: whose experiment it is.
        rows: by name, the digest of each measured model and the fold on whose part it was.
        pairs: names of rows, the first less the second.
        sites: those that have measured all of it.
        part: of the split.
    """
    if not rows or not sites:
        return Compared({}, {})
    task = CompareTask(
        experiment=run.experiment.name,
        recipe=run.experiment.recipe,
        split=run.experiment.split,
        rows=dict(rows),
        pairs=tuple(pairs),
        part=part,
        metrics=tuple(METRIC),
    )

    def read(site: str, reply: Message) -> CompareResult:
        result = read_result(site, reply, CompareResult)
        fault = refuse_comparison(result, task)
        if fault:
            raise WorkError(f"site {site}: comparison: {fault}; let it run the coordinator's release")
        return result

    messages = {site: run.sites.message(site, wire.COMPARE, task) for site in sites}
    return Compared(*run.sites.hear(messages, read))


def pairs_of(step: EvaluateStep, expanded: Mapping[str, Sequence[str]]) -> list[Pair]:
    """Returns the pairs of a step: those that it names, else its first model against every other.

    A name may stand for several models (`expanded`), as in the step's `models`. Of two that do, those that end in the
    same site are paired.
    """
    if not step.compare:
        names = [name for base in step.models for name in expanded[base]]
        return [(names[0], other) for other in dict.fromkeys(names[1:]) if other != names[0]]
    found = [pair for named in step.compare for pair in _expand_pair(*named, expanded)]
    return list(dict.fromkeys(pair for pair in found if pair[0] != pair[1]))


def _expand_pair(first: str, second: str, expanded: Mapping[str, Sequence[str]]) -> Iterator[Pair]:
    firsts, seconds = expanded.get(first, (first,)), expanded.get(second, (second,))
    of_sites = first not in firsts and second not in seconds
    for one in firsts:
        for two in seconds:
            if not of_sites or one.removeprefix(first) == two.removeprefix(second):
                yield one, two


def fill(cell: dict[str, Any], compared: Compared, site: str, row: str) -> dict[str, Any]:
    """Returns a cell of the matrix with all that the comparison tells of it; as it was where that is nothing.

    Of true tumours comparisons tell nothing: what the cell has of them stays.
    """
    result = compared.results.get(site)
    told = result.rows.get(row) if result is not None else None
    if told is None or all(spread.mean is None for spread in told.metrics.values()):
        return cell
    metrics = {name: spread.model_dump(exclude={"n"}) for name, spread in told.metrics.items()}
    filled = {"n": told.n, "num_undefined": told.num_undefined, "num_empty": told.num_empty, "metrics": metrics}
    return filled | {key: cell[key] for key in ("truth_metrics",) if key in cell}


def comparison_lines(compared: Compared, pairs: Sequence[Pair], sites: Sequence[str]) -> list[Line]:
    """Returns a line for each metric, site and pair, then for the pair over all sites that tell of it.

    `holm_p` corrects the t-tests' p for all pairs of the same metric and site.
    """
    lines: list[Line] = []
    for metric in METRIC:
        for site in (*sites, None):
            table = [_line(compared, pair, site, metric) for pair in pairs]
            corrected = holm([line["t_p"] for line in table])
            lines += [line | {"holm_p": p} for line, p in zip(table, corrected, strict=True)]
    return lines


def _line(compared: Compared, pair: Pair, site: str | None, metric: str) -> Line:
    told = {name: _told(result, pair, metric) for name, result in compared.results.items() if site in (None, name)}
    known = {name: each for name, each in told.items() if each.difference is not None}
    line = {"first": pair[0], "second": pair[1], "site": site, "metric": metric, "sites": list(known)}
    if not known:
        return line | _NOTHING | {"withheld": _why(compared, site, told)}
    whole = pooled([_moments(each) for each in known.values()])
    test = paired_t(whole)
    return line | {
        "n": whole.n,
        "difference": whole.mean,
        "sd": whole.sd if whole.n > 1 else None,
        "low": test.low if test else None,
        "high": test.high if test else None,
        "t": test.t if test else None,
        "t_p": test.p if test else None,
        "wilcoxon_p": stratified_wilcoxon([_ranks(each) for each in known.values()]),
        "withheld": None,
    }


_NOTHING: Line = dict.fromkeys(("n", "difference", "sd", "low", "high", "t", "t_p", "wilcoxon_p"))


def _told(result: CompareResult, pair: Pair, metric: str) -> MetricDifference:
    return next(each.metrics[metric] for each in result.pairs if (each.first, each.second) == pair)


def _why(compared: Compared, site: str | None, told: Mapping[str, MetricDifference]) -> str:
    if told and not any(each.n for each in told.values()):
        return UNDEFINED  # no case where both models have a distance
    if site is None:
        return NOBODY
    return FEW if told else compared.faults.get(site, "not measured")


def _moments(told: MetricDifference) -> Moments:
    assert told.difference is not None
    return Moments(told.n, told.difference, told.sd or 0.0)


def _ranks(told: MetricDifference) -> SignedRanks:
    return SignedRanks(told.n, told.ranks or 0.0, told.squares or 0.0, told.wilcoxon_p)
