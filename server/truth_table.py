"""Phantoms alone have a true mask: the same predictions against the contour and against the truth.

A contour is drawn in a site's style. What a model seems to lose against the contour and does not lose against the
truth is the style's share of the error, not the model's.
"""

from server.matrix import Matrix
from server.metric import METRIC, NONE, Metric, signed
from server.run_record import Spread
from server.table import Cell, Table

SHOWN = (METRIC["dsc"], METRIC["assd_mm"])


def truth_tables(matrix: Matrix) -> tuple[Table, ...]:
    """Returns a table each of DSC and ASSD; none where no site told how its models fare against true masks."""
    if not any(result.truth_metrics for result in matrix.results.values()):
        return ()
    return tuple(_table(matrix, metric) for metric in SHOWN)


def _table(matrix: Matrix, metric: Metric) -> Table:
    rows = tuple(
        (Cell(model), *(_cell(matrix, metric, model, site) for site in matrix.sites)) for model in matrix.models
    )
    return Table(
        name=f"truth-{matrix.split}-{metric.key.removesuffix('_mm')}",
        title=f"{metric.title}, {metric.unit}, against the phantoms' true masks ({matrix.split} cases, mean ± SD)",
        header=(Cell("model"), *map(Cell, matrix.sites)),
        rows=rows,
    )


def _cell(matrix: Matrix, metric: Metric, model: str, site: str) -> Cell:
    """Against the truth; below it how much that is more or less than against the contour."""
    result = matrix.results.get((model, site))
    truth = (result.truth_metrics.get(metric.key) if result else None) or Spread()
    contour = matrix.mean(model, site, metric.key)
    decimals = matrix.decimals([site])
    if truth.mean is None or contour is None:
        return Cell(metric.show_spread(truth, decimals) if truth.mean is not None else NONE)
    apart = signed(metric.factor * (truth.mean - contour), decimals)
    return Cell(metric.show_spread(truth, decimals), detail=f"contour {metric.show(contour, decimals)}; {apart}")
