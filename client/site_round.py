"""One round of training at a site: from where it stands, stage by stage or all stages at once, to its result.

What it draws depends on seed, stage and epoch alone, so a round that was cut short and goes on after the last epochs
that were kept ends with the weights of one that was not, and stages that are trained at the same time with those of
stages that follow each other.
"""

import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor, nn

from client.device_groups import Groups, in_words
from client.measuring import LoadedModel
from client.momentum import load_momentum, momentum_of, put_momentum, save_momentum
from client.progress import is_unwanted
from client.round_checkpoint import RoundCheckpoint, Standing
from client.stage_process import StageJob
from client.stage_team import StageTeam, reports
from common.cache import CachedCase
from common.checkpoint import Array, Weights, as_array, load_into
from common.errors import LeftOffError
from common.tasks import EpochRecord, TrainTask
from common.text import counted
from common.training import Span, anchor, make_optimiser, poly_lr, train_stage

log = logging.getLogger("fedgtv.site")
State = tuple[Weights, Weights]
"""A stage's weights and momentum, by parameter."""


@dataclass
class SiteRound:
    """A round that `site` trains: `model` is the received one, and the trained one after `run`."""

    site: str
    work: Path
    task: TrainTask
    model: LoadedModel
    cases: Sequence[CachedCase]
    kept: RoundCheckpoint
    measure_received: Callable[[], float | None]
    """Called once in all attempts, before the first epoch."""
    on_epoch: Callable[[int], None] = lambda _done: None
    """Called before an epoch is kept, with the number of those done in this round, over all stages."""
    groups: Groups = field(default_factory=dict)
    """Of stages that are trained at the same time, in processes; `model` is on the CPU then. Empty: in turn, here."""
    num_threads: int = 1
    """Of each such process."""
    validation_dsc: float | None = field(default=None, init=False)
    losses: dict[str, list[float]] = field(default_factory=dict, init=False)

    def run(self) -> None:
        """Trains every stage for the task's epochs, from where the round stands."""
        self._began = time.monotonic()
        self._from = {stage: self.kept.standing(stage) for stage in self.model.networks}
        self._whole: set[str] = set()
        self.losses = {stage: list(standing.losses) for stage, standing in self._from.items()}
        left = [stage for stage in self.model.networks if not self._is_done(stage)]
        with ExitStack() as stack:
            teams = [stack.enter_context(self._team(stage)) for stage in left if self.groups]
            self._measure_once()
            self._take_over_what_is_done()
            if teams:
                self._train_together(teams)
            for stage in left if not teams else ():
                self._train_stage(stage, self.model.networks[stage])

    @property
    def seconds(self) -> float:
        """That went into it, in all attempts."""
        return max(each.seconds for each in self._from.values()) + time.monotonic() - self._began

    def epoch_records(self) -> tuple[EpochRecord, ...]:
        """Rate and losses of each epoch."""
        task = self.task
        return tuple(
            EpochRecord(
                epoch=epoch,
                lr=poly_lr(task.lr0, epoch, task.epochs_total, task.recipe.training.power),
                losses={stage: values[number] for stage, values in self.losses.items()},
            )
            for number, epoch in enumerate(range(task.epochs_done, task.epochs_done + task.local_epochs))
        )

    def _measure_once(self) -> None:
        if not self._epochs_done:
            self.validation_dsc = self.measure_received()
            return
        self.validation_dsc = next(each.validation_dsc for each in self._from.values() if each.losses)
        log.info("%s: goes on after %d epochs that were kept", where(self.task), self._epochs_done)

    def _take_over_what_is_done(self) -> None:
        """Stages that were kept after their last epoch; before a kill, their momentum was perhaps not."""
        for stage in filter(self._is_done, self.model.networks):
            standing = self._taken(stage)
            self._end_stage(stage, (standing.weights, standing.momentum))
            self._whole.add(stage)

    def _train_stage(self, stage: str, network: nn.Module) -> None:
        """One stage, in this process."""
        received, standing = anchor(network, self._span), self._taken(stage)
        if standing.losses:
            load_into(network, standing.weights, prefix="")
        optimiser = make_optimiser(network, self.task.recipe.training, self.task.lr0)
        put_momentum(optimiser, network, self._momentum(stage, standing))

        def state() -> State:
            return _arrays(network.state_dict()), _arrays(momentum_of(optimiser, network))

        def after(epoch: int, loss: float) -> None:
            if not self._after_epoch(stage, epoch, loss, state):
                self._leave_off()

        span = self._span_left(stage)
        train_stage(
            network, stage, self.cases, self.task.recipe, span, self.model.normalisation, optimiser, after, received
        )
        self._save_momentum(stage, momentum_of(optimiser, network))

    def _team(self, stage: str) -> StageTeam:
        job = StageJob(
            stage, self.cases, self.task.recipe, self._span_left(stage), self.model.normalisation, self.num_threads
        )
        return StageTeam(job, self.groups[stage])

    def _train_together(self, teams: Sequence[StageTeam]) -> None:
        """All stages at once, in processes; a round that is left off waits for an epoch of each."""
        log.info("%s: %s", where(self.task), in_words(self.groups))
        for team in teams:
            received, standing = self.model.networks[team.stage].state_dict(), self._taken(team.stage)
            team.begin(received, standing.weights, self._momentum(team.stage, standing))
        for team, epoch, loss in reports(teams):
            wanted = self._after_epoch(team.stage, epoch, loss, team.state)
            if self._is_done(team.stage):
                self._end_stage(team.stage, team.state())
            if self._is_done(team.stage) or not wanted:
                team.end()
            else:
                team.go_on()
        self._leave_off()

    def _after_epoch(self, stage: str, epoch: int, loss: float, state: Callable[[], State]) -> bool:
        """Counts an epoch, and keeps it where that is due; returns whether the round is still wanted."""
        log.info("%s, %s epoch %d of %d: loss %.4f", where(self.task), stage, epoch + 1, self.task.epochs_total, loss)
        self.losses[stage].append(loss)
        self.on_epoch(self._epochs_done)
        unwanted = is_unwanted(self.work)
        if self.kept.due(stage) or unwanted:
            self._keep(stage, *state())
        return not unwanted

    def _leave_off(self) -> None:
        """Raises LeftOffError, unless all is done."""
        if not all(map(self._is_done, self.model.networks)):
            raise LeftOffError(
                f"{where(self.task)}: left off after {counted(self._epochs_done, 'epoch')}, kept for when it is asked "
                "for again: its run was stopped or started anew, or is at another round"
            )

    def _keep(self, stage: str, weights: Weights, momentum: Weights) -> None:
        """Writes where a stage stands, and those that have ended since; their momentum lies where a round looks."""
        ended = [each for each in self.model.networks if self._is_done(each) and each not in {stage, *self._whole}]
        states = {stage: (weights, momentum)}
        states |= {each: (_arrays(self.model.networks[each].state_dict()), {}) for each in ended}
        for each, state in states.items():
            self.kept.keep(each, Standing(self.losses[each], self.validation_dsc, self.seconds, *state))
        self._whole |= set(filter(self._is_done, states))

    def _end_stage(self, stage: str, state: State) -> None:
        """Takes over a stage that was trained elsewhere."""
        load_into(self.model.networks[stage], state[0], prefix="")
        self._save_momentum(stage, state[1])

    def _taken(self, stage: str) -> Standing:
        """Where a stage stood; its arrays are held no longer here."""
        standing = self._from[stage]
        self._from[stage] = replace(standing, weights={}, momentum={})
        return standing

    def _momentum(self, stage: str, standing: Standing) -> Weights:
        """From where a stage stands, or from the round before if the recipe keeps it."""
        if standing.losses or not (self._keeps_momentum and self.task.epochs_done):
            return standing.momentum
        return load_momentum(self._momentum_folder, stage, self.task.epochs_done)

    def _save_momentum(self, stage: str, momentum: Mapping[str, Array | Tensor]) -> None:
        """For the next round, if the recipe keeps it; of a stage that ended before a kill, it was saved then."""
        before, end = self.task.epochs_done, self.task.epochs_done + self.task.local_epochs
        if self._keeps_momentum and (momentum or not self.task.recipe.training.momentum):
            save_momentum(self._momentum_folder, stage, momentum, before, end)

    def _is_done(self, stage: str) -> bool:
        return len(self.losses[stage]) == self.task.local_epochs

    @property
    def _epochs_done(self) -> int:
        return epochs_in(self.losses)

    @property
    def _keeps_momentum(self) -> bool:
        return self.task.recipe.training.momentum_across_rounds == "keep"

    @property
    def _momentum_folder(self) -> Path:
        task = self.task
        return self.work / "momentum" / task.experiment / f"seed-{task.seed}" / f"{task.step}-{task.model}"

    @property
    def _span(self) -> Span:
        """The task's epochs; every site draws its own patches."""
        task = self.task
        seed = zlib.crc32(f"{task.seed}/{task.step}/{self.site}".encode())
        return Span(task.epochs_done, task.local_epochs, task.epochs_total, task.lr0, seed, task.proximal_mu)

    def _span_left(self, stage: str) -> Span:
        """Those of the task's epochs that a stage has not done."""
        span, done = self._span, len(self.losses[stage])
        return replace(span, first_epoch=span.first_epoch + done, num_epochs=span.num_epochs - done)


def epochs_in(losses: Mapping[str, Sequence[float]]) -> int:
    """Returns how many epochs have a loss, over all stages."""
    return sum(map(len, losses.values()))


def where(task: TrainTask) -> str:
    """Returns what a line of the log begins with."""
    return f"{task.model} round {task.round}"


def _arrays(tensors: Mapping[str, Tensor]) -> Weights:
    return {name: as_array(value) for name, value in tensors.items()}
