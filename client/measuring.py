"""A model at work on a site's cases: metrics on their original grids, pictures, and summaries that may leave."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.cases import OpenCase
from client.kept_results import KeptResults, MeasuredCase
from common.checkpoint import Weights
from common.metrics import CaseMetrics, case_metrics, summarise
from common.model import load_model
from common.pictures import overlay_png
from common.recipe import Recipe
from common.segmentation import Segmentation, segment
from common.statistics import Normalisation
from common.tasks import EvaluateTask, MetricSummary, ModelSummary, Picture, PictureTask, TrainTask
from common.volume import Volume, to_lps

log = logging.getLogger("fedgtv.site")


@dataclass(frozen=True)
class LoadedModel:
    """A task's networks with what they need to segment a case."""

    networks: dict[str, nn.Module]
    recipe: Recipe
    normalisation: Normalisation
    device: torch.device

    @classmethod
    def of(cls, task: TrainTask | EvaluateTask | PictureTask, weights: Weights, device: torch.device) -> "LoadedModel":
        """Returns the task's recipe with `weights` (CheckpointError: they are another network's)."""
        normalisation = Normalisation(task.normalisation.mean, task.normalisation.sd)
        return cls(load_model(task.recipe, weights, device), task.recipe, normalisation, device)

    def segmentation(self, case: OpenCase) -> Segmentation:
        """Returns the predicted mask (z, y, x) on the case's original grid, and what it came from."""
        return segment(case.cached, self.networks, self.recipe, self.normalisation, self.device)


@dataclass(frozen=True)
class Measured:
    """One model on a site's cases."""

    metrics: list[CaseMetrics]
    """Against the contour."""
    truth_metrics: list[CaseMetrics]
    """Against a phantom's true tumour; shorter than `metrics` where a case has none."""
    pictures: list[Picture]

    def summary(self, min_cases: int) -> ModelSummary:
        """Returns what may leave the site; against the truth only where every case has one."""
        whole = summary(self.metrics, min_cases)
        if not self.metrics or len(self.truth_metrics) < len(self.metrics):
            return whole
        return whole.model_copy(update={"truth_metrics": summary(self.truth_metrics, min_cases).metrics})


def measure(
    load: Callable[[], LoadedModel],
    cases: Sequence[OpenCase],
    kept: KeptResults | None = None,
    num_pictures: int = 0,
    title: str = "",
) -> Measured:
    """Returns each case's metrics, and pictures of the first `num_pictures` cases, titled by a running number.

    What is kept is not measured again, unless a picture is drawn of it, or a true tumour has come or gone since; what
    is measured is kept.

    Args:
        load: makes the model, once it is needed.
        cases: the part's.
        kept: this model's results; None: nothing is kept.
        num_pictures: how many are drawn.
        title: of a picture, before its number.
    """
    model = cache(load)
    measured: list[MeasuredCase] = []
    pictures: list[Picture] = []
    for number, case in enumerate(cases, 1):
        known = kept.find(case) if kept and number > num_pictures else None
        if known is None or (known.truth_metrics is not None) != case.has_truth:
            mask, contour = model().segmentation(case).mask, case.label()
            known = _measured(case, mask, contour)
            if kept:
                kept.save(case, known)
            if number <= num_pictures:
                pictures.append(Picture(_png(case, contour, mask, f"{title} {number}"), known.metrics.dsc))
        measured.append(known)
    truth_metrics = [each.truth_metrics for each in measured if each.truth_metrics is not None]
    return Measured([each.metrics for each in measured], truth_metrics, pictures)


def _measured(case: OpenCase, mask: NDArray[np.bool_], contour: NDArray[np.bool_]) -> MeasuredCase:
    spacing_mm, truth = case.cached.record.geometry.spacing_mm, case.truth()
    metrics = case_metrics(mask, contour, spacing_mm)
    log.info("%s: DSC %.3f", case.cached.case_id, metrics.dsc)
    return MeasuredCase(metrics, not mask.any(), None if truth is None else case_metrics(mask, truth, spacing_mm))


def _png(case: OpenCase, truth: NDArray[np.bool_], mask: NDArray[np.bool_], title: str) -> bytes:
    image = case.image()
    planes = [to_lps(Volume(array, image.geometry)) for array in (image.array, truth, mask)]
    return overlay_png(planes[0].array, planes[0].geometry.spacing_mm, planes[1].array, planes[2].array, title)


def summary(measured: Sequence[CaseMetrics], min_cases: int) -> ModelSummary:
    """Returns what may leave the site: means over fewer than `min_cases` defined values are None.

    Distances are undefined where a mask is empty, so they can stand for fewer cases than the part holds.
    """
    whole = summarise(measured)
    metrics = {}
    for name, value in whole.metrics.items():
        num_defined = int(np.isfinite([getattr(case, name) for case in measured]).sum())
        enough = num_defined >= min_cases
        metrics[name] = MetricSummary(mean=value.mean, sd=value.sd) if enough else MetricSummary(mean=None, sd=None)
    return ModelSummary(n=whole.n, num_undefined=whole.num_undefined, metrics=metrics)
