"""The cross-site matrix as data: every model at every site, its means over sites, and how a cell is shown.

Numbers are kept as the sites sent them (ratios 0-1, millimetres) and shown as the paper shows them (per cent with two
decimals, millimetres with two), over few cases with one. What is missing, withheld or undefined is None, shown as an en
dash, and counted.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from common.errors import InputError
from common.paired_tests import holm
from server.metric import METRIC, METRICS, Metric
from server.run_record import ComparisonLine, EvaluationLine, RunRecord, SiteResult, Spread, in_order, read_run

MANY_CASES = 10
"""[C] From this many cases on, means have two decimals. With an SD of 10 points between cases, the mean of nine is
known to 3 points: a second decimal would promise what nobody knows."""

PARTS = tuple(Spread.model_fields)
"""Columns of a metric in the CSV."""


@dataclass(frozen=True)
class Matrix:
    """Models x sites of one part of the split."""

    split: str
    models: tuple[str, ...]
    sites: tuple[str, ...]
    results: dict[tuple[str, str], SiteResult]
    """By (model, site); a pair that was not asked, or that a site withheld, is absent."""
    comparisons: tuple[ComparisonLine, ...] = ()
    """Models on the same cases; none in an older ledger."""

    def spread(self, model: str, site: str, key: str) -> Spread | None:
        """Returns mean and SD over the site's cases, or None where there is no mean."""
        result = self.results.get((model, site))
        spread = result.metrics.get(key) if result else None
        return spread if spread is not None and spread.mean is not None else None

    def mean(self, model: str, site: str, key: str) -> float | None:
        """Returns the mean over the site's cases, or None."""
        spread = self.spread(model, site, key)
        return spread.mean if spread else None

    def num_cases(self, site: str) -> int | None:
        """Returns the cases behind the site's column: the largest n of any model; None where none is known."""
        return max((self.results[key].n or 0 for key in self.results if key[1] == site), default=0) or None

    def decimals(self, sites: Iterable[str]) -> int:
        """Returns how many decimals a number over these sites is shown with: one where a site has few cases."""
        numbers = [self.num_cases(site) for site in sites]
        return 1 if any(number is not None and number < MANY_CASES for number in numbers) else 2

    def num_undefined(self, model: str, site: str) -> int:
        """Returns how many cases of the cell have no distances."""
        result = self.results.get((model, site))
        return (result.num_undefined or 0) if result else 0

    def worst_site(self, model: str, key: str) -> tuple[str, float] | None:
        """Returns the site with the worst mean, and that mean: the lowest share, or the largest distance.

        None where fewer than two sites have one.
        """
        means = self._means(model, key)
        choose = max if METRIC[key].is_distance else min
        return choose(means.items(), key=lambda each: each[1]) if len(means) > 1 else None

    def range_of_sites(self, model: str, key: str) -> float | None:
        """Returns the largest less the smallest mean of any site; None where fewer than two have one."""
        means = self._means(model, key).values()
        return max(means) - min(means) if len(means) > 1 else None

    def _means(self, model: str, key: str) -> dict[str, float]:
        means = {site: self.mean(model, site, key) for site in self.sites}
        return {site: mean for site, mean in means.items() if mean is not None}

    def comparison(self, first: str, second: str, site: str | None, key: str) -> ComparisonLine | None:
        """Returns how two models differ at a site (None: over all), the first less the second, where that is told."""
        for line in self.comparisons:
            if (line.site, line.metric) == (site, key) and {line.first, line.second} == {first, second}:
                return line if line.first == first else line.reversed()
        return None

    def sites_with(self, models: Iterable[str], key: str) -> tuple[str, ...]:
        """Returns the sites at which every one of `models` has a value: where they can be compared."""
        wanted = tuple(models)
        return tuple(site for site in self.sites if all(self.mean(model, site, key) is not None for model in wanted))

    def mean_over_sites(self, model: str, key: str, sites: Sequence[str] | None = None) -> tuple[float | None, int]:
        """Returns the unweighted mean of the sites' means, and how many sites had one.

        Every site counts once, however many cases it has: the question is how a hospital fares, not how a case does.
        """
        means = [self.mean(model, site, key) for site in (self.sites if sites is None else sites)]
        known = [mean for mean in means if mean is not None]
        return (fmean(known) if known else None), len(known)


def build_matrices(record: RunRecord) -> tuple[Matrix, ...]:
    """Returns one matrix a split, the test cases first; later evaluations of a cell replace earlier ones."""
    by_split: dict[str, list[EvaluationLine]] = {}
    for line in record.evaluations:
        by_split.setdefault(line.split, []).append(line)
    splits = sorted(by_split, key=lambda split: (split != "test", split))
    return tuple(_merge(split, by_split[split], record.experiment.sites) for split in splits)


