"""All tables of a run's results, and their files beside the report."""

from collections.abc import Iterable
from pathlib import Path

from common.atomic import write_text_atomically
from common.errors import InputError
from common.experiment import Experiment
from server.comparison_tables import NOTE, comparison_tables, comparisons_csv
from server.matrix import Matrix, build_matrices, to_csv
from server.matrix_view import matrix_table
from server.metric import METRICS
from server.paper_tables import paper_table
from server.run_record import RunRecord
from server.table import Table, to_markdown, write_tables
from server.truth_table import truth_tables

FOLDER = "tables"


def matrix_tables(matrix: Matrix, experiment: Experiment) -> tuple[Table, ...]:
    """Returns one table a metric."""
    return tuple(matrix_table(matrix, metric, experiment) for metric in METRICS)


def result_tables(record: RunRecord) -> tuple[Table, ...]:
    """Returns every table of results that the run can fill: the paper's, matrices, comparisons, truth."""
    matrices = build_matrices(record)
    paper = paper_table(record, matrices[0]) if matrices else None
    tables = [paper] if paper else []
    for matrix in matrices:
        tables += matrix_tables(matrix, record.experiment)
        tables += comparison_tables(matrix.comparisons, matrix.split)
        tables += truth_tables(matrix)
    return tuple(tables)


def write_result_tables(record: RunRecord) -> tuple[Path, Path]:
    """Writes RUN/matrix.csv and .md, RUN/comparisons.csv and .md and the files of RUN/tables; returns the first two.

    Of an older run, which compared nothing, those of the comparisons hold no line.

    Raises:
        InputError: nothing was evaluated yet.
    """
    matrices = build_matrices(record)
    if not matrices:
        raise InputError(f"{record.folder}: nothing was evaluated yet; let the run reach its `evaluate` step")
    tables = [table for matrix in matrices for table in matrix_tables(matrix, record.experiment)]
    csv_path, markdown_path = record.folder / "matrix.csv", record.folder / "matrix.md"
    write_text_atomically(csv_path, to_csv(matrices))
    write_text_atomically(markdown_path, "\n".join(map(to_markdown, tables)))
    _write_comparisons(record.folder, matrices)
    write_tables(record.folder / FOLDER, result_tables(record))
    return csv_path, markdown_path


def _write_comparisons(folder: Path, matrices: Iterable[Matrix]) -> None:
    tables = [table for matrix in matrices for table in comparison_tables(matrix.comparisons, matrix.split)]
    text = "\n".join([*map(to_markdown, tables), f"{NOTE}\n"])
    write_text_atomically(folder / "comparisons.csv", comparisons_csv(matrices))
    write_text_atomically(folder / "comparisons.md", text)
