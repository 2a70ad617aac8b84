"""The experiments that ship: each loads, and its small preset has the same steps."""

from pathlib import Path

import pytest

from common.experiment import Experiment, load_experiment
from server.experiment import check_strategies

FOLDER = Path(__file__).parents[1] / "configs" / "experiments"
PAPER = sorted(path.stem for path in (FOLDER / "small").glob("*.yaml"))
SIZES = {"rounds", "local_epochs", "lr0"}
"""What a small preset may change of a step."""


def shape(experiment: Experiment) -> list[dict[str, object]]:
    """Every step without its sizes: kind, model, sites, strategy, recipe, folds, start, what is measured."""
    return [step.model_dump(exclude=SIZES) for step in experiment.steps]


def test_the_paper_s_experiments_are_all_there() -> None:
    assert {"table2", "table3", "table4", "federated", "leave_one_site_out"} <= set(PAPER)


@pytest.mark.parametrize("name", PAPER)
def test_full_and_small_have_the_same_steps(name: str) -> None:
    full, small = (load_experiment(FOLDER / part / f"{name}.yaml") for part in ("", "small"))
    assert shape(full) == shape(small)
    assert full.sites == small.sites
    assert full.name != small.name
    assert list(full.recipes) == list(small.recipes)
    assert all(small.simulation.cases[site] >= 9 for site in small.sites)
    assert small.simulation.scale <= 0.5
    for each in (full, small):
        check_strategies(each)


@pytest.mark.parametrize("name", PAPER)
def test_a_small_preset_s_networks_are_those_of_the_full_one_in_small(name: str) -> None:
    full, small = (load_experiment(FOLDER / part / f"{name}.yaml") for part in ("", "small"))
    for large, little in zip(*((each.recipe, *each.recipes.values()) for each in (full, small)), strict=True):
        assert list(large.stages) == list(little.stages)
        for stage in large.stages:
            one, other = large.stages[stage].network, little.stages[stage].network
            assert (one.kind, one.aspp is None) == (other.kind, other.aspp is None)


def test_table_2_and_3_have_the_paper_s_six_networks() -> None:
    measured = [
        load_experiment(FOLDER / f"{table}.yaml").steps[-2].model_dump()["models"] for table in ("table2", "table3")
    ]
    assert measured == [
        ("voxresnet", "attention-unet", "unet-plus-plus", "res-unet"),
        ("res-unet", "mdr-unet", "cmdr-unet"),
    ]
