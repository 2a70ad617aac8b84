"""One round of training at a site: from where it stands, stage by stage, to its result.

What it draws depends on seed, stage and epoch alone, so a round that was cut short and goes on after the last epoch
that was kept ends with the weights of one that was not.
"""

import logging
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from client.measuring import LoadedModel
from client.momentum import load_momentum, momentum_of, put_momentum, save_momentum
from client.progress import is_unwanted
from client.round_checkpoint import RoundCheckpoint, Standing
from common.cache import CachedCase
from common.checkpoint import load_into
from common.errors import LeftOffError
from common.model import model_weights
from common.tasks import EpochRecord, TrainTask
from common.text import counted
from common.training import Span, anchor, make_optimiser, poly_lr, train_stage

log = logging.getLogger("fedgtv.site")


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
    validation_dsc: float | None = field(default=None, init=False)
    losses: dict[str, list[float]] = field(default_factory=dict, init=False)

    def run(self) -> None:
        """Trains every stage for the task's epochs, from where the round stands."""
        self._began = time.monotonic()
        self._from = self.kept.standing()
        self.losses = {stage: list(losses) for stage, losses in self._from.losses.items()}
        if self._from.stage is None:
            self.validation_dsc = self.measure_received()
        else:
            self.validation_dsc = self._from.validation_dsc
            log.info("%s: goes on after %d epochs that were kept", where(self.task), self._epochs_done)
        received = {stage: anchor(network, self._span) for stage, network in self.model.networks.items()}
        for stage, network in self.model.networks.items() if self._from.weights else ():
            load_into(network, self._from.weights, prefix=f"{stage}.")
        for stage, network in self.model.networks.items():
            self._train_stage(stage, network, received[stage])

    @property
    def seconds(self) -> float:
        """That went into it, in all attempts."""
        return self._from.seconds + time.monotonic() - self._began

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

    def _train_stage(self, stage: str, network: nn.Module, received: Sequence[Tensor]) -> None:
        """One stage; its momentum comes from where it stands, or from the round before if the recipe keeps it."""
        losses = self.losses.setdefault(stage, [])
        if stage in self._from.losses and stage != self._from.stage:
            return  # done, and its momentum kept, before the stage under way was begun
        optimiser = self._optimiser(stage, network)
        done = len(losses)
        span = replace(self._span, first_epoch=self._span.first_epoch + done, num_epochs=self._span.num_epochs - done)

        def after(epoch: int, loss: float) -> None:
            self._after_epoch(stage, epoch, loss, optimiser)

        train_stage(
            network, stage, self.cases, self.task.recipe, span, self.model.normalisation, optimiser, after, received
        )
        if self._keeps_momentum:
            before, end = self.task.epochs_done, self.task.epochs_done + self.task.local_epochs
            save_momentum(self._momentum_folder, stage, optimiser, network, before, end)

    def _optimiser(self, stage: str, network: nn.Module) -> torch.optim.SGD:
        optimiser = make_optimiser(network, self.task.recipe.training, self.task.lr0)
        if stage == self._from.stage:
            put_momentum(optimiser, network, self._from.momentum)
        elif self._keeps_momentum and self.task.epochs_done:
            load_momentum(self._momentum_folder, stage, optimiser, network, self.task.epochs_done)
        return optimiser

    def _after_epoch(self, stage: str, epoch: int, loss: float, optimiser: torch.optim.SGD) -> None:
        log.info("%s, %s epoch %d of %d: loss %.4f", where(self.task), stage, epoch + 1, self.task.epochs_total, loss)
        self.losses[stage].append(loss)
        self.on_epoch(self._epochs_done)
        unwanted = is_unwanted(self.work)
        if self.kept.due or unwanted:
            weights = model_weights(self.model.networks)
            momentum = momentum_of(optimiser, self.model.networks[stage])
            self.kept.keep(Standing(self.losses, self.validation_dsc, self.seconds, weights), momentum)
        if unwanted and self._epochs_done < self.task.local_epochs * len(self.model.networks):
            raise LeftOffError(
                f"{where(self.task)}: left off after {counted(self._epochs_done, 'epoch')}, kept for when it is asked "
                "for again: its run was stopped or started anew, or is at another round"
            )

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


def epochs_in(losses: Mapping[str, Sequence[float]]) -> int:
    """Returns how many epochs have a loss, over all stages."""
    return sum(map(len, losses.values()))


def where(task: TrainTask) -> str:
    """Returns what a line of the log begins with."""
    return f"{task.model} round {task.round}"
