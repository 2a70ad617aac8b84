"""A site's own work on its own cases: counts, training, measuring. Flower-free; `client/app.py` calls it."""

import logging
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.momentum import load_momentum, save_momentum
from common.cache import CachedCase, CaseCache
from common.config import PreprocessConfig, SiteConfig, SplitConfig, load_yaml
from common.dataset import CaseEntry, read_index, split_cases
from common.device import choose_device
from common.errors import ImageError, LabelError, WorkError
from common.metrics import CaseMetrics, case_metrics, summarise
from common.model import Weights, load_model, model_weights
from common.pictures import overlay_png
from common.segmentation import segment
from common.statistics import Normalisation, body_histogram
from common.tasks import (
    EpochRecord,
    EvaluateResult,
    EvaluateTask,
    MetricSummary,
    ModelSummary,
    NormalisationRecord,
    SiteStatistics,
    StatisticsTask,
    TrainResult,
    TrainTask,
)
from common.training import Span, make_optimiser, poly_lr, train_stage
from common.volume import Volume, read_nifti, to_lps

log = logging.getLogger("fedgtv.site")


@dataclass(frozen=True)
class OpenCase:
    """A cached case and where its original files lie."""

    entry: CaseEntry
    cached: CachedCase


@dataclass(frozen=True)
class Cases:
    """A site's cases by part of the split; refused ones are in none."""

    train: tuple[OpenCase, ...]
    validation: tuple[OpenCase, ...]
    test: tuple[OpenCase, ...]
    num_refused: int


