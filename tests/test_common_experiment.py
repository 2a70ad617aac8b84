"""Experiments: steps that refer to what exists, recipes, folds and pictures, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from configuration import STATISTICS, experiment, refused

from common.errors import ConfigError
from common.experiment import Experiment, load_experiment
from common.recipe import Recipe, TrainingConfig
from common.settings import parse_yaml
from common.split import SplitConfig
from common.steps import EvaluateStep, FinetuneStep

REPOSITORY = Path(__file__).parents[1]


TRAIN = {"kind": "train", "model": "federated", "rounds": 3, "local_epochs": 2}


def test_a_site_named_twice() -> None:
    data = {"name": "demo", "sites": ["A", "B", "A"], "steps": []}
    refused(data, Experiment, "sites", "site 'A' is named twice", "name every site once")
    refused(data | {"sites": []}, Experiment, "no site is named", "expected at least one")


@pytest.mark.parametrize(
    "step",
    [
        {"kind": "evaluate", "models": ["federated", "other"]},
        {"kind": "finetune", "model": "tuned", "initial": "other"},
        {"kind": "train", "model": "second", "initial": "other"},
        {"kind": "pooled", "model": "together", "initial": "other"},
    ],
)
def test_a_model_that_no_earlier_step_makes(step: dict[str, Any]) -> None:
    data = {"name": "demo", "sites": ["A"], "steps": [STATISTICS, TRAIN, step]}
    refused(data, Experiment, "step 3", "'other'", "no earlier step makes", "made so far: federated")


def test_a_model_of_a_later_step_does_not_exist_yet() -> None:
    steps = [{"kind": "evaluate", "models": ["federated"]}, TRAIN]
    refused({"name": "demo", "sites": ["A"], "steps": steps}, Experiment, "step 1", "'federated'", "made so far: none")


def test_a_model_that_is_made_twice() -> None:
    data = {"name": "demo", "sites": ["A"], "steps": [TRAIN, TRAIN]}
    refused(data, Experiment, "step 2 makes model 'federated'", "an earlier step makes already")
    local = {"kind": "local", "model": "alone"}
    same = {"kind": "train", "model": "alone-A"}
    refused({"name": "demo", "sites": ["A"], "steps": [local, same]}, Experiment, "'alone-A'", "already")


def test_a_pooled_model_with_a_sites_name() -> None:
    """Where it is trained goes by its name, beside the sites."""
    data = {"name": "demo", "sites": ["A"], "steps": [{"kind": "pooled", "model": "A"}]}
    refused(data, Experiment, "step 1", "'A'", "a site's name")


def test_a_step_over_an_unknown_site() -> None:
    data = {"name": "demo", "sites": ["A", "B"], "steps": [TRAIN | {"sites": ["A", "C"]}]}
    refused(data, Experiment, "step 1 names site 'C'", "expected one of A, B")


def test_a_step_of_unknown_kind() -> None:
    data = {"name": "demo", "sites": ["A"], "steps": [{"kind": "trian"}]}
    refused(data, Experiment, "steps.0", "'trian'", "'train', 'local', 'finetune', 'pooled', 'evaluate'")


def test_sites_models_and_epochs_of_steps() -> None:
    made = experiment(
        TRAIN,
        {"kind": "local", "model": "alone", "sites": ["B"]},
        {"kind": "finetune", "model": "tuned", "initial": "federated"},
        {"kind": "evaluate", "models": ["federated", "alone", "alone-B", "tuned-A"]},
    )
    _, train, local, finetune, evaluate = made.steps
    assert [made.sites_of(step) for step in made.steps] == [("A", "B"), ("A", "B"), ("B",), ("A", "B"), ("A", "B")]
    assert [made.results_of(step) for step in (train, local, finetune)] == [
        ("federated",),
        ("alone-B",),
        ("tuned-A", "tuned-B"),
    ]
    assert getattr(train, "epochs") == 6  # noqa: B009 (a union's member)
    assert isinstance(finetune, FinetuneStep)
    assert isinstance(evaluate, EvaluateStep)


RES = {"stage1": {"network": {"aspp": None}}, "stage2": None}


def test_a_model_s_recipe_is_its_step_s_or_that_of_what_it_starts_from() -> None:
    made = experiment(
        {"kind": "train", "model": "plain"},
        {"kind": "train", "model": "res", "recipe": "res"},
        {"kind": "finetune", "model": "tuned", "initial": "res"},
        {"kind": "local", "model": "own", "recipe": "res"},
        recipes={"res": RES},
    )
    assert made.recipe_of("plain") == made.recipe
    for model in ("res", "tuned-A", "own", "own-B"):
        assert made.recipe_of(model) == made.recipes["res"] != made.recipe


@pytest.mark.parametrize(
    ("step", "fields", "words"),
    [
        (
            {"kind": "local", "model": "m", "recipe": "other"},
            {},
            "recipe 'other'; expected one of `recipes`: res",
        ),
        ({"kind": "finetune", "model": "m", "initial": "base", "recipe": "res"}, {}, "whose networks are not those of"),
        ({"kind": "local", "model": "m", "folds": True}, {}, "split.folds is 0"),
        ({"kind": "pictures", "models": ["other"]}, {}, "needs model 'other', which no earlier step makes"),
        ({"kind": "local", "model": "m.fold-1"}, {"split": {"folds": 2}}, "a fold's model ends so"),
        (
            {"kind": "finetune", "model": "m", "initial": "base", "folds": True},
            {"split": {"folds": 2}},
            "has seen test cases of A, B",
        ),
        ({"kind": "local", "model": "m"}, {"split": {"folds": 2, "fold": 1}}, "split.fold: 1; expected 0"),
        ({"kind": "local", "model": "m"}, {"split": {"folds": 1}}, "folds: 1; expected 0 (none) or at least 2"),
        (
            {"kind": "local", "model": "m"},
            {"recipes": {"coarse": {"preprocess": {"spacing_mm": [6, 3, 3]}}}},
            "recipes.coarse: preprocess is not that of `recipe`",
        ),
    ],
)
def test_recipes_and_folds_that_do_not_fit(step: dict[str, Any], fields: dict[str, Any], words: str) -> None:
    data = {
        "name": "e",
        "sites": ["A", "B"],
        "recipes": {"res": RES},
        "steps": [{"kind": "train", "model": "base"}, step],
    }
    refused(data | fields, Experiment, words)


PICTURED = [
    {"kind": "train", "model": "base", "folds": True},
    {"kind": "train", "model": "plain"},
    {"kind": "finetune", "model": "tuned", "initial": "base"},
]


@pytest.mark.parametrize(
    ("model", "fold", "words"),
    [
        *((model, 0, "which is made for each fold, with `fold: 0`") for model in ("base", "tuned", "tuned-B")),
        ("base", 3, "with `fold: 3`; expected one from 1 to 2"),
        ("plain", 1, "which is made for the plain split and may have been trained on cases that the fold tests"),
    ],
)
def test_pictures_are_of_one_fold_or_of_the_plain_split(model: str, fold: int, words: str) -> None:
    steps = [*PICTURED, {"kind": "pictures", "models": [model], "fold": fold}]
    data = {"name": "e", "sites": ["A", "B"], "split": {"folds": 2}, "steps": steps}
    refused(data, Experiment, f"step 4 draws model '{model}'", words)


def test_pictures_of_a_fold_may_be_of_several_models() -> None:
    drawn = {"kind": "pictures", "models": ["base", "tuned"], "fold": 2}
    assert experiment(*PICTURED, drawn, split={"folds": 2}).steps[-1].model_dump()["fold"] == 2


def test_folds_of_a_step_and_of_what_goes_on_from_it() -> None:
    made = experiment(
        {"kind": "train", "model": "base", "folds": True, "sites": ["A"]},
        {"kind": "train", "model": "plain", "sites": ["A"]},
        {"kind": "finetune", "model": "tuned", "initial": "base"},
        {"kind": "finetune", "model": "moved", "initial": "plain", "sites": ["B"], "folds": True},
        split={"folds": 3},
    )
    assert made.folds == (1, 2, 3)
    assert [made.folds_of(model) for model in ("base", "plain", "tuned-B")] == [(1, 2, 3), (), (1, 2, 3)]
    assert made.files_of("moved-B") == ("moved-B.fold-1", "moved-B.fold-2", "moved-B.fold-3")
    assert made.files_of("plain") == ("plain",)
    assert [made.cohort_of(model) for model in ("base.fold-2", "tuned-B.fold-1")] == [("A",), ("B",)]
    assert made.split_of(2) == SplitConfig(folds=3, fold=2)


def test_an_experiment_names_recipes_beside_it(tmp_path: Path) -> None:
    (tmp_path / "res.yaml").write_text("{stage1: {network: {aspp: null}}, stage2: null}\n")
    path = tmp_path / "e.yaml"
    path.write_text(
        "{name: e, sites: [A], recipes: {res: res.yaml, own: {stage2: null}}, steps: [{kind: statistics}]}\n"
    )
    made = load_experiment(path)
    assert made.recipes == {"res": Recipe.model_validate(RES), "own": Recipe(stage2=None)}


EXPERIMENT = {"name": "e", "sites": ["A", "B"], "recipe": {}, "steps": [{"kind": "statistics"}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": []}, "steps: expected a list of at least 1"),
        ({"steps": [{"kind": "evaluate", "models": []}]}, "models: expected a list of at least 1"),
        ({"rounds": {"quorum": 3}}, "rounds.quorum: 3; expected at most the number of sites, 2"),
        ({"simulation": {"cases": {"C": 3}}}, "simulation.cases names site 'C'; expected one of A, B"),
    ],
)
def test_an_experiment_that_cannot_run(change: dict[str, Any], words: str) -> None:
    refused({**EXPERIMENT, **change}, Experiment, words)


def test_an_experiment_names_its_recipe_beside_it(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.yaml").write_text("training: {lr0: 0.25}\n")
    path = tmp_path / "experiment.yaml"
    path.write_text("{name: demo, sites: [A], recipe: recipes/small.yaml, steps: [{kind: statistics}]}\n")
    assert load_experiment(path).recipe == Recipe(training=TrainingConfig(lr0=0.25))
    (tmp_path / "recipes" / "small.yaml").write_text("training: {lr: 0.25}\n")
    with pytest.raises(ConfigError, match=r"small\.yaml: unknown key 'training\.lr'"):
        load_experiment(path)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs" / "experiments").glob("*.yaml")), ids=lambda p: p.name)
def test_experiments_that_ship_are_valid_and_survive_yaml_and_json(path: Path) -> None:
    loaded = load_experiment(path)
    assert parse_yaml(yaml.safe_dump(loaded.model_dump(mode="json")), Experiment, "again") == loaded
    assert parse_yaml(loaded.model_dump_json(), Experiment, "again") == loaded
