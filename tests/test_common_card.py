"""A model's card comes from somebody else: it is bounded, printable, and says unknown where nothing is known."""

import json

import pytest
from pydantic import ValidationError

from common.card import CARD, INTENDED_USE, MAX_BYTES, Card, Result, TrainedOn, describe_recipe, read_card
from common.errors import CheckpointError
from common.recipe import Recipe
from common.tasks import MetricSummary

FULL = Card(
    model="federated",
    experiment="demo",
    coordinator="host:8443",
    origin="fedavg over A, B",
    trained_on=(TrainedOn(site="A", num_cases=9), TrainedOn(site="B")),
    rounds=3,
    local_epochs=2,
    kept_round=2,
    strategy="fedavg",
    lr0=0.01,
    software="fedgtv 0.1.0",
    results=(
        Result(site="A", part="test", num_cases=4, metrics={"dsc": MetricSummary(mean=0.75, sd=0.1)}),
        Result(site="B", part="test", withheld="2 cases, fewer than the site's min_cases 3"),
    ),
)


def test_there_and_back():
    assert read_card({CARD: FULL.model_dump_json()}, "m") == FULL
    assert read_card({}, "m") is None
    assert "Not for clinical use" in FULL.intended_use == INTENDED_USE


def test_a_later_releases_keys_are_passed_over():
    told = json.loads(FULL.model_dump_json()) | {"colour": "blue"}
    told["results"][0]["smell"] = 3
    assert read_card({CARD: json.dumps(told)}, "m") == FULL


def test_control_characters_become_question_marks():
    told = json.loads(FULL.model_dump_json()) | {"origin": "a\x1b[31mb\nc", "software": "x\u202ey"}
    card = read_card({CARD: json.dumps(told)}, "m")
    assert (card.origin, card.software) == ("a?[31mb?c", "x?y")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "a b"},
        {"origin": "x" * 2001},
        {"rounds": -1},
        {"lr0": "NaN"},
        {"trained_on": [{"site": "A"}] * 1001},
        {"results": [{"site": "A", "part": "train"}]},
        {"results": [{"site": "A\n", "part": "test"}]},
        {"results": [{"site": "A", "part": "test", "metrics": {"\x1b": {"mean": 1, "sd": 1}}}]},
    ],
)
def test_what_is_no_card_is_refused_in_a_printable_line(change):
    told = json.loads(FULL.model_dump_json()) | change
    with pytest.raises(CheckpointError, match=r"m\.safetensors: its card cannot be read") as error:
        read_card({CARD: json.dumps(told)}, "m.safetensors")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 10_000])
def test_other_json_is_refused(text):
    with pytest.raises(CheckpointError, match="its card cannot be read"):
        read_card({CARD: text}, "m")


def test_a_very_long_card_is_not_even_parsed():
    with pytest.raises(CheckpointError, match=f"expected at most {MAX_BYTES}"):
        read_card({CARD: "[" * (MAX_BYTES + 1)}, "m")


def test_a_card_does_not_change():
    with pytest.raises(ValidationError):
        FULL.model = "other"


def test_a_recipe_in_a_line():
    text = describe_recipe(Recipe())
    assert text.startswith("stage1 of widths 32-64-128-256-512-512 on patches of 64 x 128 x 128, stage2 of widths")
    assert text.endswith("; voxels of 3 x 0.952 x 0.952 mm; cut at 0.6")
