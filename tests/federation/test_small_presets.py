"""The small presets of the paper's experiments, each step for an epoch on few phantoms: all go through to their end."""

from pathlib import Path

import pytest

from common.experiment import load_experiment
from deploy.simulation import run_simulation
from server.matrix import build_matrices
from server.run_record import read_run

SMALL = Path(__file__).parents[2] / "configs" / "experiments" / "small"
CASES = 6


def shortened(path):
    """The experiment with one round of one epoch a step, and few patients."""
    config = load_experiment(path)
    short = {"rounds": 1, "local_epochs": 1}
    steps = [
        step.model_copy(update={k: v for k, v in short.items() if k in type(step).model_fields})
        for step in config.steps
    ]
    simulation = config.simulation.model_copy(update={"cases": dict.fromkeys(config.sites, CASES)})
    return config.model_copy(update={"steps": tuple(steps), "simulation": simulation})


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SMALL.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_small_preset_runs_to_its_end_with_every_row_and_picture(path, tmp_path):
    config = shortened(path)
    report = run_simulation(config, tmp_path / "run", tmp_path / "sites")
    record = read_run(tmp_path / "run")
    (matrix,) = build_matrices(record)
    asked = [(base, config.sites_of(step)) for step in config.steps if step.kind == "evaluate" for base in step.models]
    wanted = {(model, site) for base, sites in asked for model in config.named(base) for site in sites}
    assert {key for key, cell in matrix.results.items() if cell.n} == wanted
    (drawn,) = record.pictures
    assert not drawn.withheld
    assert {picture.site for picture in drawn.pictures} == set(config.sites_of(config.steps[-1]))
    assert report.stat().st_size > 10_000
