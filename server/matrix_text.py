"""The matrix of one metric for the terminal."""

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from server.matrix import build_matrices
from server.matrix_view import matrix_table
from server.metric import METRIC
from server.run_record import read_run
from server.table import Cell

if TYPE_CHECKING:
    from rich.table import Table


def matrix_text(run_folder: Path, metric: str = "dsc") -> "Table | str":
    """Returns the matrix of one metric as a rich table, the test cases' if there is one.

    A run without an evaluation gives a sentence that says so.

    Raises:
        InputError: the folder holds no readable run, or the metric is unknown.
    """
    from rich.table import Table

    if metric not in METRIC:
        raise InputError(f"metric: {metric!r} is unknown; expected one of {', '.join(METRIC)}")
    record = read_run(run_folder)
    matrices = build_matrices(record)
    if not matrices:
        return "No matrix: nothing was evaluated yet."
    source = matrix_table(matrices[0], METRIC[metric], record.experiment)
    table = Table(title=source.title)
    shown = len(matrices[0].sites) + 2  # what fits: model, sites and mean
    for number, cell in enumerate(source.header[:shown]):
        table.add_column(_two_lines(cell), justify="right" if number else "left")
    for row in source.rows:
        table.add_row(*map(_two_lines, row[:shown]))
    return table


def _two_lines(cell: Cell) -> str:
    """Number and note; medians and intervals stand in the report, where there is room."""
    from rich.markup import escape

    return escape(f"{cell.text}\n{cell.note}" if cell.note else cell.text)
