"""RUN/comparisons.csv and .md: which models differ on the same cases, at each site and over all, and how surely."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from common.atomic import write_text_atomically
from server.matrix import Matrix, load_matrices
from server.metric import METRIC, METRICS, NONE, Metric
from server.run_record import ComparisonLine

ALL = "all"
"""In the CSV, the site of a line over all sites."""
FIELDS = ("n", "difference", "sd", "low", "high", "t", "t_p", "wilcoxon_p", "holm_p", "withheld")
NOTE = (
    "Difference: first less second, the mean over the cases that both were measured on. Interval: 95 %, by the paired "
    "t-test, like p. Holm: that p, corrected for all pairs of the table at the same site. Wilcoxon: signed ranks, over "
    "sites by strata; not corrected. A test is about these models and cases like these: it does not tell what training "
    "them again from another seed gives.\n"
)


def to_csv(matrices: Iterable[Matrix]) -> str:
    """Returns one row for each split, metric, site and pair, in the ledger's units; what is not told is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["split", "metric", "site", "first", "second", *FIELDS])
    for matrix in matrices:
        for line in matrix.comparisons:
            numbers = [getattr(line, field) for field in FIELDS]
            writer.writerow([matrix.split, line.metric, line.site or ALL, line.first, line.second, *numbers])
    return stream.getvalue()


def to_markdown(matrices: Iterable[Matrix]) -> str:
    """Returns a table for each split and metric, as the report shows them, and what its columns mean."""
    tables = [_table(matrix, metric) for matrix in matrices for metric in METRICS]
    return "\n".join([*filter(None, tables), NOTE])


def _table(matrix: Matrix, metric: Metric) -> str:
    lines = [line for line in matrix.comparisons if line.metric == metric.key]
    if not lines:
        return ""
    header = ("first", "second", "site", "n", f"difference, {metric.unit}", "95 %", "p", "Holm", "Wilcoxon")
    rows = [header, ("---", "---", "---", *["---:"] * 6), *(_row(matrix, line) for line in lines)]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return f"**{metric.title}, {metric.unit} ({matrix.split} cases)**\n\n{body}\n"


def _row(matrix: Matrix, line: ComparisonLine) -> tuple[str, ...]:
    where = (line.first, line.second, line.site or "all sites")
    if line.difference is None:
        return (*where, NONE, f"{NONE} ({line.withheld})" if line.withheld else NONE, *[NONE] * 4)
    ps = (show_p(line.t_p), show_p(line.holm_p), show_p(line.wilcoxon_p))
    return (*where, str(line.n), show_difference(matrix, line), show_interval(matrix, line), *ps)


def show_difference(matrix: Matrix, line: ComparisonLine) -> str:
    """Returns the difference with its sign, in the shown unit, with as many decimals as the cases bear."""
    metric = METRIC[line.metric]
    return NONE if line.difference is None else f"{line.difference * metric.factor:+.{_decimals(matrix, line)}f}"


def show_interval(matrix: Matrix, line: ComparisonLine) -> str:
    """Returns `-0.4 to +2.1`, or an en dash."""
    if line.low is None or line.high is None:
        return NONE
    metric, decimals = METRIC[line.metric], _decimals(matrix, line)
    return f"{line.low * metric.factor:+.{decimals}f} to {line.high * metric.factor:+.{decimals}f}"


def _decimals(matrix: Matrix, line: ComparisonLine) -> int:
    return matrix.decimals(line.sites or matrix.sites)


def show_p(p: float | None) -> str:
    """Returns p with two decimals that tell something, `< 0.001` below that, or an en dash."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def write_comparisons(run_folder: Path) -> tuple[Path, Path]:
    """Writes comparisons.csv and comparisons.md in RUN, each atomically; returns their paths (errors: `load_matrices`).

    Of an older run, which compared nothing, they hold no line.
    """
    matrices = load_matrices(run_folder)
    csv_path, markdown_path = run_folder / "comparisons.csv", run_folder / "comparisons.md"
    write_text_atomically(csv_path, to_csv(matrices))
    write_text_atomically(markdown_path, to_markdown(matrices))
    return csv_path, markdown_path