class Site:
    """One hospital: its configuration, its cases and its device."""

    def __init__(self, config: SiteConfig, folder: Path) -> None:
        """Relative paths of `config` start at `folder`."""
        self.config = config
        self.cases_folder = folder / config.cases
        self.state_folder = folder / config.state

    @classmethod
    def open(cls, path: Path) -> "Site":
        """Returns the site that `site.yaml` at `path` describes (ConfigError: the file is not valid)."""
        return cls(load_yaml(path, SiteConfig), path.parent)

    def device(self) -> torch.device:
        """Returns the configured device and sets the number of CPU threads."""
        if self.config.num_threads:
            torch.set_num_threads(self.config.num_threads)
        return choose_device(self.config.device)

    def open_cases(self, preprocess: PreprocessConfig, split: SplitConfig) -> Cases:
        """Returns the cases by part; what is not in the cache yet is made now. Refused cases are logged here."""
        cache = CaseCache(self.state_folder / "cache", preprocess)
        parts = split_cases(read_index(self.cases_folder), split)
        opened, refused = [], 0
        for part in (parts.train, parts.validation, parts.test):
            cases = [self._open(cache, entry) for entry in part]
            opened.append(tuple(case for case in cases if case is not None))
            refused += sum(case is None for case in cases)
        return Cases(opened[0], opened[1], opened[2], refused)

    def _open(self, cache: CaseCache, entry: CaseEntry) -> OpenCase | None:
        try:
            return OpenCase(entry, cache.open(self.cases_folder, entry))
        except (ImageError, LabelError) as error:
            log.warning("case %s is left out: %s", entry.case_id, error)
            return None

    def statistics(self, task: StatisticsTask) -> tuple[SiteStatistics, NDArray[np.int64] | None]:
        """Returns case counts and the HU histogram of the training cases' body voxels.

        The histogram is None when the site has fewer training cases than its policy's `min_cases`.
        """
        started = time.monotonic()
        cases = self.open_cases(task.recipe.preprocess, task.split)
        enough = len(cases.train) >= self.config.policy.min_cases
        histogram = body_histogram([case.cached for case in cases.train]).to_array() if enough else None
        result = SiteStatistics(
            train=len(cases.train),
            validation=len(cases.validation),
            test=len(cases.test),
            refused=cases.num_refused,
            seconds=time.monotonic() - started,
        )
        return result, histogram

    def train(self, task: TrainTask, weights: Weights) -> tuple[Weights, TrainResult]:
        """Trains every stage for the task's epochs; returns the new weights and what happened."""
        started = time.monotonic()
        device = self.device()
        cases = self.open_cases(task.recipe.preprocess, task.split)
        if not cases.train:
            raise WorkError(f"site {self.config.site}: no training case is left; import cases, then run `check`")
        normalisation = _normalisation(task.normalisation)
        networks = load_model(task.recipe, weights, device)
        validation_dsc = None
        if task.validate_received and len(cases.validation) >= self.config.policy.min_cases:
            measured = [self._measure(case, networks, task, normalisation, device) for case in cases.validation]
            validation_dsc = float(np.mean([metrics.dsc for metrics in measured]))
        losses = {
            stage: self._train_stage(stage, network, cases.train, task, normalisation)
            for stage, network in networks.items()
        }
        result = TrainResult(
            num_examples=len(cases.train),
            epochs=_epoch_records(task, losses),
            validation_dsc=validation_dsc,
            seconds=time.monotonic() - started,
        )
        return model_weights(networks), result

    def _train_stage(
        self,
        stage: str,
        network: nn.Module,
        cases: Sequence[OpenCase],
        task: TrainTask,
        normalisation: Normalisation,
    ) -> list[float]:
        optimiser = make_optimiser(network, task.recipe.training, task.lr0)
        keep = task.recipe.training.momentum_across_rounds == "keep"
        path = self.state_folder / "momentum" / task.experiment / f"{task.step}-{task.model}" / f"{stage}.safetensors"
        if keep and task.epochs_done:
            load_momentum(path, optimiser, network, task.epochs_done)
        seed = zlib.crc32(f"{task.seed}/{task.step}/{self.config.site}".encode())
        span = Span(task.epochs_done, task.local_epochs, task.epochs_total, task.lr0, seed, task.proximal_mu)
        losses = train_stage(
            network,
            stage,
            [case.cached for case in cases],
            task.recipe,
            span,
            normalisation,
            optimiser,
            lambda epoch, loss: log.info(
                "%s round %d, %s epoch %d of %d: loss %.4f",
                task.model,
                task.round,
                stage,
                epoch + 1,
                task.epochs_total,
                loss,
            ),
        )
        if keep:
            save_momentum(path, optimiser, network, task.epochs_done + task.local_epochs)
        return losses

    def evaluate(self, task: EvaluateTask, models: Mapping[str, Weights]) -> tuple[EvaluateResult, list[bytes]]:
        """Measures each model on the original grids of one part; pictures only if the policy allows them."""
        started = time.monotonic()
        device = self.device()
        cases = self.open_cases(task.recipe.preprocess, task.split)
        part = cases.test if task.part == "test" else cases.validation
        if len(part) < self.config.policy.min_cases:
            reason = f"{len(part)} cases, fewer than the site's min_cases {self.config.policy.min_cases}"
            return EvaluateResult(summaries={}, withheld=reason, seconds=time.monotonic() - started), []
        normalisation = _normalisation(task.normalisation)
        summaries, pictures = {}, []
        for name in task.models:
            networks = load_model(task.recipe, models[name], device)
            summaries[name] = _summary([self._measure(case, networks, task, normalisation, device) for case in part])
            if name == task.models[0] and self.config.policy.share_pictures:
                pictures = [
                    self._picture(number, case, networks, task, normalisation, device)
                    for number, case in enumerate(part[: task.pictures], 1)
                ]
        return EvaluateResult(summaries=summaries, seconds=time.monotonic() - started), pictures

    def _measure(
        self,
        case: OpenCase,
        networks: Mapping[str, nn.Module],
        task: TrainTask | EvaluateTask,
        normalisation: Normalisation,
        device: torch.device,
    ) -> CaseMetrics:
        mask = segment(case.cached, networks, task.recipe, normalisation, device).mask
        truth = self._label(case)
        metrics = case_metrics(mask, truth, case.cached.record.geometry.spacing_mm)
        log.info("%s: DSC %.3f", case.entry.case_id, metrics.dsc)
        return metrics

    def _label(self, case: OpenCase) -> NDArray[np.bool_]:
        if case.entry.label is None:
            raise LabelError(f"case {case.entry.case_id}: has no label; import it with its contour")
        return np.asarray(read_nifti(self.cases_folder / case.entry.label).array > 0.5)

    def _picture(
        self,
        number: int,
        case: OpenCase,
        networks: Mapping[str, nn.Module],
        task: EvaluateTask,
        normalisation: Normalisation,
        device: torch.device,
    ) -> bytes:
        """An overlay in LPS orientation that names a running number, not the case."""
        mask = segment(case.cached, networks, task.recipe, normalisation, device).mask
        image = read_nifti(self.cases_folder / case.entry.images[0])
        planes = [to_lps(Volume(array, image.geometry)) for array in (image.array, self._label(case), mask)]
        title = f"{self.config.site}, {task.part} case {number}, {task.models[0]}"
        return overlay_png(planes[0].array, planes[0].geometry.spacing_mm, planes[1].array, planes[2].array, title)


def _normalisation(record: NormalisationRecord) -> Normalisation:
    return Normalisation(record.mean, record.sd)


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


def _summary(metrics: Sequence[CaseMetrics]) -> ModelSummary:
    summary = summarise(metrics)
    return ModelSummary(
        n=summary.n,
        num_undefined=summary.num_undefined,
        metrics={name: MetricSummary(mean=value.mean, sd=value.sd) for name, value in summary.metrics.items()},
    )
