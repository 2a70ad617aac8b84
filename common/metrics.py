"""Overlap and surface distance of two masks, by the paper's definitions (section 3.A.2), and their summary over cases.

With S(A) the surface voxels of mask A and d(A, B) the distances of S(A)'s voxels to the nearest of S(B):
ASSD = (mean d(P, T) + mean d(T, P)) / 2 and HD95 = max(p95 d(P, T), p95 d(T, P)). Libraries that pool both directions
before they average give other values where the two surfaces differ in size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from common.errors import ImageError

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CaseMetrics:
    """How well a predicted mask matches the true one."""

    dsc: float
    """Dice coefficient 2 TP / (2 TP + FP + FN); 1 if both masks are empty."""
    ppv: float
    """TP / (TP + FP), the paper's "PPR"; 1 if both masks are empty, [C] 0 if only the prediction is."""
    sen: float
    """TP / (TP + FN); 1 if both masks are empty, [C] 0 if only the truth is."""
    assd_mm: float
    """Average symmetric surface distance; 0 if both masks are empty, NaN if one is."""
    hd95_mm: float
    """95th percentile Hausdorff distance; 0 if both masks are empty, NaN if one is."""


METRIC_NAMES = tuple(field.name for field in fields(CaseMetrics))


@dataclass(frozen=True)
class MeanSd:
    """Over the cases where a metric is defined."""

    mean: float | None
    """None for no case."""
    sd: float | None
    """Sample SD (n - 1 in the denominator); None for fewer than two cases."""


@dataclass(frozen=True)
class Summary:
    """Metrics over cases."""

    n: int
    """Cases, those with undefined distances included."""
    num_undefined: int
    """Cases whose distances are undefined (one mask empty): they count in DSC, PPV and SEN, and are missing from the
    means of both distances, which are over n - num_undefined cases."""
    metrics: dict[str, MeanSd]
    """By the names of `CaseMetrics`' fields."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the summary as JSON values, as the ledger holds it."""
        metrics = {name: {"mean": value.mean, "sd": value.sd} for name, value in self.metrics.items()}
        return {"n": self.n, "num_undefined": self.num_undefined, "metrics": metrics}


def case_metrics(prediction: NDArray[Any], truth: NDArray[Any], spacing_mm: Sequence[float]) -> CaseMetrics:
    """Returns the metrics of a prediction.

    Args:
        prediction: (z, y, x), non-zero inside.
        truth: of the same shape, non-zero inside.
        spacing_mm: (z, y, x).

    Raises:
        ImageError: the shapes differ or are not three-dimensional, or a spacing is not positive.
    """
    _check(prediction, truth, spacing_mm)
    predicted, true = _crop(prediction.astype(bool, copy=False), truth.astype(bool, copy=False))
    num_predicted, num_true = int(predicted.sum()), int(true.sum())
    if not num_predicted and not num_true:
        return CaseMetrics(1.0, 1.0, 1.0, 0.0, 0.0)
    if not num_predicted or not num_true:
        return CaseMetrics(0.0, 0.0, 0.0, math.nan, math.nan)
    overlap = int((predicted & true).sum())
    there, back = surface_distances(predicted, true, spacing_mm)
    return CaseMetrics(
        dsc=2 * overlap / (num_predicted + num_true),
        ppv=overlap / num_predicted,
        sen=overlap / num_true,
        assd_mm=float((there.mean() + back.mean()) / 2),
        hd95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))),
    )


def surface(mask: Mask) -> Mask:
    """Returns the voxels of `mask` with a 6-neighbour outside it; what lies beyond the array is outside."""
    eroded: Mask = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 1), border_value=0)
    return mask & ~eroded


def surface_distances(a: Mask, b: Mask, spacing_mm: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the distances in mm of a's surface voxels to b's surface, and of b's to a's; both masks hold a voxel."""
    surface_a, surface_b = surface(a), surface(b)
    to_a = ndimage.distance_transform_edt(~surface_a, sampling=tuple(spacing_mm))
    to_b = ndimage.distance_transform_edt(~surface_b, sampling=tuple(spacing_mm))
    return to_b[surface_a], to_a[surface_b]


def summarise(cases: Sequence[CaseMetrics]) -> Summary:
    """Returns mean and sample SD of each metric, and how many cases have no distances; no cases: all None."""
    return Summary(
        n=len(cases),
        num_undefined=sum(math.isnan(case.assd_mm) for case in cases),
        metrics={name: _mean_sd([getattr(case, name) for case in cases]) for name in METRIC_NAMES},
    )


def _mean_sd(values: Sequence[float]) -> MeanSd:
    defined = [value for value in values if not math.isnan(value)]
    return MeanSd(
        mean=float(np.mean(defined)) if defined else None,
        sd=float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
    )


def _crop(a: Mask, b: Mask) -> tuple[Mask, Mask]:
    """Both masks in the bounding box of their union, which holds all that the metrics depend on."""
    for axis in range(3):
        others = tuple(k for k in range(3) if k != axis)
        occupied = np.flatnonzero(a.any(axis=others) | b.any(axis=others))
        low, high = (occupied[0], occupied[-1] + 1) if occupied.size else (0, 0)
        box = (*[slice(None)] * axis, slice(low, high))
        a, b = a[box], b[box]
    return a, b


def _check(prediction: NDArray[Any], truth: NDArray[Any], spacing_mm: Sequence[float]) -> None:
    if prediction.ndim != 3 or prediction.shape != truth.shape:
        raise ImageError(
            f"prediction has shape {prediction.shape}, truth {truth.shape}; expected the same three-dimensional grid; "
            "bring both to the image's grid"
        )
    if len(spacing_mm) != 3 or not all(math.isfinite(value) and value > 0 for value in spacing_mm):
        raise ImageError(f"spacing {tuple(spacing_mm)} mm; expected three lengths above 0 (z, y, x)")
