"""A plan before the run: what is to do, what is done, how long; and not a file more than before."""

import json

import pytest
import yaml

from common.errors import ConfigError
from common.experiment import Experiment
from common.recipe import NetworkConfig, Recipe, StageConfig
from common.split import SplitConfig
from server.model_key import find_earlier, model_key
from server.plan import plan_lines

RECIPE = Recipe(
    stage1=StageConfig(network=NetworkConfig(widths=(2, 2), strides=((2, 2, 2),), aspp=None), patch_size=(8, 8, 8)),
    stage2=None,
)
STEPS = (
    {"kind": "statistics"},
    {"kind": "train", "model": "m", "rounds": 4, "local_epochs": 5},
    {"kind": "finetune", "model": "tuned", "initial": "m", "local_epochs": 10},
    {"kind": "evaluate", "models": ["m", "tuned"]},
)
STATISTICS = {
    "kind": "statistics",
    "step": 0,
    "sites": {"A": {"train": 3, "digest": "a" * 32}, "B": {"train": 3, "digest": "b" * 32}},
    "mean": 0.0,
    "sd": 1.0,
    "folds": {},
    "seconds": 30.0,
}
MODEL = {"kind": "model", "model": "m", "round": 4, "validation_dsc": None}


def experiment(*steps, **fields):
    return Experiment(name="tiny", sites=("A", "B"), recipe=RECIPE, steps=steps or STEPS, **fields)


def round_line(number, seconds, model="m", step=1):
    return {
        "kind": "round",
        "step": step,
        "model": model,
        "round": number,
        "rounds": 4,
        "seconds": seconds,
        "sites": {},
    }


