"""What a round does around the training of its stages: what is measured, told, kept, and not done twice.

The stages are two linear layers here, and an epoch adds 1 to every weight. With true networks a round's bits are held
by tests/test_client_round_checkpoint.py.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch import nn

from client import site_round
from client.measuring import LoadedModel
from client.momentum import load_momentum
from client.progress import leave_off
from client.round_checkpoint import RoundCheckpoint
from client.site_round import SiteRound, epochs_in, where
from client.stage_process import StageJob
from common.checkpoint import Weights, as_array
from common.errors import LeftOffError, WorkError
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
    order: Sequence[str] = ()
    """In which stages that are trained at the same time have done an epoch."""
    teams: list["Team"] = field(default_factory=list)

    def round(
        self, kill_after: int = 99, site: str = "A", least_s: float = 0.0, together: bool = False, **fields: Any
    ) -> SiteRound:
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
        groups = {"stage1": ("cpu",), "stage2": ("cpu",)} if together else {}
        return SiteRound(site, self.work, task, model, [], kept, self.measure, tell, groups)

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

    def team(self, job: StageJob, devices: Sequence[str]) -> "Team":
        self.teams.append(Team(job))
        return self.teams[-1]

    def reports(self, teams: Sequence["Team"]) -> Iterator[tuple["Team", int, float]]:
        for stage in self.order:
            for team in teams:
                if team.stage == stage and team.at_work:
                    yield (team, *team.epoch())
        assert not [team.stage for team in teams if team.at_work]


class Team:
    """Stands for a stage's processes: an epoch adds 1 to every weight and to the momentum."""

    def __init__(self, job: StageJob) -> None:
        self.stage, self.job = job.stage, job
        self.at_work = False
        self.next = job.span.first_epoch
        self.asked = 0

    def __enter__(self) -> Self:
        self.at_work = True
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self, received: Any, standing: Weights, momentum: Weights) -> None:
        self.received = {name: float(as_array(value).flat[0]) for name, value in received.items()}
        self.weights = {name: as_array(value).copy() for name, value in (standing or received).items()}
        self.momentum = {name: momentum.get(name, np.zeros_like(value)) for name, value in self.weights.items()}

    def epoch(self) -> tuple[int, float]:
        for arrays in (self.weights, self.momentum):
            for name in arrays:
                arrays[name] = arrays[name] + 1
        self.next += 1
        return self.next - 1, (self.next - 1) / 10

    def state(self) -> tuple[Weights, Weights]:
        self.asked += 1
        return {**self.weights}, {**self.momentum}

    def go_on(self) -> None:
        pass

    def end(self) -> None:
        self.at_work = False


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path / "work")
    made.work.mkdir()
    monkeypatch.setattr(site_round, "train_stage", made.train_stage)
    monkeypatch.setattr(site_round, "StageTeam", made.team)
    monkeypatch.setattr(site_round, "reports", made.reports)
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


ORDERS = sorted(set(permutations(["stage1", "stage1", "stage2", "stage2"])))


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(each[-1] for each in order))
def test_stages_at_the_same_time_come_out_as_one_after_another(bench: Bench, order: Sequence[str]) -> None:
    bench.order = order
    done = bench.round(together=True, least_s=1e9)
    done.run()
    assert weights(done) == ALL_AT_2
    assert done.losses == {"stage1": [0.2, 0.3], "stage2": [0.2, 0.3]}
    assert bench.told == [1, 2, 3, 4]
    assert (done.validation_dsc, bench.measured) == (0.25, 1)
    assert [(team.stage, team.job.span.first_epoch, team.asked) for team in bench.teams] == [
        ("stage1", 2, 1),  # at its end, for nothing was due before
        ("stage2", 2, 1),
    ]


@pytest.mark.parametrize("kill_after", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(each[-1] for each in order))
@pytest.mark.parametrize("together", [True, False])
def test_a_round_goes_on_with_each_stage_where_that_one_was(
    bench: Bench, order: Sequence[str], kill_after: int, together: bool
) -> None:
    """Also on one device after two."""
    bench.order = order
    with pytest.raises(Killed):
        bench.round(kill_after, together=True).run()
    assert not any(team.at_work for team in bench.teams)
    bench.order = order[kill_after:]
    bench.told.clear()
    done = bench.round(together=together)
    done.run()
    assert weights(done) == ALL_AT_2
    assert bench.told == list(range(kill_after + 1, 5))
    assert (done.validation_dsc, bench.measured) == (0.25, 1)


@pytest.mark.parametrize("kill_after", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: "".join(each[-1] for each in order))
def test_momentum_that_the_recipe_keeps_goes_from_round_to_round(
    bench: Bench, order: Sequence[str], kill_after: int
) -> None:
    """The second of them is cut short."""
    training = Recipe().training.model_copy(update={"momentum_across_rounds": "keep"})
    fields = {"recipe": Recipe(training=training), "together": True}
    bench.order = order
    bench.round(round=1, epochs_done=0, **fields).run()
    RoundCheckpoint(bench.work, "another", 0.0)
    with pytest.raises(Killed):
        bench.round(kill_after, **fields).run()
    bench.order = order[kill_after:]
    bench.round(**fields).run()
    folder = bench.work / "momentum" / "e" / "seed-1" / "1-m"
    for stage in ("stage1", "stage2"):
        assert {name: float(each.flat[0]) for name, each in load_momentum(folder, stage, 4).items()} == {
            "weight": 4.0,
            "bias": 4.0,
        }


def test_a_stage_that_is_done_is_kept_with_the_other_one_s_next_epoch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was due while it was trained."""
    bench.order = ["stage1", "stage1", "stage2", "stage2"]
    monkeypatch.setattr(RoundCheckpoint, "due", lambda _, stage: stage == "stage2")
    with pytest.raises(Killed):
        bench.round(3, together=True).run()
    kept = RoundCheckpoint(bench.work, "key", 0.0)
    assert [kept.standing(stage).losses for stage in ("stage1", "stage2")] == [[0.2, 0.3], [0.2]]
    assert kept.standing("stage1").momentum == {}
    bench.order = ["stage2"]
    done = bench.round(together=True)
    done.run()
    assert weights(done) == ALL_AT_2


def test_a_round_that_nobody_waits_for_ends_with_the_epoch_of_each_stage(bench: Bench) -> None:
    bench.order = ["stage2", "stage1", "stage1", "stage2"]
    leave_off(bench.work)
    with pytest.raises(LeftOffError, match="m round 2: left off after 2 epochs, kept"):
        bench.round(least_s=1e9, together=True).run()
    kept = RoundCheckpoint(bench.work, "key", 0.0)
    assert [kept.standing(stage).losses for stage in ("stage1", "stage2")] == [[0.2], [0.2]]


def test_fedprox_is_given_what_was_received_beside_where_the_stage_stands(bench: Bench) -> None:
    bench.order = ["stage1", "stage2", "stage1", "stage2"]
    with pytest.raises(Killed):
        bench.round(2, together=True).run()
    bench.order = ["stage1", "stage2"]
    bench.round(together=True).run()
    assert [team.received for team in bench.teams] == [{"weight": 0.0, "bias": 0.0}] * 4
    assert [team.weights["weight"].item() for team in bench.teams[2:]] == [2.0, 2.0]


def test_epochs_are_counted_over_all_stages() -> None:
    assert epochs_in({}) == 0
    assert epochs_in({"stage1": [0.5, 0.4, 0.3], "stage2": [0.9]}) == 4


def test_a_line_of_the_log_begins_with_model_and_round(bench: Bench) -> None:
    assert where(bench.round().task) == "m round 2"
