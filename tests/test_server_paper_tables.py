"""The paper's layout: which of our models stands in which row, and the sentence why the two do not compare."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from invented_run import write_run

from common.experiment import Experiment, load_experiment
from server.lineage import lineages
from server.matrix import Matrix, build_matrices
from server.metric import METRIC
from server.paper_tables import paper_table, reproduces_nothing, together
from server.run_record import SiteResult, Spread, read_run
from server.table import Cell


def table_of(folder):
    record = read_run(folder)
    return paper_table(record, build_matrices(record)[0])


def test_table_3_has_its_networks_in_order_with_the_papers_means_beside_ours(tmp_path):
    folder = write_run(tmp_path / "run", reproduces="table3")
    table = table_of(folder)
    assert [row[0].text for row in table.rows] == ["Res-UNet", "MDR-UNet", "CMDR-UNet"]
    last = [cell.text for cell in table.rows[-1]]
    told = [line for line in map(json.loads, (folder / "ledger.jsonl").read_text().splitlines()) if "matrix" in line]
    dsc = told[0]["matrix"]["cmdr-unet"]["A"]["metrics"]["dsc"]
    assert last[1:4] == ["24", f"{100 * dsc['mean']:.2f} ± {100 * dsc['sd']:.2f}", "76.23"]
    assert last[5::2] == ["77.34", "79.14", "1.39", "4.72"]


def test_a_network_that_was_not_run_is_named_and_has_no_row(tmp_path):
    folder = write_run(tmp_path / "run", reproduces="table2")
    text = (folder / "ledger.jsonl").read_text().replace('"unetpp": {"A"', '"other": {"A"')
    (folder / "ledger.jsonl").write_text(text)
    table = table_of(folder)
    assert [row[0].text for row in table.rows] == ["3D CNN (VoxResNet)", "3D Attention-UNet", "Res-UNet"]
    assert "Not run here: 3D UNet++." in table.notes


def test_why_the_two_do_not_compare(tmp_path):
    folder = write_run(tmp_path / "run", reproduces="table3")
    reasons = table_of(folder).notes[-1]
    assert "the cases are synthetic phantoms at scale 0.25, the paper's are patients" in reasons
    assert "tested on A 24, B 12, C 9 cases" in reasons
    assert "20 epochs for 120" in reasons
    assert "plain CT only" in reasons
    assert "one split, not 5 folds" in reasons
    assert "smaller" not in reasons  # the recipe is the full one
    (folder / "attempt.json").write_text("{}")
    assert "another cohort" in table_of(folder).notes[-1]


def steps(*told):
    return Experiment.model_validate({"name": "e", "sites": ["P", "Q", "R"], "steps": list(told)})


TRANSFER = steps(
    {"kind": "train", "model": "first", "sites": ["P"], "local_epochs": 120},
    {"kind": "local", "model": "own", "sites": ["Q", "R"], "rounds": 2, "local_epochs": 30},
    {"kind": "finetune", "model": "tuned", "initial": "first", "sites": ["Q"], "local_epochs": 60},
    {"kind": "train", "model": "both", "initial": "first", "sites": ["Q", "R"]},
)
BASELINES = steps(
    {"kind": "train", "model": "turns", "strategy": "cyclic", "rounds": 4, "local_epochs": 5},
    {"kind": "train", "model": "norms", "strategy": "fedbn", "rounds": 2},
    {"kind": "pooled", "model": "pool", "sites": ["Q", "R"], "local_epochs": 3},
    {"kind": "finetune", "model": "tuned", "initial": "pool", "sites": ["P"]},
)


def test_lineage_of_every_kind_of_model():
    told = {model: (set(line.trained), set(line.tuned), line.epochs) for model, line in lineages(TRANSFER).items()}
    assert told == {
        "first": ({"P"}, set(), 120),
        "own-Q": ({"Q"}, set(), 60),
        "own-R": ({"R"}, set(), 60),
        "tuned-Q": ({"P"}, {"Q"}, 60),
        "both": ({"P"}, {"Q", "R"}, 1),
    }
    told = {model: (set(line.trained), set(line.tuned), line.epochs) for model, line in lineages(BASELINES).items()}
    assert told == {
        "turns": ({"P", "Q", "R"}, set(), 20),
        "norms": ({"P", "Q", "R"}, set(), 2),
        "pool": ({"Q", "R"}, set(), 3),
        "tuned-P": ({"Q", "R"}, {"P"}, 1),
    }


EXPERIMENTS = Path(__file__).parents[1] / "configs" / "experiments"
NUM_ROWS = {"table2": 4, "table3": 3, "table4": 16 + 1}
"""Of Table 4, A on A twice: by folds and on the plain split."""


@pytest.mark.parametrize(
    "path", sorted(EXPERIMENTS.glob("**/table?.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_shipped_experiments_fill_every_row_of_their_table(path, tmp_path):
    """Measured as their `evaluate` steps say."""
    experiment = load_experiment(path)
    spread = {"mean": 0.5, "sd": 0.1}
    cell = {"n": 12, "num_undefined": 0, "metrics": dict.fromkeys(METRIC, spread)}
    lines = []
    for number, step in enumerate(experiment.steps):
        if step.kind == "evaluate":
            models = [name for base in step.models for name in experiment.named(base)]
            matrix = {model: dict.fromkeys(experiment.sites_of(step), cell) for model in models}
            lines.append(json.dumps({"kind": "evaluation", "step": number, "matrix": matrix}) + "\n")
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment.model_dump(mode="json")))
    (tmp_path / "ledger.jsonl").write_text("".join(lines))
    table = table_of(tmp_path)
    assert experiment.reproduces == path.stem
    assert len(table.rows) == NUM_ROWS[path.stem]
    blank = [row[:3] for row in table.rows if any("–" in cell.text for cell in row[table.num_labels :])]
    reverse = [[Cell("B + C"), Cell("–"), Cell("A")]] if path.stem == "table4" else []  # not in the paper
    assert [list(row) for row in blank] == reverse
    assert not any("Not run here" in note for note in table.notes)
    is_small = path.parent.name == "small"
    assert ("smaller than the paper's" in table.notes[-1], "3 folds for 5" in table.notes[-1]) == (is_small, is_small)
    share = "60" if is_small else "30"
    split = f"{share} % of each site's cases test every model, in the paper all of B and C test direct transfer"
    assert (split in table.notes[-1]) == (path.stem == "table4")


def test_table_4_finds_each_row_by_where_its_model_was_trained(tmp_path):
    cell = {
        "n": 12,
        "num_undefined": 0,
        "metrics": {"dsc": {"mean": 0.5, "sd": 0.1}, "assd_mm": {"mean": 2.0, "sd": 1.0}},
    }
    matrix = {model: dict.fromkeys("PQR", cell) for model in lineages(TRANSFER)}
    plan = TRANSFER.model_dump(mode="json") | {"reproduces": "table4"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(plan))
    (tmp_path / "ledger.jsonl").write_text(json.dumps({"kind": "evaluation", "step": 4, "matrix": matrix}) + "\n")
    rows = [[cell.text for cell in row] for row in table_of(tmp_path).rows]
    assert [row[:4] + row[6:7] for row in rows] == [
        ["P", "–", "P", "first", "74.63"],
        ["P", "–", "Q", "first", "68.21"],
        ["P", "–", "R", "first", "61.64"],
        ["P", "–", "Q + R", "first", "64.26"],
        ["P", "Q", "Q", "tuned-Q", "74.49"],
        ["P", "Q + R", "Q", "both", "73.95"],
        ["P", "Q + R", "R", "both", "67.43"],
        ["Q", "–", "Q", "own-Q", "72.84"],
        ["R", "–", "R", "own-R", "65.77"],
        ["Q", "–", "P", "own-Q", "61.23"],
        ["R", "–", "P", "own-R", "58.88"],
    ]
    assert rows[0][4:6] == ["12", "50.00 ± 10.00"]
    assert rows[3][4:6] == ["24", f"50.00 ± {100 * math.sqrt(22 * 0.01 / 23):.2f}"]
    assert "Sites stand for its institutions: P for A, Q for B, R for C." in table_of(tmp_path).notes[0]
    assert any("4 of its 15 rows" in note for note in table_of(tmp_path).notes)


def test_two_sites_together_are_one_cohort():
    parts = {"A": np.array([0.2, 0.5, 0.9, 0.4]), "B": np.array([0.7, 0.8, 0.95])}
    results = {
        ("m", site): SiteResult(n=len(each), metrics={"dsc": Spread(mean=each.mean(), sd=each.std(ddof=1))})
        for site, each in parts.items()
    }
    n, spread = together(Matrix("test", ("m",), ("A", "B"), results), "m", ["A", "B"], METRIC["dsc"])
    whole = np.concatenate(list(parts.values()))
    assert (n, spread.mean, spread.sd) == (7, pytest.approx(whole.mean()), pytest.approx(whole.std(ddof=1)))
    del results["m", "B"]
    assert together(Matrix("test", ("m",), ("A", "B"), results), "m", ["A", "B"], METRIC["dsc"]) == (0, Spread())


def test_an_experiment_without_a_row_says_what_it_needs(tmp_path: Path):
    folder = write_run(tmp_path / "run", reproduces="table4")
    record = read_run(folder)
    assert table_of(folder) is not None  # alone-A, alone-B, alone-C
    lacking = record.experiment.model_copy(update={"reproduces": "table3"})
    assert "needs models named res-unet, mdr-unet, cmdr-unet" in reproduces_nothing(lacking, None)
    assert reproduces_nothing(record.experiment.model_copy(update={"reproduces": ""}), None) == ""
