"""One cell of the matrix for all folds of a model: what would stand there had its cases been measured together."""

from collections.abc import Mapping, Sequence
from typing import Any

from common.paired_tests import Moments, pooled
from server.metric import METRIC

Cell = Mapping[str, Any]


def over_folds(cells: Sequence[Cell]) -> dict[str, Any]:
    """Returns the cell over the cases of all folds, each of which tests once: exact from n, mean and sample SD.

    A metric that one of the folds withheld is null; against true tumours there is one only if every fold has it. Of a
    single cell, that one; where a fold is withheld as a whole, so is the result.
    """
    if len(cells) == 1:
        return dict(cells[0])
    withheld = next((cell["withheld"] for cell in cells if cell.get("withheld")), None)
    if withheld:
        return {"n": None, "num_undefined": None, "metrics": {}, "withheld": f"a fold: {withheld}"}
    known = [cell for cell in cells if cell["n"]]
    whole = {
        "n": sum(cell["n"] for cell in cells),
        "num_undefined": sum(cell["num_undefined"] for cell in cells),
        "metrics": _spreads(known, "metrics"),
    }
    if known and all(cell.get("truth_metrics") for cell in known):
        whole["truth_metrics"] = _spreads(known, "truth_metrics")
    return whole


def _spreads(cells: Sequence[Cell], against: str) -> dict[str, dict[str, float | None]]:
    names = dict.fromkeys(name for cell in cells for name in cell[against])
    return {name: _spread(cells, against, name) for name in names}


def _spread(cells: Sequence[Cell], against: str, name: str) -> dict[str, float | None]:
    """Mean and sample SD over all cases; both null where a fold with defined values has no mean."""
    parts = [(_num_defined(cell, name), cell[against].get(name) or {}) for cell in cells]
    parts = [(number, spread) for number, spread in parts if number]
    if not parts or any(spread.get("mean") is None for _, spread in parts):
        return {"mean": None, "sd": None}
    whole = pooled([Moments(number, spread["mean"], spread.get("sd") or 0.0) for number, spread in parts])
    has_sd = whole.n > 1 and all(number < 2 or spread.get("sd") is not None for number, spread in parts)
    return {"mean": whole.mean, "sd": whole.sd if has_sd else None}


def _num_defined(cell: Cell, name: str) -> int:
    """Cases that the metric has a value for: distances have none where one of the two masks is empty."""
    return int(cell["n"]) - (int(cell["num_undefined"]) if METRIC[name].is_distance else 0)
