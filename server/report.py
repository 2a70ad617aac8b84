"""RUN/report.html: one self-contained page of what a run did and what can be concluded from it.

Everything stands in the file: pictures and curves as data URIs, style in the head, no script, no font, no link. A
content security policy in the page forbids the rest, so that it can be mailed and opened anywhere.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.atomic import write_text_atomically
from common.steps import EvaluateStep, PicturesStep, StatisticsStep
from server.box_plots import box_plots
from server.comparison_tables import comparison_tables, other_metrics_table
from server.conclusion import conclusions
from server.curves import learning_curves, timeline
from server.figures import figures, figures_withheld, png_uri
from server.ledger_file import LEDGER
from server.matrix import Matrix, build_matrices
from server.matrix_view import matrix_view
from server.metric import METRIC
from server.paper_tables import paper_table, reproduces_nothing
from server.progress import describe
from server.remedies import with_remedy
from server.run_record import PictureLine, RunRecord, read_run
from server.run_summary import case_counts, duration, model_rows, recipes_rows, site_rows, step_row
from server.savings import saving_curves, savings, sentence
from server.table import Table
from server.tables import write_result_tables
from server.truth_table import truth_tables

TEMPLATES = Path(__file__).parent / "templates"


def write_report(run_folder: Path) -> Path:
    """Writes RUN/report.html; returns its path. Once there is a matrix, the tables of results go beside it.

    A run that still goes on gives a page of what is known so far.

    Raises:
        ConfigError, InputError: the folder holds no readable experiment and ledger.
    """
    record = read_run(run_folder)
    page = run_folder / "report.html"
    if record.evaluations:
        write_result_tables(record)
    write_text_atomically(page, render(record))
    return page


def render(record: RunRecord) -> str:
    """Returns the page as text: a pure function of the record and the pictures in its folder."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html").render(_context(record))


def _context(record: RunRecord) -> dict[str, Any]:
    built = build_matrices(record)
    found, paper = savings(record), paper_table(record, built[0]) if built else None
    return {
        "experiment": record.experiment,
        "last_line": datetime.fromtimestamp((record.folder / LEDGER).stat().st_mtime, UTC),
        "sentences": _sentences(record, built),
        "duration": duration(record.seconds),
        "case_counts": case_counts(record),
        "site_rows": site_rows(record),
        "step_rows": [step_row(record, number) for number in range(len(record.experiment.steps))],
        "recipe_rows": recipes_rows(record.experiment),
        "statistics": record.statistics,
        "matrices": [matrix_view(matrix, record.experiment) for matrix in built],
        "paper": paper,
        "paper_absent": reproduces_nothing(record.experiment, paper) if built else "",
        "comparisons": _comparisons(record, built),
        "folds": bool(record.experiment.folds),
        "model_rows": model_rows(record),
        "pictures": _pictures(record),
        "box_plots": [plot for matrix in built if (plot := box_plots(matrix))],
        "truth": [table for matrix in built for table in truth_tables(matrix)],
        "figures": figures(record),
        "figures_withheld": figures_withheld(record),
        "curves": learning_curves(record),
        "savings": list(map(sentence, found)),
        "saving_curves": saving_curves(found),
        "timeline": timeline(record),
        "dropped": [
            (line, site, with_remedy(reason)) for line in record.rounds for site, reason in line.dropped.items()
        ],
        "events": [(line, (describe(line.model_dump()) or "").strip()) for line in record.events],
    }


def _sentences(record: RunRecord, built: Sequence[Matrix]) -> tuple[str, ...]:
    return conclusions(built[0], record.experiment) if built else (_progress(record),)


def _comparisons(record: RunRecord, built: Sequence[Matrix]) -> list[tuple[str, list[Table]]]:
    """By part of the split: DSC by site, then the other metrics over all sites."""
    told = []
    for matrix in built:
        lines = matrix.comparisons
        tables = [table for table in comparison_tables(lines, matrix.split) if table.name.endswith("-dsc")]
        others = other_metrics_table(lines, matrix.split)
        if lines:
            told.append((matrix.split, tables + ([others] if others.rows else [])))
    return told


def _progress(record: RunRecord) -> str:
    planned = sum(
        step.rounds * sum(len(record.experiment.files_of(model)) for model in record.experiment.results_of(step))
        for step in record.experiment.steps
        if not isinstance(step, StatisticsStep | EvaluateStep | PicturesStep)
    )
    return f"Nothing was evaluated yet: {len(record.rounds)} of {planned} rounds are done. No conclusion can be drawn."


def _pictures(record: RunRecord) -> list[tuple[str, str]]:
    """Caption and data URI of every PNG in the run's `pictures` that is not one of `figures`, by name."""
    captions = {
        picture.file: _caption(picture, line.split)
        for line in record.evaluations
        for picture in line.pictures
        if isinstance(picture, PictureLine)
    }
    figured = {record.folder / picture.file for line in record.pictures for picture in line.pictures}
    paths = sorted({*(record.folder / "pictures").glob("*.png")} - figured)
    unknown = {path: ", picture ".join(path.stem.rsplit("-", 1)) for path in paths}
    return [(captions.get(f"pictures/{path.name}", unknown[path]), png_uri(path)) for path in paths]


def _caption(picture: PictureLine, split: str) -> str:
    score = "" if picture.dsc is None else f": DSC {METRIC['dsc'].show(picture.dsc, 1)}\N{NO-BREAK SPACE}%"
    return f"{picture.model} at {picture.site}, {split} case {picture.case}{score}"
