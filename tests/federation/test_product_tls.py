"""The product's own app in a real TLS federation of three sites, behind the gateway where nginx is: the same bits."""

from contextlib import closing

import numpy as np
import pytest

from client.app import app as client_app
from common.experiment import Experiment
from common.split import SplitConfig
from common.steps import EvaluateStep, FinetuneStep, LocalStep, StatisticsStep, TrainStep
from deploy.in_process import InProcessGrid
from server.experiment import run_experiment
from server.launch import launch
from server.ledger import Ledger
from server.matrix import load_matrices
from server.report import write_report
from server.sites import Sites

pytestmark = [pytest.mark.tls, pytest.mark.timeout(300)]


@pytest.fixture
def experiment(tiny_recipe):
    return Experiment(
        reuse=False,
        name="tls",
        sites=("A", "B", "C"),
        recipe=tiny_recipe,
        split=SplitConfig(test_fraction=0.3, validation_fraction=0.2),
        steps=(
            StatisticsStep(kind="statistics"),
            TrainStep(kind="train", model="federated", rounds=2, local_epochs=1),
            LocalStep(kind="local", model="local"),
            FinetuneStep(kind="finetune", model="finetuned", initial="federated"),
            EvaluateStep(kind="evaluate", models=("federated", "local", "finetuned"), models_per_message=7),
        ),
    )


def test_three_sites_over_tls_end_with_the_bits_of_one_process(tmp_path, make_site, start_federation, experiment):
    configs = {site: make_site(tmp_path / f"hospital-{site}", site, num_cases=5) for site in experiment.sites}
    alone = Ledger(tmp_path / "alone", experiment)
    with closing(InProcessGrid(client_app, configs)) as grid:
        run_experiment(experiment, alone, Sites(grid, grid.node_ids, experiment.rounds))

    federation = start_federation(configs, gateway=None)
    told = []
    superlink = federation.superlink
    folder = launch(superlink.control, superlink.folder, experiment, "first", told.append)

    assert [record["kind"] for record in told if record["kind"] in {"statistics", "evaluation", "end"}] == [
        "statistics",
        "evaluation",
        "end",
    ]
    remote = Ledger(folder, experiment)
    for model in ("federated", "local-A", "local-C", "finetuned-B"):
        one, two = alone.load_model(model), remote.load_model(model)
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[name], two[name]) for name in one)
    assert alone.find("statistics")[0]["mean"] == remote.find("statistics")[0]["mean"]
    assert load_matrices(folder)[0].results == load_matrices(tmp_path / "alone")[0].results
    assert "federated" in write_report(folder).read_text()
    assert launch(superlink.control, superlink.folder, experiment, "first", told.append) == folder
    assert len(remote.find("round")) == 2 + 3 + 3
