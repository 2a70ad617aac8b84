"""The cross-site matrix as tables: the heat map of DSC, a clear lead in a column, a model's own site."""

from math import ceil, floor
from typing import Any

from common.experiment import Experiment
from server.conclusion import difference, model_origins
from server.matrix import (
    MANY_CASES,
    Matrix,
    cell_detail,
    cell_note,
    show_cell,
    show_mean_over_sites,
    table_title,
)
from server.metric import METRIC, NONE, Metric
from server.table import Cell, Table

LIGHTEST, DARKEST = (255, 255, 255), (116, 173, 209)
"""Ends of the heat map: dark text on the darkest has a contrast of 8:1."""
ROWS = (("dsc",), ("ppv", "sen"), ("assd_mm", "hd95_mm"))
"""Which metrics' tables stand side by side where the page is wide enough."""


def matrix_view(matrix: Matrix, experiment: Experiment) -> dict[str, Any]:
    """Returns what the report's template shows of one matrix."""
    low, high = heat_range(matrix)
    spreads = [spread for result in matrix.results.values() for spread in result.metrics.values()]
    return {
        "split": matrix.split,
        "rows": [[(METRIC[key], matrix_table(matrix, METRIC[key], experiment)) for key in row] for row in ROWS],
        "scale": [(METRIC["dsc"].show(low + (high - low) * k / 4, 1), _shade(k / 4)) for k in range(5)],
        "missing": _missing(matrix),
        "num_empty": sum(result.num_empty or 0 for result in matrix.results.values()),
        "has_intervals": any(spread and spread.low is not None for spread in spreads),
        "has_leader": any(leader(matrix, site) for site in matrix.sites),
        "has_rivals": len(matrix.models) > 1,
        "many_cases": MANY_CASES if matrix.decimals(matrix.sites) == 1 else None,
    }


def matrix_table(matrix: Matrix, metric: Metric, experiment: Experiment) -> Table:
    """Returns one row a model: a cell a site, then the mean over sites, the worst site and the spread between them."""
    origins = model_origins(experiment)
    leaders = {site: leader(matrix, site) if metric.key == "dsc" else None for site in matrix.sites}
    columns = [Cell(site, f"n = {matrix.num_cases(site) or NONE}") for site in matrix.sites]
    over_sites = [Cell("mean over sites"), Cell("worst site"), Cell("best to worst")][: 1 if len(columns) < 2 else 3]
    rows = []
    for model in matrix.models:
        home = origins[model].site if model in origins else None
        cells = [_cell(matrix, metric, model, site, leaders[site], home) for site in matrix.sites]
        rows.append((Cell(model), *cells, *_over_sites(matrix, metric, model)[: len(over_sites)]))
    return Table(
        name=f"matrix-{matrix.split}-{metric.key.removesuffix('_mm')}",
        title=table_title(matrix, metric),
        header=(Cell("model"), *columns, *over_sites),
        rows=tuple(rows),
    )


def _over_sites(matrix: Matrix, metric: Metric, model: str) -> list[Cell]:
    site, mean = matrix.worst_site(model, metric.key) or ("", None)
    decimals = matrix.decimals(matrix.sites)
    apart = matrix.range_of_sites(model, metric.key)
    return [
        Cell(*show_mean_over_sites(matrix, model, metric)),
        Cell(metric.show(mean, decimals), site),
        Cell(metric.show(apart, decimals)),
    ]


def leader(matrix: Matrix, site: str) -> str | None:
    """Returns the model whose DSC at a site leads every other's by more than the cases' spread explains, or None.

    DSC alone has one: the best of another metric can mean nothing, such as the PPV of a model that hardly predicts.
    """
    models = [model for model in matrix.models if matrix.mean(model, site, "dsc") is not None]
    if len(models) < 2:
        return None
    best = max(models, key=lambda model: matrix.mean(model, site, "dsc") or 0.0)
    others = [model for model in models if model != best]
    clear = all(difference(matrix, [(best, site)], [(other, site)]).is_clear for other in others)
    return best if clear else None


def heat_range(matrix: Matrix) -> tuple[float, float]:
    """Returns the DSC at the heat map's ends: the matrix's own range, widened to whole tenths; 0 to 1 when empty."""
    known = [matrix.mean(model, site, "dsc") for model in matrix.models for site in matrix.sites]
    values = [value for value in known if value is not None]
    if not values:
        return 0.0, 1.0
    low = floor(min(values) * 10) / 10
    return low, max(ceil(max(values) * 10) / 10, low + 0.1)


def _cell(matrix: Matrix, metric: Metric, model: str, site: str, leads: str | None, home: str | None) -> Cell:
    mean = matrix.mean(model, site, metric.key)
    low, high = heat_range(matrix)
    return Cell(
        text=show_cell(matrix, metric, model, site),
        note=cell_note(matrix, metric, model, site),
        detail=cell_detail(matrix, metric, model, site),
        shade=_shade((mean - low) / (high - low)) if metric.key == "dsc" and mean is not None else "",
        best=model == leads,
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
