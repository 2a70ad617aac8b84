"""The cross-site matrix as shaded table cells: the heat map of DSC, the best of a column, a model's own site."""

from dataclasses import dataclass
from math import ceil, floor
from typing import Any

from common.config import Experiment
from server.conclusion import model_origins
from server.matrix import Matrix, cell_note, show_mean_over_sites
from server.metric import METRIC, METRICS, NONE, Metric

LIGHTEST, DARKEST = (255, 255, 255), (116, 173, 209)
"""Ends of the heat map: dark text on the darkest has a contrast of 8:1."""


@dataclass(frozen=True)
class Cell:
    """One cell of a matrix table, ready to show."""

    text: str
    note: str = ""
    shade: str = ""
    best: bool = False
    own: bool = False


def matrix_view(matrix: Matrix, experiment: Experiment) -> dict[str, Any]:
    """Returns what the report's template shows of one matrix."""
    low, high = heat_range(matrix)
    return {
        "split": matrix.split,
        "sites": [(site, matrix.num_cases(site) or NONE) for site in matrix.sites],
        "tables": [(metric, _table(matrix, metric, experiment, (low, high))) for metric in METRICS],
        "scale": [(METRIC["dsc"].show(low + (high - low) * k / 4), _shade(k / 4)) for k in range(5)],
        "missing": _missing(matrix),
    }


def heat_range(matrix: Matrix) -> tuple[float, float]:
    """Returns the DSC at the heat map's ends: the matrix's own range, widened to whole tenths; 0 to 1 when empty."""
    known = [matrix.mean(model, site, "dsc") for model in matrix.models for site in matrix.sites]
    values = [value for value in known if value is not None]
    if not values:
        return 0.0, 1.0
    low = floor(min(values) * 10) / 10
    return low, max(ceil(max(values) * 10) / 10, low + 0.1)


def _table(
    matrix: Matrix, metric: Metric, experiment: Experiment, scale: tuple[float, float]
) -> list[tuple[str, list[Cell]]]:
    """One row a model: a cell a site, then the mean over sites."""
    origins = model_origins(experiment)
    best = {site: _best(matrix, metric, site) for site in matrix.sites}
    rows = []
    for model in matrix.models:
        home = origins[model].site if model in origins else None
        cells = [_cell(matrix, metric, model, site, best[site], home, scale) for site in matrix.sites]
        rows.append((model, [*cells, Cell(*show_mean_over_sites(matrix, model, metric))]))
    return rows


def _best(matrix: Matrix, metric: Metric, site: str) -> str:
    """The best shown value of a column, so that what reads the same is marked the same."""
    values = [matrix.mean(model, site, metric.key) for model in matrix.models]
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    return metric.show(min(known) if metric.is_distance else max(known))


def _cell(
    matrix: Matrix, metric: Metric, model: str, site: str, best: str, home: str | None, scale: tuple[float, float]
) -> Cell:
    mean = matrix.mean(model, site, metric.key)
    low, high = scale
    return Cell(
        text=metric.show_spread(matrix.spread(model, site, metric.key)),
        note=cell_note(matrix, metric, model, site),
        shade=_shade((mean - low) / (high - low)) if metric.key == "dsc" and mean is not None else "",
        best=mean is not None and metric.show(mean) == best,
        own=site == home,
    )


def _shade(share: float) -> str:
    """The heat map's colour at 0..1 as #rrggbb."""
    share = min(1.0, max(0.0, share))
    mixed = (round(light + (dark - light) * share) for light, dark in zip(LIGHTEST, DARKEST, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _missing(matrix: Matrix) -> tuple[int, int]:
    """How many cells have no DSC, and how many case results have no distances."""
    cells = [(model, site) for model in matrix.models for site in matrix.sites]
    withheld = sum(matrix.mean(model, site, "dsc") is None for model, site in cells)
    return withheld, sum(matrix.num_undefined(model, site) for model, site in cells)
