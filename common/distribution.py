"""How the numbers of some cases are spread: median, interval of the mean, and what a box plot shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.paired_tests import LEVEL

RESAMPLES = 10_000
SEED = 0
"""Fixed: who asks twice is told the same, and learns nothing from the difference of two answers."""
REACH = 1.5
"""Of a whisker, in distances between the quartiles (Tukey, Exploratory Data Analysis, 1977)."""


@dataclass(frozen=True)
class Box:
    """What a box plot shows, without the outliers."""

    q1: float
    median: float
    q3: float
    whisker_low: float
    """The lowest number at most 1.5 times the distance between the quartiles below the lower one."""
    whisker_high: float


def box(values: Sequence[float]) -> Box:
    """Returns it of at least one number; quartiles are interpolated linearly, as NumPy's and matplotlib's."""
    numbers = np.asarray(values, np.float64)
    q1, median, q3 = (float(each) for each in np.percentile(numbers, [25, 50, 75]))
    reach = REACH * (q3 - q1)
    low = float(numbers[numbers >= q1 - reach].min(initial=q1))
    high = float(numbers[numbers <= q3 + reach].max(initial=q3))
    return Box(q1, median, q3, low, high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of the mean over at least one number, by the percentile bootstrap.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 13.3. It never leaves the range of the numbers, so a
    DSC's ends at 1; over fewer than some ten cases it is too narrow.
    """
    numbers = np.asarray(values, np.float64)
    random = np.random.default_rng(SEED)
    means = numbers[random.integers(0, numbers.size, (RESAMPLES, numbers.size))].mean(axis=1)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
