"""Cards of a run's models: who took part, how training went, and results once they are measured."""

from dataclasses import replace

import numpy as np
import pytest

from common.card import CARD, Result, TrainedOn, read_card
from common.checkpoint import load_metadata
from common.experiment import Experiment
from common.release import release
from common.tasks import MetricSummary
from server.card import model_card, refresh_cards
from server.ledger import Ledger
from server.run import Run

STEPS = [
    {"kind": "statistics"},
    {"kind": "train", "model": "federated", "rounds": 3, "local_epochs": 2, "strategy": "fedprox",
     "strategy_options": {"proximal_mu": 0.1}},
    {"kind": "local", "model": "alone", "rounds": 2},
    {"kind": "finetune", "model": "tuned", "initial": "federated", "lr0": 0.001},
    {"kind": "evaluate", "models": ["federated", "alone"]},
]  # fmt: skip
STATISTICS = {"kind": "statistics", "sites": {"A": {"train": 5}, "B": {"train": 6}}, "mean": 1.0, "sd": 2.0}


@pytest.fixture
def run(tmp_path):
    experiment = Experiment.model_validate({"name": "e", "sites": ["A", "B"], "steps": STEPS})
    ledger = Ledger(tmp_path / "run", experiment)
    ledger.append(STATISTICS)
    return Run(experiment, ledger, None, "host:8443")


def round_line(model, number, **cases):
    return {
        "kind": "round",
        "model": model,
        "round": number,
        "sites": {site: {"cases": n} for site, n in cases.items()},
    }


def cell(dsc, n=4, num_undefined=0):
    return {"n": n, "num_undefined": num_undefined, "metrics": {"dsc": {"mean": dsc, "sd": 0.1}}, "withheld": None}


def test_a_federated_models_card(run):
    card = model_card(run, "federated", 3, ("A", "B"))
    assert (card.model, card.experiment, card.coordinator, card.software) == ("federated", "e", "host:8443", release())
    assert (card.origin, card.initial) == ("fedprox over A, B", None)
    assert (card.rounds, card.local_epochs, card.kept_round) == (3, 2, 3)
    assert (card.strategy, card.lr0) == ("fedprox", 0.01)
    assert card.trained_on == (TrainedOn(site="A", num_cases=5), TrainedOn(site="B", num_cases=6))
    assert (card.results, card.notes) == ((), ())


def test_trained_on_are_the_sites_whose_weights_came_in_by_the_kept_round(run):
    run.ledger.append(round_line("federated", 1, A=5))
    run.ledger.append(round_line("federated", 2, A=4))
    run.ledger.append(round_line("federated", 3, A=4, B=6))
    run.ledger.append(round_line("other", 1, B=1))
    assert model_card(run, "federated", 2, ("A", "B")).trained_on == (TrainedOn(site="A", num_cases=4),)
    everyone = (TrainedOn(site="A", num_cases=4), TrainedOn(site="B", num_cases=6))
    assert model_card(run, "federated", 3, ("A", "B")).trained_on == everyone


def test_a_model_of_one_site_has_no_strategy_and_names_what_it_began_from(run):
    run.ledger.append(round_line("federated", 1, A=4, B=6))
    run.ledger.append({"kind": "model", "model": "federated", "round": 1})
    alone, tuned = model_card(run, "alone-B", 2, ("B",)), model_card(run, "tuned-A", 1, ("A",))
    assert (alone.origin, alone.strategy, alone.initial) == ("trained at B alone", None, None)
    assert (tuned.origin, tuned.initial, tuned.lr0) == ("federated, fine-tuned at A", "federated", 0.001)
    assert tuned.trained_on == (TrainedOn(site="A", num_cases=5),)
    assert tuned.begun_on == (TrainedOn(site="A", num_cases=4), TrainedOn(site="B", num_cases=6))
    assert alone.begun_on == ()


def test_measured_models_carry_their_last_results(run):
    weights = {"stage1.w": np.arange(3, dtype=np.float32)}
    for model, sites, kept in (("federated", ("A", "B"), 3), ("alone-B", ("B",), 2)):
        run.ledger.append({"kind": "model", "model": model, "round": kept})
        run.ledger.save_model(model, weights, run.metadata(model, kept, sites))
    withheld = {"n": None, "num_undefined": None, "metrics": {}, "withheld": "too few"}
    for dsc in (0.1, 0.8):
        matrix = {"federated": {"A": cell(dsc), "B": withheld}, "alone-B": {"A": cell(0.3, num_undefined=2)}}
        run.ledger.append({"kind": "evaluation", "split": "test", "matrix": matrix})
    refresh_cards(run, ["federated", "alone-B"])
    cards = [read_card(load_metadata(run.ledger.model_path(model)), model) for model in ("federated", "alone-B")]
    metrics = {"dsc": MetricSummary(mean=0.8, sd=0.1)}
    assert cards[0].results == (
        Result(site="A", part="test", num_cases=4, num_undefined=0, metrics=metrics),
        Result(site="B", part="test", withheld="too few"),
    )
    assert [(result.metrics["dsc"].mean, result.num_undefined) for result in cards[1].results] == [(0.3, 2)]
    assert (cards[0].kept_round, cards[1].kept_round, cards[1].trained_on[0].site) == (3, 2, "B")
    assert run.ledger.load_model("federated")["stage1.w"].tolist() == [0, 1, 2]


def test_the_experiments_notes_travel_with_the_model_however_long_they_are(run):
    notes = ["The target is a tumour bed.", "x" * 3000, *["n"] * 200]
    experiment = Experiment.model_validate({**run.experiment.model_dump(), "notes": notes})
    metadata = replace(run, experiment=experiment).metadata("federated", 1, ("A", "B"))
    told = read_card(metadata, "m").notes
    assert (told[0], len(told[1]), len(told)) == (notes[0], 2000, 100)


def test_metadata_hold_the_card_and_the_same_facts_give_the_same_bytes(run):
    one, same = (run.metadata("federated", 1, ("A", "B")) for _ in range(2))
    assert one == same
    assert read_card(one, "m").kept_round == 1
    assert one[CARD] == model_card(run, "federated", 1, ("A", "B")).model_dump_json()
