"""One experiment at several seeds as a table: what stays, and how much is noise."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from common.atomic import write_text_atomically
from common.experiment import Experiment
from server.findings import Finding, findings
from server.matrix import load_matrices

NOTES = """
Over seeds: the interval of the mean over further trainings on these patients (Student's t). Over cases: over further
patients of these sites, of these trainings; paired where the same cases were measured and compared, cautious else.
"""


def write_seeds(experiment: Experiment, runs: Mapping[int, Path], folder: Path) -> str:
    """Writes `seeds.md` into `folder` and returns its text: a row a quantity, a column a seed, then mean and noise."""
    matrices = [load_matrices(run)[0] for run in runs.values()]
    found = findings(experiment, matrices)
    seeds = [f"seed {seed}" for seed in runs]
    header = [
        f"DSC, % ({matrices[0].split} cases)",
        *seeds,
        "mean",
        "SD over seeds",
        "95 % over seeds",
        "95 % over cases",
    ]
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *map(_row, found)]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n" + NOTES
    write_text_atomically(folder / "seeds.md", text)
    return text


def _row(row: Finding) -> list[str]:
    values = [f"{value:.2f}" for value in (*row.values, fmean(row.values))]
    return [
        row.name,
        *values,
        "–" if row.sd is None else f"{row.sd:.2f}",
        *map(_range, (row.over_seeds, row.over_cases)),
    ]


def _range(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