def _merge(split: str, lines: list[EvaluationLine], order: Sequence[str]) -> Matrix:
    cells = {(model, site): cell for line in lines for model, row in line.matrix.items() for site, cell in row.items()}
    models = tuple(dict.fromkeys(model for line in lines for model in line.matrix))
    sites = in_order((site for _, site in cells), order)
    comparisons = {
        (each.first, each.second, each.site, each.metric): each for line in lines for each in line.comparisons
    }
    results = {key: cell for key, cell in cells.items() if cell is not None}
    told, num_tables = tuple(comparisons.values()), sum(bool(line.comparisons) for line in lines)
    return Matrix(split, models, sites, results, _corrected(told) if num_tables > 1 else told)


def _corrected(lines: Sequence[ComparisonLine]) -> tuple[ComparisonLine, ...]:
    """Holm's correction over the pairs of all evaluations: each has corrected for its own alone."""
    families: dict[tuple[str | None, str], list[int]] = {}
    for place, line in enumerate(lines):
        families.setdefault((line.site, line.metric), []).append(place)
    corrected = list(lines)
    for places in families.values():
        for place, p in zip(places, holm([lines[place].t_p for place in places]), strict=True):
            corrected[place] = lines[place].model_copy(update={"holm_p": p})
    return tuple(corrected)


def load_matrices(run_folder: Path) -> tuple[Matrix, ...]:
    """Returns the matrices of a run folder, the test cases' first.

    Raises:
        InputError: the folder holds no readable run, or nothing was evaluated yet.
    """
    matrices = build_matrices(read_run(run_folder))
    if not matrices:
        raise InputError(f"{run_folder}: nothing was evaluated yet; let the run reach its `evaluate` step")
    return matrices


def to_csv(matrices: Iterable[Matrix]) -> str:
    """Returns one row for each split, model and site, in the ledger's units; what is missing is an empty field."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = [f"{metric.key}_{part}" for metric in METRICS for part in PARTS]
    writer.writerow(["split", "model", "site", "n", "num_undefined", "num_empty", *columns])
    for matrix in matrices:
        writer.writerows(_csv_row(matrix, model, site) for model in matrix.models for site in matrix.sites)
    return stream.getvalue()


def _csv_row(matrix: Matrix, model: str, site: str) -> list[str | int | float | None]:
    result = matrix.results.get((model, site)) or SiteResult()
    spreads = [matrix.spread(model, site, metric.key) or Spread() for metric in METRICS]
    numbers = [getattr(spread, part) for spread in spreads for part in PARTS]
    return [matrix.split, model, site, result.n, result.num_undefined, result.num_empty, *numbers]


def table_title(matrix: Matrix, metric: Metric) -> str:
    """Returns a heading such as `DSC, % (test cases, mean ± SD)`."""
    return f"{metric.title}, {metric.unit} ({matrix.split} cases, mean ± SD)"


def show_cell(matrix: Matrix, metric: Metric, model: str, site: str) -> str:
    """Returns `mean ± SD` with as many decimals as the site's cases bear, or an en dash."""
    return metric.show_spread(matrix.spread(model, site, metric.key), matrix.decimals([site]))


def cell_note(matrix: Matrix, metric: Metric, model: str, site: str) -> str:
    """Returns what the numbers of a cell leave unsaid: withheld, undefined distances, another n than the column's."""
    result = matrix.results.get((model, site))
    if result is None:
        return ""
    if result.withheld:
        return "withheld"
    undefined = f"{result.num_undefined} undefined" if metric.is_distance and result.num_undefined else ""
    empty = f"{result.num_empty} empty" if metric.key == "dsc" and result.num_empty else ""
    other_n = f"n = {result.n}" if result.n != matrix.num_cases(site) and result.n is not None else ""
    return ", ".join(filter(None, (other_n, undefined, empty)))


def cell_detail(matrix: Matrix, metric: Metric, model: str, site: str) -> str:
    """Returns `median 74.2; 95 % 70.1 to 74.2` (the bootstrap's interval of the mean), as far as the site tells."""
    spread, decimals = matrix.spread(model, site, metric.key) or Spread(), matrix.decimals([site])
    median = f"median {metric.show(spread.median, decimals)}" if spread.median is not None else ""
    interval = metric.show_interval(spread, decimals)
    return "; ".join(filter(None, (median, f"95 % {interval}" if interval else "")))


def show_mean_over_sites(matrix: Matrix, model: str, metric: Metric) -> tuple[str, str]:
    """Returns the mean over sites, and a note of how many sites it covers where some are missing."""
    mean, num_sites = matrix.mean_over_sites(model, metric.key)
    partial = mean is not None and num_sites < len(matrix.sites)
    return metric.show(mean, matrix.decimals(matrix.sites)), (
        f"{num_sites} of {len(matrix.sites)} sites" if partial else ""
    )
