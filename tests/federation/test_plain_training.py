"""One site, one local epoch a round, momentum kept: the federation is plain training, bit for bit.

The federation runs whole in one process: ServerApp loop, wire, aggregation, ledger and the site's ClientApp. Plain
training is one call of `train_stage` for all epochs of a stage.
"""

import json
import zlib
from contextlib import closing

import pytest
import torch

from client.app import app as client_app
from client.cases import open_cases
from common.experiment import Experiment
from common.model import build_model, model_weights
from common.recipe import AugmentationConfig
from common.split import SplitConfig
from common.statistics import Normalisation, body_histogram
from common.training import Span, make_optimiser, poly_lr, train_stage
from deploy.in_process import InProcessGrid
from server import sites as server_sites
from server.experiment import run_experiment
from server.ledger import Ledger
from server.sites import Sites

torch.set_num_threads(1)
ROUNDS, SEED = 3, 5
TRAIN_STEP = 1  # counted from 0; part of the site's random stream
SPLIT = SplitConfig(test_fraction=0.3, validation_fraction=0.0)


@pytest.fixture
def recipe(tiny_recipe):
    """Everything that could leave a seam between rounds: augmentation, dropout, accumulation, momentum."""
    fields = {
        "augmentation": AugmentationConfig(elastic_grid_mm=24.0),
        "momentum_across_rounds": "keep",
        "accumulation": 2,
        "batch_size": 2,
        "lr0": 0.05,
    }
    return tiny_recipe.model_copy(update={"training": tiny_recipe.training.model_copy(update=fields)})


@pytest.fixture
def site(tmp_path, tiny_cases):
    """The only site's site.yaml."""
    told = {"site": "A", "cases": str(tiny_cases), "device": "cpu", "num_threads": 1, "policy": {"min_cases": 1}}
    (tmp_path / "site.yaml").write_text(json.dumps(told))
    return tmp_path / "site.yaml"


def federated(recipe, site, folder):
    """Returns the ledger of a run of `ROUNDS` rounds."""
    steps = ({"kind": "statistics"}, {"kind": "train", "model": "m", "rounds": ROUNDS, "local_epochs": 1})
    config = Experiment(name="one", seed=SEED, sites=("A",), recipe=recipe, split=SPLIT, steps=steps)
    ledger = Ledger(folder, config)
    with closing(InProcessGrid(client_app, {"A": site}, 1)) as grid:
        run_experiment(config, ledger, Sites(grid, grid.node_ids, config.rounds))
    return ledger


def plain(recipe, site):
    """Returns the weights and each stage's losses of `ROUNDS` epochs without a federation."""
    told = json.loads(site.read_text())
    cases = open_cases(site.parent / told["cases"], site.parent / "work", recipe, SPLIT).train
    cached = [case.cached for case in cases]
    normalisation = Normalisation.from_histogram(body_histogram(cached))
    networks, config = build_model(recipe, SEED), recipe.training
    span = Span(0, ROUNDS, ROUNDS, config.lr0, seed=zlib.crc32(f"{SEED}/{TRAIN_STEP}/A".encode()))
    losses = {
        stage: train_stage(
            network, stage, cached, recipe, span, normalisation, make_optimiser(network, config, config.lr0)
        )
        for stage, network in networks.items()
    }
    return model_weights(networks), losses


def same(one, two):
    assert one.keys() == two.keys()
    return all(one[name].tobytes() == two[name].tobytes() for name in one)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(server_sites, "POLL_MAX_S", 0.02)
    monkeypatch.setattr("os.fsync", lambda handle: None)


def test_a_federation_of_one_site_is_plain_training_bit_for_bit(recipe, site, tmp_path):
    ledger = federated(recipe, site, tmp_path / "run")
    weights, losses = plain(recipe, site)
    assert same(ledger.load_model("m"), weights)
    epochs = [line["sites"]["A"]["epochs"] for line in ledger.find("round")]
    assert [len(each) for each in epochs] == [1] * ROUNDS
    assert {stage: [each[0][stage] for each in epochs] for stage in losses} == losses
    rates = [poly_lr(recipe.training.lr0, epoch, ROUNDS, recipe.training.power) for epoch in range(ROUNDS)]
    assert [each[0]["lr"] for each in epochs] == rates


def test_a_momentum_that_is_reset_would_show(recipe, site, tmp_path):
    reset = recipe.training.model_copy(update={"momentum_across_rounds": "reset"})
    ledger = federated(recipe.model_copy(update={"training": reset}), site, tmp_path / "run")
    weights, _ = plain(recipe, site)
    assert not same(ledger.load_model("m"), weights)
