"""Several seeds of one experiment: every number by hand from two tiny run folders."""

import json
import math

import pytest
import yaml

from common.errors import InputError
from common.experiment import Experiment
from deploy.seeds import write_seeds
from server.findings import Finding, findings
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
    "loc-A: at B minus at A": (-60, -30),
    "loc-B: at A minus at B": (-20, -40),
    "fin-A minus fed, at A": (4, 8),
    "fin-B minus fed, at B": (6, 2),
    "fine-tuned minus fed, each at its own site, mean": (5, 5),
    "fine-tuned minus pool, each at its own site, mean": (2, 3),  # fin-A 74, 68; fin-B 66, 62
    "fine-tuned minus local-only, each at its own site, mean": (5, 5),  # loc-A 80, 70; loc-B 50, 50
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
    assert (
        lines[0]
        == "| DSC, % (test cases) | seed 1 | seed 2 | mean | SD over seeds | 95 % over seeds | 95 % over cases |"
    )
    assert sum(line.startswith("| ") for line in lines) == 2 + len(BY_HAND)
    # SD 5 / sqrt 2; t(1) = 12.706 times 3.536 / sqrt 2; two sites' SE of 10 / sqrt 2 each, so 12.706 x 5
    assert "| fed, mean over sites | 65.00 | 60.00 | 62.50 | 3.54 | 30.7 to 94.3 | -1.0 to 126.0 |" in lines
    # unpaired: each site's difference has an SE of 10, so 12.706 x 10 / sqrt 2
    told = "fine-tuned minus local-only, each at its own site, mean"
    assert f"| {told} | 5.00 | 5.00 | 5.00 | 0.00 | – | -84.8 to 94.8 |" in lines


def test_one_seed_has_no_noise(tmp_path, runs):
    assert Finding("x", (3.0,)).sd is None
    text = write_seeds(experiment(), {1: runs[1]}, tmp_path)
    assert text.splitlines()[2] == "| fed, mean over sites | 65.00 | 65.00 | – | – | 1.5 to 128.5 |"


def test_what_a_site_withheld_shows_instead_of_being_left_out(tmp_path, runs):
    told = DSC[2] | {"fed": (60, None)}
    text = write_seeds(experiment(), {1: runs[1], 3: write_run(tmp_path / "s", told, experiment())}, tmp_path)
    assert "| fed, mean over sites | 65.00 | nan | nan | – | – | – |" in text
    assert "| fed minus local-only models abroad, mean | 40.00 | nan | nan | – | – | – |" in text
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


def compared(sd, n=4):
    told = {"first": "fin-A", "second": "fed", "site": "A", "metric": "dsc"}
    return told | {"n": n, "difference": 0.04, "sd": sd, "low": None, "high": None, "t": None, "t_p": None}


def test_where_sites_compared_two_models_the_error_is_that_of_the_pairs(tmp_path, runs):
    line = json.loads((runs[1] / "ledger.jsonl").read_text())
    (runs[1] / "ledger.jsonl").write_text(json.dumps(line | {"comparisons": [compared(0.02)]}) + "\n")
    found = {each.name: each for each in findings(experiment(), matrices_of({1: runs[1]}))}
    assert found["fin-A minus fed, at A"].errors == pytest.approx((1.0,))  # 2 points over sqrt 4
    assert found["fin-B minus fed, at B"].errors == pytest.approx((10.0,))  # unpaired: sqrt 2 times 10 / sqrt 2
    assert found["fin-A minus fed, at A"].over_cases == pytest.approx((4 - 12.7062, 4 + 12.7062))


def test_cells_of_one_site_are_not_taken_for_independent(tmp_path):
    """Three pairs of 10 points' error each, two of them at B: sqrt(20 x 20 + 10 x 10) / 3, not 10 / sqrt(3)."""
    steps = [*STEPS[:3], {"kind": "train", "model": "twin", "sites": ["A"]}]
    config = experiment(steps=[*steps, {"kind": "evaluate", "models": ["fed", "loc", "twin"]}])
    told = {model: DSC[1][model] for model in ("fed", "loc-A", "loc-B")} | {"twin": (50, 40)}
    run = write_run(tmp_path / "r", told, config)
    found = {each.name: each for each in findings(config, matrices_of({1: run}))}
    assert found["fed minus local-only models abroad, mean"].errors == pytest.approx((math.sqrt(500) / 3,))


def test_a_model_that_is_not_measured_everywhere_is_told_where(tmp_path, runs):
    line = json.loads((runs[1] / "ledger.jsonl").read_text())
    line["matrix"]["pool"] = {"B": line["matrix"]["pool"]["B"]}
    (runs[1] / "ledger.jsonl").write_text(json.dumps(line) + "\n")
    found = {each.name: each.values for each in findings(experiment(), matrices_of({1: runs[1]}))}
    assert found["pool, at B"] == pytest.approx((64,))
    assert found["fed minus pool, at B"] == pytest.approx((-4,))
    assert math.isnan(*found["fine-tuned minus pool, each at its own site, mean"])
