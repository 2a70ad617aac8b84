"""Single cases drawn at a site: which ones, what of them leaves, and by whose leave."""

import pytest
import torch

from client.cases import open_cases
from client.drawing import draw, ranked
from client.measuring import LoadedModel
from common.model import build_model, model_weights
from common.split import SplitConfig
from common.tasks import NormalisationRecord, PictureTask

torch.set_num_threads(1)
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.4)
NORMALISATION = NormalisationRecord(mean=40.0, sd=50.0)
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    ("dsc", "expected"),
    [
        ([0.2, 0.9, 0.5], [("best", 1), ("median", 2), ("worst", 0)]),
        ([0.2, 0.9, 0.5, 0.6], [("best", 1), ("median", 3), ("worst", 0)]),
        ([0.5, 0.5], [("best", 0), ("worst", 1)]),
        ([0.5], [("best", 0)]),
        ([], []),
    ],
)
def test_each_rank_is_a_case_of_its_own(dsc, expected):
    assert ranked(dsc, ("best", "median", "worst")) == expected


def test_a_rank_that_was_not_asked_for_is_not_given():
    assert ranked([0.2, 0.9, 0.5], ("worst", "worst")) == [("worst", 0)]


def test_every_case_is_drawn_with_a_number_and_no_name(tiny_cases, tmp_path, tiny_recipe):
    cases = open_cases(tiny_cases, tmp_path, tiny_recipe, SPLIT).test
    task = PictureTask(experiment="e", recipe=tiny_recipe, split=SPLIT, models=("a", "b"), normalisation=NORMALISATION,
                       what=("planes", "features", "boundary"), cases=("best", "worst"))  # fmt: skip
    weights = {name: model_weights(build_model(tiny_recipe, seed)) for seed, name in enumerate(task.models)}

    def load(name):
        return LoadedModel.of(task.of(name), weights[name], torch.device("cpu"))

    drawn = list(draw("A", task, cases, load, None, tells_dsc=True))
    assert [(each.what, each.rank) for each, _ in drawn] == [
        (what, rank) for rank in task.cases for what in task.what
    ]  # fmt: skip
    assert all(png.startswith(PNG) and b"T-00" not in png for _, png in drawn)
    assert all(set(each.dsc) == {"a", "b"} for each, _ in drawn)
    by_rank = {each.rank: each.dsc["a"] for each, _ in drawn}
    assert by_rank["best"] >= by_rank["worst"]
    one = task.model_copy(update={"what": ("planes",), "cases": ("best",)})
    silent = list(draw("A", one, cases, load, None, tells_dsc=False))
    assert [each.dsc for each, _ in silent] == [{}]