def write(folder, config, *lines):
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    (folder / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def everything(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_run_that_is_not_begun_has_no_time_and_leaves_no_trace(tmp_path):
    lines = list(plan_lines(experiment(), tmp_path / "runs" / "tiny"))
    assert lines[1:] == [
        "1. statistics at A, B: not known",
        "2. train m (fedavg) at A, B: 4 rounds of 5 epochs; not known",
        "3. finetune tuned, from m at A, B: 1 round of 10 epochs; not known",
        "4. evaluate m, tuned on test cases at A, B: not known",
        "to do: 5 rounds of training; time: not known",
        "what can be copied from other runs is known after the `statistics` step",
    ]
    assert everything(tmp_path) == {}


def test_pictures_are_planned_with_the_time_that_they_took_before(tmp_path):
    config = experiment(*STEPS[:2], {"kind": "pictures", "models": ["m"], "what": ["planes"]})
    drawn = {"kind": "pictures", "step": 2, "pictures": [], "withheld": {}, "seconds": 60.0}
    write(tmp_path / "runs" / "before", config, drawn)
    lines = list(plan_lines(config, tmp_path / "runs" / "tiny"))
    assert lines[3].startswith("3. pictures (planes) of m at A, B: about 1")


def test_what_is_done_is_told_and_time_comes_from_the_rounds_on_record(tmp_path):
    """Two rounds of 5 epochs took 10 and 20 s, so an epoch takes 3 s: 30 s for the rest, 30 s for fine-tuning."""
    folder = tmp_path / "tiny"
    write(folder, experiment(), STATISTICS, {"kind": "done", "step": 0}, round_line(1, 10.0), round_line(2, 20.0))
    before = everything(tmp_path)
    _, first, second, third, fourth, last = plan_lines(experiment(), folder)
    assert first == "1. statistics at A, B: done"
    assert second.endswith("4 rounds of 5 epochs; about 30 s (m: 2 of 4 rounds done)")
    assert third.endswith("1 round of 10 epochs; about 30 s")
    assert fourth.endswith("not known")
    assert last == "to do: 3 rounds of training; time: not known"
    assert everything(tmp_path) == before


def test_a_run_beside_it_tells_the_time_and_what_is_copied(tmp_path):
    config = experiment()
    evaluation = {"kind": "evaluation", "step": 3, "matrix": {"m": {}}, "seconds": 8.0}
    done = [STATISTICS, {"kind": "done", "step": 0}]
    write(tmp_path / "new", config, *done)
    key = key_of(tmp_path / "new", config, "m")
    write(tmp_path / "old", config, *done, round_line(1, 5.0), {**MODEL, "key": key}, evaluation)
    lines = list(plan_lines(config, tmp_path / "new"))
    assert lines[2].endswith("nothing left (m is copied from old/m)")
    assert lines[3].endswith("about 10 s")
    assert lines[4].endswith("about 24 s")  # three models
    assert lines[5] == "to do: 1 round of training; time: about 34 s"


def test_what_an_earlier_step_of_the_run_will_make_is_copied(tmp_path):
    steps = (STEPS[0], {"kind": "local", "model": "own"}, {"kind": "train", "model": "alone", "sites": ["B"]})
    write(tmp_path / "tiny", experiment(*steps), STATISTICS)
    lines = list(plan_lines(experiment(*steps), tmp_path / "tiny"))
    assert lines[3].endswith("nothing left (alone is copied from own-B)")
    assert lines[4].startswith("to do: 1 round of training")


def test_folds_and_recipes_are_counted(tmp_path):
    steps = (STEPS[0], {**STEPS[1], "folds": True, "recipe": "other"})
    other = RECIPE.model_copy(update={"training": RECIPE.training.model_copy(update={"lr0": 0.5})})
    config = experiment(*steps, split=SplitConfig(folds=5), recipes={"other": other})
    lines = list(plan_lines(config, tmp_path / "tiny"))
    assert lines[2].endswith("4 rounds of 5 epochs, 5 folds, recipe other; not known")
    assert lines[3] == "to do: 20 rounds of training; time: not known"


def test_a_folder_of_another_experiment_is_refused(tmp_path):
    write(tmp_path / "tiny", experiment(), STATISTICS)
    with pytest.raises(ConfigError, match="another experiment"):
        list(plan_lines(experiment(seed=2), tmp_path / "tiny"))


class Records:
    """A ledger of given lines."""

    def __init__(self, folder, *records):
        self.folder, self.records = folder, list(records)

    def find(self, kind, **fields):
        found = [line for line in self.records if line["kind"] == kind]
        return [line for line in found if all(line.get(key) == value for key, value in fields.items())]


def run_of(config, folder, *records, runs=None):
    from server.run import Run

    return Run(config, Records(folder, *(records or (STATISTICS,))), None, None, runs)


def key_of(folder, config, model, *records):
    return model_key(run_of(config, folder, *records), model)


def alone(kind, **fields):
    return experiment(STEPS[0], {"kind": kind, "model": "x", "rounds": 2, "local_epochs": 3, **fields})


def test_a_key_is_of_the_training_and_not_of_names_and_places(tmp_path):
    key = key_of(tmp_path, experiment(), "m")
    renamed = experiment(STEPS[0], STEPS[0], {**STEPS[1], "model": "other"}, split=SplitConfig(folds=5))
    assert key_of(tmp_path, renamed, "other") == key
    assert key_of(tmp_path, alone("local"), "x-A") == key_of(tmp_path, alone("train", sites=["A"]), "x")


CHANGES = [
    {"rounds": 5},
    {"local_epochs": 6},
    {"lr0": 0.5},
    {"sites": ["A"]},
    {"select": "best"},
    {"strategy": "fedprox"},
    {"strategy": "fedprox", "strategy_options": {"proximal_mu": 0.5}},
]


def test_a_key_changes_with_all_that_defines_the_model(tmp_path):
    keys = [key_of(tmp_path, experiment(STEPS[0], {**STEPS[1], **change}), "m") for change in [{}, *CHANGES]]
    keys.append(key_of(tmp_path, experiment(seed=9), "m"))
    keys.append(key_of(tmp_path, experiment(split=SplitConfig(seed=9)), "m"))
    keys.append(key_of(tmp_path, experiment(rounds={"transport": "fp16"}), "m"))
    others = {**STATISTICS, "sites": {**STATISTICS["sites"], "B": {"train": 3, "digest": "c" * 32}}}
    keys.append(key_of(tmp_path, experiment(), "m", others))
    keys.append(key_of(tmp_path, experiment(), "m", {**STATISTICS, "mean": 2.0}))
    keys.append(key_of(tmp_path, experiment(), "tuned-A"))
    assert None not in keys
    assert len(set(keys)) == len(keys)


def test_a_key_changes_with_that_of_what_it_starts_from(tmp_path):
    longer = experiment(STEPS[0], {**STEPS[1], "rounds": 5}, *STEPS[2:])
    assert key_of(tmp_path, experiment(), "tuned-A") != key_of(tmp_path, longer, "tuned-A")


def test_without_a_digest_or_with_layers_that_stay_at_a_site_there_is_no_key(tmp_path):
    silent = {**STATISTICS, "sites": {"A": {"train": 3, "digest": None}, "B": {"train": 3, "digest": "b" * 32}}}
    assert key_of(tmp_path, experiment(), "m", silent) is None
    assert key_of(tmp_path, experiment(), "tuned-A", silent) is None
    kept = {**round_line(1, 1.0), "sites": {"A": {"local_layers": 2}, "B": {}}}
    assert key_of(tmp_path, experiment(), "m", STATISTICS, kept) is None


def test_a_model_whose_round_lacked_a_site_has_no_key(tmp_path):
    whole, lacking = ({**round_line(1, 1.0), "sites": {site: {} for site in sites}} for sites in ("AB", "A"))
    assert key_of(tmp_path, experiment(), "m", STATISTICS, whole)
    assert key_of(tmp_path, experiment(), "m", STATISTICS, lacking) is None


def test_an_earlier_model_is_looked_for_here_then_beside_and_not_where_it_is_not_wanted(tmp_path):
    config, line = experiment(), {**MODEL, "key": "k"}
    write(tmp_path / "beside", config, line)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ledger.jsonl").write_text("{\n")
    here = tmp_path / "here"
    assert find_earlier(run_of(config, here, line), "same", "k").origin == "m"
    assert find_earlier(run_of(config, here, line), "m", "k") is None
    assert find_earlier(run_of(config, here, STATISTICS, runs=tmp_path), "m", "k").origin == "beside/m"
    assert find_earlier(run_of(config, here, STATISTICS), "m", "k") is None
    unwanted = experiment(reuse=False)
    assert find_earlier(run_of(unwanted, here, STATISTICS, runs=tmp_path), "m", "k") is None


def test_a_plan_refuses_what_a_run_would_refuse(tmp_path):
    config = experiment({**STEPS[1], "strategy": "fedprox", "strategy_options": {"mu": 1.0}})
    with pytest.raises(ConfigError, match=r"^step 1: strategy_options: 'mu' is no option of fedprox"):
        list(plan_lines(config, tmp_path))
