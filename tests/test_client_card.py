"""The card as a hospital reads it."""

import pytest

from client.card import WIDTH, card_lines, read_model_card
from common.card import CARD, Card, Result, TrainedOn
from common.checkpoint import load_weights, save_weights
from common.errors import CheckpointError
from common.recipe import Recipe
from common.tasks import MetricSummary

HALF = MetricSummary(mean=0.5, sd=0.1)


def text_of(card):
    lines = list(card_lines(card, Recipe()))
    assert all(len(line) <= WIDTH and line.isprintable() for line in lines)
    return " ".join(" ".join(lines).split())


def test_everything_that_is_known_is_told():
    known = Card(
        model="federated",
        experiment="demo",
        coordinator="host:8443",
        origin="fedavg over A, B",
        initial="first",
        trained_on=(TrainedOn(site="A", num_cases=9), TrainedOn(site="B")),
        begun_on=(TrainedOn(site="C", num_cases=7),),
        rounds=3,
        local_epochs=2,
        kept_round=2,
        strategy="fedavg",
        lr0=0.01,
        software="fedgtv 0.1.0",
        results=(
            Result(
                site="A",
                part="test",
                num_cases=4,
                num_undefined=1,
                metrics={
                    "dsc": MetricSummary(mean=0.7512, sd=0.1),
                    "ppv": MetricSummary(mean=0.8, sd=0.1),
                    "sen": MetricSummary(mean=0.7, sd=0.1),
                    "assd_mm": MetricSummary(mean=1.5, sd=None),
                },
            ),
            Result(site="B", part="test", withheld="2 cases, fewer than the site's min_cases 3"),
            Result(
                site="C", part="test", num_cases=2, num_undefined=0, metrics={"dsc": MetricSummary(mean=0.5, sd=0.1)}
            ),
        ),
        notes=("The target is a tumour bed.", "Phantoms alone."),
    )
    text = text_of(known)
    for words in (
        "federated, of experiment demo",
        "coordinator host:8443, software fedgtv 0.1.0",
        "fedavg over A, B; begun from first",
        "A (9 cases), B (unknown cases)",
        "before that: C (7 cases)",
        "fedavg, rounds x local epochs: 3 x 2 = 6 epochs, weights of round 2, first learning rate 0.01",
        "A, test (n = 4; ASSD and HD95 over 3, undefined for 1 with an empty mask): DSC 75.1",
        "DSC 75.1 ± 10.0 %, PPV 80.0 ± 10.0 %, SEN 70.0 ± 10.0 %, ASSD 1.5 mm, HD95 unknown",
        "B, test: withheld (2 cases, fewer than the site's min_cases 3)",
        "C, test (n = 2): DSC 50.0",
        "note: The target is a tumour bed. note: Phantoms alone. intended:",
        "Not for clinical use",
    ):
        assert words in text


def test_what_is_not_known_is_said_to_be_unknown():
    text = text_of(Card(model="m"))
    for words in (
        "of experiment unknown",
        "coordinator unknown, software unknown",
        "came about: unknown",
        "trained on: unknown",
        "training: unknown",
        "measured: nowhere yet, or not known",
    ):
        assert words in text


def test_a_card_of_an_earlier_release_has_no_notes_and_is_read():
    text = text_of(
        Card.model_validate_json('{"model": "m", "results": [{"site": "A", "part": "test", "num_cases": 3}]}')
    )
    assert "A, test (n = 3): DSC unknown" in text
    assert "note:" not in text


def test_a_file_without_card_has_its_name_alone(tmp_path, write_model):
    path = write_model(tmp_path / "m.safetensors")
    card, recipe = read_model_card(path)
    assert (card, recipe.stage2) == (Card(model="tiny"), None)
    weights, metadata = load_weights(path)
    save_weights(path, weights, {**metadata, CARD: Card(model="tiny", experiment="e").model_dump_json()})
    assert read_model_card(path)[0].experiment == "e"
    save_weights(path, weights, {**metadata, CARD: "{}"})
    with pytest.raises(CheckpointError, match="its card cannot be read"):
        read_model_card(path)
