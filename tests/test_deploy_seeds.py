"""Several seeds of one experiment: every number by hand from two tiny run folders."""

import json
import math

import pytest
import yaml

from common.errors import InputError
from common.experiment import Experiment
from deploy.seeds import Finding, findings, write_seeds
from server.matrix import load_matrices

STEPS = [
    {"kind": "statistics"},
    {"kind": "train", "model": "fed"},
    {"kind": "local", "model": "loc"},
    {"kind": "finetune", "model": "fin", "initial": "fed"},
    {"kind": "pooled", "model": "pool"},
    {"kind": "pooled", "model": "other", "sites": ["A"]},
    {"kind": "evaluate", "models": ["fed", "loc", "fin", "pool", "other"]},
]
DSC = {  # model: at A, at B, in per cent; seed 1 and seed 2
    1: {"fed": (70, 60), "loc-A": (80, 20), "loc-B": (30, 50), "fin-A": (74, 58), "fin-B": (66, 66),
        "pool": (72, 64), "other": (1, 1)},
    2: {"fed": (60, 60), "loc-A": (70, 40), "loc-B": (10, 50), "fin-A": (68, 50), "fin-B": (60, 62),
        "pool": (60, 64), "other": (1, 1)},
}  # fmt: skip
BY_HAND = {
    "fed, mean over sites": (65, 60),
    "loc-A, mean over sites": (50, 55),
    "loc-B, mean over sites": (40, 30),
    "fin-A, mean over sites": (66, 59),
    "fin-B, mean over sites": (66, 61),
    "pool, mean over sites": (68, 62),
    "other, mean over sites": (1, 1),
    "fed minus pool, mean over sites": (-3, -2),  # `other` is of other sites
    "fed minus loc-A, mean over sites": (15, 5),
    "fed minus loc-B, mean over sites": (25, 30),
    "fed minus local-only models abroad, mean": (40, 35),  # loc-A at B: 40, 20; loc-B at A: 40, 50
    "fin-A minus fed, at A": (4, 8),
    "fin-B minus fed, at B": (6, 2),
    "fine-tuned minus fed, each at its own site, mean": (5, 5),
}


def experiment(sites=("A", "B"), steps=STEPS):
    return Experiment.model_validate({"name": "e", "sites": sites, "steps": steps})


def write_run(folder, told, config):
    folder.mkdir()
    (folder / "experiment.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    matrix = {
        model: {site: cell(value) for site, value in zip(config.sites, row, strict=True)} for model, row in told.items()
    }
    (folder / "ledger.jsonl").write_text(json.dumps({"kind": "evaluation", "step": 6, "matrix": matrix}) + "\n")
    return folder


def cell(value):
    return None if value is None else {"n": 2, "metrics": {"dsc": {"mean": value / 100, "sd": 0.1}}}


@pytest.fixture
def runs(tmp_path):
    return {seed: write_run(tmp_path / f"seed-{seed}", told, experiment()) for seed, told in DSC.items()}


def matrices_of(runs):
    return [load_matrices(run)[0] for run in runs.values()]


def test_every_quantity_by_hand(runs):
    found = {finding.name: finding.values for finding in findings(experiment(), matrices_of(runs))}
    assert list(found) == list(BY_HAND)
    for name, values in BY_HAND.items():
        assert found[name] == pytest.approx(values), name


def test_the_table_has_a_row_a_quantity_and_a_column_a_seed(tmp_path, runs):
    text = write_seeds(experiment(), runs, tmp_path)
    assert (tmp_path / "seeds.md").read_text() == text
    lines = text.splitlines()
    assert lines[0] == "| DSC, % (test cases) | seed 1 | seed 2 | mean | SD over seeds |"
    assert len(lines) == 2 + len(BY_HAND)
    assert "| fed, mean over sites | 65.00 | 60.00 | 62.50 | 3.54 |" in lines  # 5 / sqrt 2
    assert lines[-1] == "| fine-tuned minus fed, each at its own site, mean | 5.00 | 5.00 | 5.00 | 0.00 |"


def test_one_seed_has_no_noise(tmp_path, runs):
    assert Finding("x", (3.0,)).sd is None
    text = write_seeds(experiment(), {1: runs[1]}, tmp_path)
    assert text.splitlines()[2] == "| fed, mean over sites | 65.00 | 65.00 | – |"


def test_what_a_site_withheld_shows_instead_of_being_left_out(tmp_path, runs):
    told = DSC[2] | {"fed": (60, None)}
    text = write_seeds(experiment(), {1: runs[1], 3: write_run(tmp_path / "s", told, experiment())}, tmp_path)
    assert "| fed, mean over sites | 65.00 | nan | nan | – |" in text
    assert "| fed minus local-only models abroad, mean | 40.00 | nan | nan | – |" in text
    assert "| fin-A minus fed, at A | 4.00 | 8.00 | 6.00 | 2.83 |" in text
    assert math.isnan(Finding("x", (1.0, math.nan)).values[1])


def test_models_that_were_not_evaluated_have_no_row(tmp_path):
    config = experiment(steps=[*STEPS[:4], {"kind": "evaluate", "models": ["fed"]}])
    run = write_run(tmp_path / "r", {"fed": (70, 60)}, config)
    assert [finding.name for finding in findings(config, matrices_of({1: run}))] == ["fed, mean over sites"]


def test_local_models_of_a_single_cohort_have_no_abroad(tmp_path):
    steps = [STEPS[0], STEPS[1], {"kind": "local", "model": "loc", "sites": ["A"]}]
    config = experiment(steps=[*steps, {"kind": "evaluate", "models": ["fed", "loc"], "sites": ["A"]}])
    run = write_run(tmp_path / "r", {}, config)
    matrix = {"fed": {"A": cell(70)}, "loc-A": {"A": cell(60)}}
    (run / "ledger.jsonl").write_text(json.dumps({"kind": "evaluation", "step": 3, "matrix": matrix}) + "\n")
    names = [finding.name for finding in findings(config, matrices_of({1: run}))]
    assert "fed minus loc-A, mean over sites" in names
    assert not any("abroad" in name for name in names)


def test_a_run_without_evaluation_is_named(tmp_path):
    run = write_run(tmp_path / "r", {}, experiment())
    (run / "ledger.jsonl").write_text("")
    with pytest.raises(InputError, match="nothing was evaluated yet"):
        write_seeds(experiment(), {1: run}, tmp_path)
    assert not (tmp_path / "seeds.md").exists()
