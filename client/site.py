"""A site's own work on its own cases: counts, training, measuring. Flower-free; `client/app.py` calls it."""

import logging
import time
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.cases import OWN, Cases, OpenCase, open_cases
from client.local_layers import last_layers, load_layers, save_layers
from client.measuring import LoadedModel, measure, summary
from client.momentum import load_momentum, save_momentum
from client.policy import local_names
from client.splits import adopt_split
from common.checkpoint import Weights
from common.config import SiteConfig, load_yaml
from common.device import choose_device
from common.errors import WorkError
from common.model import model_weights
from common.statistics import body_histogram
from common.tasks import (
    EpochRecord,
    EvaluateResult,
    EvaluateTask,
    ModelSummary,
    Picture,
    SiteStatistics,
    StatisticsTask,
    TrainResult,
    TrainTask,
)
from common.text import counted
from common.training import Span, make_optimiser, poly_lr, train_stage

log = logging.getLogger("fedgtv.site")


class Site:
    """One hospital: its configuration, its cases and its device."""

    def __init__(self, config: SiteConfig, folder: Path) -> None:
        """Relative paths of `config` start at `folder`."""
        self.config = config
        self.cases_folder = folder / config.cases
        self.work_folder = self.prepared_folder = folder / config.work
        self.state_folder = folder / config.state

    @classmethod
    def open(cls, path: Path) -> "Site":
        """Returns the site that `site.yaml` at `path` describes (ConfigError: the file is not valid)."""
        return cls(load_yaml(path, SiteConfig), path.parent)

    def for_own_eyes(self) -> "Site":
        """Returns the site without a least number of cases, for results that do not leave.

        Where another account trains, cases are prepared anew in a folder that it cannot reach: it could put links into
        its own, and this account would follow them.
        """
        policy = self.config.policy.model_copy(update={"min_cases": 1})
        site = Site(self.config.model_copy(update={"policy": policy}), Path())
        site.cases_folder, site.state_folder = self.cases_folder, self.state_folder
        site.work_folder = site.prepared_folder = self.work_folder
        if self.config.worker is not None:
            site.prepared_folder = self.state_folder / OWN
        return site

    def device(self) -> torch.device:
        """Returns the configured device and sets the number of CPU threads."""
        if self.config.num_threads:
            torch.set_num_threads(self.config.num_threads)
        return choose_device(self.config.device)

    def open_cases(self, task: StatisticsTask | TrainTask | EvaluateTask) -> Cases:
        """Returns the cases as the task's recipe prepares and its split parts them."""
        if self.prepared_folder != self.work_folder:
            adopt_split(task.split, self.work_folder, self.prepared_folder)
        return open_cases(self.cases_folder, self.prepared_folder, task.recipe, task.split)

    def statistics(self, task: StatisticsTask) -> tuple[SiteStatistics, NDArray[np.int64] | None]:
        """Returns case counts and the HU histogram of the training cases' body voxels.

        The histogram is None when the site has fewer training cases than its policy's `min_cases`.
        """
        started = time.monotonic()
        cases = self.open_cases(task)
        enough = len(cases.train) >= self.config.policy.min_cases
        histogram = body_histogram([case.cached for case in cases.train]).to_array() if enough else None
        result = SiteStatistics(
            train=len(cases.train),
            validation=len(cases.validation),
            test=len(cases.test),
            refused=cases.num_refused,
            seconds=time.monotonic() - started,
        )
        counts = (result.train, result.validation, result.test, result.refused)
        log.info("statistics: %d cases to train, %d to validate, %d to test, %d refused", *counts)
        return result, histogram

    def train(self, task: TrainTask, weights: Weights) -> tuple[Weights, TrainResult]:
        """Trains every stage for the task's epochs; returns the new weights and what happened.

        Raises:
            WorkError: no training case is left, or the training diverges.
            CheckpointError: the weights are another network's.
        """
        started = time.monotonic()
        device = self.device()
        cases = self.open_cases(task)
        if not cases.train:
            raise WorkError(f"site {self.config.site}: no training case is left; import cases, then run `check`")
        local = local_names(self.config.policy, weights)
        if local:
            weights = weights | load_layers(self.work_folder, task, local)
        model = LoadedModel.of(task, weights, device)
        epochs = (task.epochs_done + 1, task.epochs_done + task.local_epochs, task.epochs_total)
        log.info("%s: %d cases, epochs %d to %d of %d", _where(task), len(cases.train), *epochs)
        validation_dsc = self._validation_dsc(model, cases.validation, task) if task.validate_received else None
        losses = {stage: self._train_stage(stage, model, cases.train, task) for stage in model.networks}
        result = TrainResult(
            model=task.model,
            round=task.round,
            num_examples=len(cases.train),
            epochs=_epoch_records(task, losses),
            validation_dsc=validation_dsc,
            num_validated=len(cases.validation) if validation_dsc is not None else 0,
            seconds=time.monotonic() - started,
        )
        trained = model_weights(model.networks)
        if local:
            save_layers(self.work_folder, task, {name: trained[name] for name in local})
        log.info("%s: done in %.0f s", _where(task), result.seconds)
        return trained, result

    def _validation_dsc(self, model: LoadedModel, cases: Sequence[OpenCase], task: TrainTask) -> float | None:
        """Mean DSC; None for fewer cases than the policy's `min_cases`."""
        if len(cases) < self.config.policy.min_cases:
            return None
        dsc = float(np.mean([metrics.dsc for metrics in measure(model, cases)[0]]))
        log.info("%s: the received model's mean DSC on %d validation cases is %.3f", _where(task), len(cases), dsc)
        return dsc

    def _train_stage(self, stage: str, model: LoadedModel, cases: Sequence[OpenCase], task: TrainTask) -> list[float]:
        """One stage's losses by epoch; its momentum comes from the round before, if the recipe keeps it."""
        network = model.networks[stage]
        optimiser = make_optimiser(network, task.recipe.training, task.lr0)
        keep = task.recipe.training.momentum_across_rounds == "keep"
        folder = self.work_folder / "momentum" / task.experiment / f"seed-{task.seed}" / f"{task.step}-{task.model}"
        if keep and task.epochs_done:
            load_momentum(folder, stage, optimiser, network, task.epochs_done)
        cached, told = [case.cached for case in cases], partial(_tell, task, stage)
        span = self._span(task)
        losses = train_stage(network, stage, cached, task.recipe, span, model.normalisation, optimiser, told)
        if keep:
            after = task.epochs_done + task.local_epochs
            save_momentum(folder, stage, optimiser, network, task.epochs_done, after)
        return losses

    def _span(self, task: TrainTask) -> Span:
        """The task's epochs; every site draws its own patches."""
        seed = zlib.crc32(f"{task.seed}/{task.step}/{self.config.site}".encode())
        return Span(task.epochs_done, task.local_epochs, task.epochs_total, task.lr0, seed, task.proximal_mu)

    def evaluate(self, task: EvaluateTask, models: Mapping[str, Weights]) -> tuple[EvaluateResult, list[Picture]]:
        """Measures each model on the original grids of one part; pictures, of the first model, only by policy."""
        started = time.monotonic()
        device, policy = self.device(), self.config.policy
        cases = self.open_cases(task)
        part = cases.test if task.part == "test" else cases.validation
        if len(part) < policy.min_cases:
            reason = f"{counted(len(part), 'case')}, fewer than the site's min_cases {policy.min_cases}"
            log.info("evaluation: withheld, %s", reason)
            return EvaluateResult(summaries={}, withheld=reason, seconds=time.monotonic() - started), []
        summaries: dict[str, ModelSummary] = {}
        pictures: list[Picture] = []
        for name in task.models:
            num_pictures = task.pictures if policy.share_pictures and not summaries else 0
            title = f"{self.config.site}, {name}, {task.part} case"
            log.info("evaluation: %s on %d %s cases", name, len(part), task.part)
            weights = models[name] | last_layers(self.work_folder, task.experiment, name, models[name])
            measured, drawn = measure(LoadedModel.of(task, weights, device), part, num_pictures, title)
            log.info("evaluation: %s has a mean DSC of %.3f", name, np.mean([metrics.dsc for metrics in measured]))
            summaries[name] = summary(measured, policy.min_cases)
            pictures += drawn
        return EvaluateResult(summaries=summaries, seconds=time.monotonic() - started), pictures


def _where(task: TrainTask) -> str:
    return f"{task.model} round {task.round}"


def _tell(task: TrainTask, stage: str, epoch: int, loss: float) -> None:
    """Into the site's own log."""
    log.info("%s, %s epoch %d of %d: loss %.4f", _where(task), stage, epoch + 1, task.epochs_total, loss)


def _epoch_records(task: TrainTask, losses: Mapping[str, Sequence[float]]) -> tuple[EpochRecord, ...]:
    power = task.recipe.training.power
    return tuple(
        EpochRecord(
            epoch=epoch,
            lr=poly_lr(task.lr0, epoch, task.epochs_total, power),
            losses={stage: values[number] for stage, values in losses.items()},
        )
        for number, epoch in enumerate(range(task.epochs_done, task.epochs_done + task.local_epochs))
    )
