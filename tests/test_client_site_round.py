"""What a round does around the training of its stages: what is measured, told, kept, and not done twice.

The stages are two linear layers here, and an epoch adds 1 to every weight. With true networks a round's bits are held
by tests/test_client_round_checkpoint.py.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from client import site_round
from client.measuring import LoadedModel
from client.progress import leave_off
from client.round_checkpoint import RoundCheckpoint
from client.site_round import SiteRound, epochs_in, where
from common.errors import WorkError
from common.model import model_weights
from common.recipe import Recipe
from common.split import SplitConfig
from common.statistics import Normalisation
from common.tasks import NormalisationRecord, TrainTask
from common.training import Span

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands in for SIGKILL."""


@dataclass
class Bench:
    """Makes rounds of one site, each with networks of zeros, and holds what they did."""

    work: Path
    trained: list[tuple[str, Span, list[float]]] = field(default_factory=list)
    """Stage, epochs and what FedProx holds on to, of every span that was trained."""
    measured: int = 0
    told: list[int] = field(default_factory=list)

    def round(self, kill_after: int = 99, site: str = "A", least_s: float = 0.0, **fields: Any) -> SiteRound:
        """A round that is killed once so many epochs were told."""
        task = TrainTask.model_validate(
            {
                "experiment": "e", "recipe": Recipe(), "split": SplitConfig(), "model": "m", "step": 1, "round": 2,
                "epochs_done": 2, "local_epochs": 2, "epochs_total": 8, "lr0": 0.1, "seed": 1,
                "normalisation": NormalisationRecord(mean=0, sd=1),
            }
            | fields
        )  # fmt: skip
        networks = {stage: nn.Linear(1, 1) for stage in ("stage1", "stage2")}
        for network in networks.values():
            nn.init.zeros_(network.weight)
            nn.init.zeros_(network.bias)
        model = LoadedModel(networks, task.recipe, Normalisation(0.0, 1.0), CPU)

        def tell(epochs_done: int) -> None:
            if epochs_done > kill_after:
                raise Killed
            self.told.append(epochs_done)

        kept = RoundCheckpoint(self.work, "key", least_s)
        return SiteRound(site, self.work, task, model, [], kept, self.measure, tell)

    def measure(self) -> float:
        self.measured += 1
        return 0.25

    def train_stage(
        self, network: nn.Module, stage: str, _cases: Any, _recipe: Recipe, span: Span, _normalisation: Normalisation,
        _optimiser: torch.optim.SGD, after: Callable[[int, float], None], received: Sequence[torch.Tensor],
    ) -> None:  # fmt: skip
        self.trained.append((stage, span, [float(each.flatten()[0]) for each in received]))
        for epoch in range(span.first_epoch, span.first_epoch + span.num_epochs):
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(1)
            after(epoch, epoch / 10)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path / "work")
    made.work.mkdir()
    monkeypatch.setattr(site_round, "train_stage", made.train_stage)
    return made


def weights(done: SiteRound) -> dict[str, float]:
    return {name: float(value.flat[0]) for name, value in model_weights(done.model.networks).items()}


ALL_AT_2 = {"stage1.weight": 2.0, "stage1.bias": 2.0, "stage2.weight": 2.0, "stage2.bias": 2.0}


def test_every_stage_is_trained_for_the_task_s_epochs_and_told(bench: Bench) -> None:
    done = bench.round()
    done.run()
    assert [(stage, span.first_epoch, span.num_epochs) for stage, span, _ in bench.trained] == [
        ("stage1", 2, 2),
        ("stage2", 2, 2),
    ]
    assert bench.told == [1, 2, 3, 4]
    assert weights(done) == ALL_AT_2
    assert (done.validation_dsc, bench.measured) == (0.25, 1)


def test_an_epoch_s_record_has_its_rate_and_the_loss_of_each_stage(bench: Bench) -> None:
    done = bench.round()
    done.run()
    records = done.epoch_records()
    assert [each.epoch for each in records] == [2, 3]
    assert [each.losses for each in records] == [{"stage1": 0.2, "stage2": 0.2}, {"stage1": 0.3, "stage2": 0.3}]
    power = done.task.recipe.training.power
    assert [each.lr for each in records] == pytest.approx([0.1 * (6 / 8) ** power, 0.1 * (5 / 8) ** power])


@pytest.mark.parametrize("kill_after", [1, 2, 3])
def test_a_round_goes_on_where_it_was_killed_and_measures_once(bench: Bench, kill_after: int) -> None:
    with pytest.raises(Killed):
        bench.round(kill_after).run()
    bench.trained.clear()
    bench.told.clear()
    done = bench.round()
    done.run()
    assert bench.told == list(range(kill_after + 1, 5))
    assert sum(span.num_epochs for _, span, _ in bench.trained) == 4 - kill_after
    assert weights(done) == ALL_AT_2
    assert done.losses == {"stage1": [0.2, 0.3], "stage2": [0.2, 0.3]}
    assert (done.validation_dsc, bench.measured) == (0.25, 1)


def test_fedprox_holds_on_to_what_was_received_and_not_to_where_it_goes_on(bench: Bench) -> None:
    with pytest.raises(Killed):
        bench.round(1, proximal_mu=0.1).run()
    bench.round(proximal_mu=0.1).run()
    assert [received for _, _, received in bench.trained] == [[0.0, 0.0]] * 3


def test_the_seconds_are_those_of_all_attempts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(site_round.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bench, "measure", lambda: now.__setitem__(0, now[0] + 30.0))
    with pytest.raises(Killed):
        bench.round(1).run()
    now[0] = 1000.0  # between the two, nobody was at work
    done = bench.round()
    done.run()
    now[0] += 5.0
    assert done.seconds == 35.0


def test_an_epoch_that_was_told_of_no_use_is_kept_and_ends_the_round(bench: Bench) -> None:
    leave_off(bench.work)
    asked = bench.round(least_s=1e9)
    with pytest.raises(WorkError, match="m round 2: left off after 1 epoch, kept"):
        asked.run()
    kept = RoundCheckpoint(bench.work, "key", 0.0)
    assert [kept.standing(stage).losses for stage in ("stage1", "stage2")] == [[0.2], ()]


def test_a_round_that_goes_on_says_after_how_many_epochs(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Killed):
        bench.round(3).run()
    with caplog.at_level(logging.INFO, "fedgtv.site"):
        bench.round().run()
    assert "m round 2: goes on after 3 epochs that were kept" in caplog.messages


def test_patches_are_drawn_anew_for_a_site_a_step_and_a_seed_but_not_for_a_round(bench: Bench) -> None:
    drawn = bench.round(), bench.round(site="B"), bench.round(step=2), bench.round(seed=2)
    seeds = [each._span.seed for each in drawn]
    assert len(set(seeds)) == 4
    assert bench.round(round=3, epochs_done=4)._span.seed == seeds[0]


def test_epochs_are_counted_over_all_stages() -> None:
    assert epochs_in({}) == 0
    assert epochs_in({"stage1": [0.5, 0.4, 0.3], "stage2": [0.9]}) == 4


def test_a_line_of_the_log_begins_with_model_and_round(bench: Bench) -> None:
    assert where(bench.round().task) == "m round 2"
