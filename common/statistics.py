"""Mergeable HU histograms and the normalisation they give: the federated fingerprint (paper, section 2.C).

The paper subtracts the global mean and divides by the global SD of the body-mask voxels over the data set. [C] Over the
training cases only, with the population SD. Sites send exact counts and the server adds them, so the result does not
depend on how cases are spread over sites; averaging the sites' SDs would (191.4 for 198.0 in a two-site example).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError

if TYPE_CHECKING:  # the coordinator merges histograms and needs no image library
    from common.cache import CachedCase

LOWEST_HU, HIGHEST_HU = -1024, 4095
NUM_BINS = HIGHEST_HU - LOWEST_HU + 1
AIR_HU = -1000.0
"""Air on the Hounsfield scale: what stands where an image has no data."""
MAX_VOXELS = 2**53
"""More voxels than any federation holds; a histogram beyond it could overflow int64 when merged."""


@dataclass(frozen=True, eq=False)
class HuHistogram:
    """How many voxels have each rounded HU; values beyond [-1024, 4095] count as the nearest end."""

    counts: NDArray[np.int64]
    """(5120,): element k counts -1024 + k HU."""

    @classmethod
    def empty(cls) -> "HuHistogram":
        """Returns the histogram of no voxels, the neutral element of `+`."""
        return cls(np.zeros(NUM_BINS, np.int64))

    @classmethod
    def from_values(cls, values: ArrayLike) -> "HuHistogram":
        """Returns the histogram of finite HU values of any shape; halves round to even."""
        rounded = np.clip(np.rint(np.asarray(values)), LOWEST_HU, HIGHEST_HU).astype(np.int64)
        return cls(np.bincount(rounded.ravel() - LOWEST_HU, minlength=NUM_BINS).astype(np.int64))

    @classmethod
    def from_array(cls, counts: NDArray[Any]) -> "HuHistogram":
        """Returns the histogram that `to_array` gave, checked: it may come from another site.

        Raises:
            InputError: not 5120 integers, a negative count, or more than 2**53 voxels.
        """
        counts = np.asarray(counts)
        if counts.shape != (NUM_BINS,) or counts.dtype.kind not in "iu":
            raise InputError(
                f"histogram: {counts.dtype} {counts.shape}; expected {NUM_BINS} integers; update the site's release"
            )
        if int(counts.min()) < 0 or sum(counts.tolist()) > MAX_VOXELS:
            raise InputError(
                "histogram: a count is negative or impossibly large; ask the site to prepare its cases again"
            )
        return cls(counts.astype(np.int64))

    def to_array(self) -> NDArray[np.int64]:
        """Returns a copy of the counts, for the wire."""
        return self.counts.copy()

    def __add__(self, other: "HuHistogram") -> "HuHistogram":
        return HuHistogram(self.counts + other.counts)

    @property
    def num_voxels(self) -> int:
        """Voxels counted."""
        return sum(self.counts.tolist())

    @property
    def mean(self) -> float:
        """Mean HU, correctly rounded; NaN for no voxels."""
        num, total, _ = self._sums()
        return total / num if num else math.nan

    @property
    def sd(self) -> float:
        """Population SD in HU, from exact integer sums; NaN for no voxels."""
        num, total, squares = self._sums()
        return math.sqrt(num * squares - total**2) / num if num else math.nan

    def _sums(self) -> tuple[int, int, int]:
        """Count, sum and sum of squares as Python integers, which neither round nor overflow."""
        pairs = [(LOWEST_HU + int(k), int(self.counts[k])) for k in np.flatnonzero(self.counts)]
        return sum(n for _, n in pairs), sum(hu * n for hu, n in pairs), sum(hu * hu * n for hu, n in pairs)


@dataclass(frozen=True)
class Normalisation:
    """Intensity minus mean, over SD; one for all channels and both stages, applied once."""

    mean: float
    """HU."""
    sd: float
    """HU, above 0."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.sd) and self.sd > 0):
            raise InputError(
                f"normalisation: mean {self.mean} and SD {self.sd} HU; expected a finite mean and an SD above 0; "
                "gather statistics over at least one training case"
            )

    @classmethod
    def from_histogram(cls, histogram: HuHistogram) -> "Normalisation":
        """Returns the normalisation by a histogram's mean and SD; InputError if it is empty or has one value only."""
        return cls(histogram.mean, histogram.sd)

    def apply(self, hu: NDArray[Any]) -> NDArray[np.float32]:
        """Returns a float32 array of HU's shape, normalised."""
        result = hu.astype(np.float32)
        result -= np.float32(self.mean)
        result /= np.float32(self.sd)
        return result

    @property
    def air(self) -> float:
        """What -1000 HU becomes: the value that lies outside of every image."""
        return float(self.apply(np.array(AIR_HU)))


def body_histogram(cases: "Iterable[CachedCase]") -> HuHistogram:
    """Returns the histogram of the cases' body-mask voxels in all channels; pass training cases only."""
    total = HuHistogram.empty()
    for case in cases:
        body = case.body.astype(bool)
        for channel in case.image:
            total += HuHistogram.from_values(channel[body])
    return total
