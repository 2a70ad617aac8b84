"""Quartiles, whiskers and the bootstrap against matplotlib and SciPy."""

import numpy as np
import pytest
from matplotlib.cbook import boxplot_stats
from scipy import stats

from common.distribution import RESAMPLES, SEED, Box, box, mean_interval

VALUES = list(np.random.default_rng(3).normal(0.6, 0.2, 17))
SAMPLES = [VALUES, [0.5], [0.1, 0.9], [0.0, 0.5, 0.5, 0.5, 0.5, 9.0], [0.1, 0.2, 0.3, 0.4]]


@pytest.mark.parametrize("values", SAMPLES)
def test_a_box_is_matplotlibs(values: list[float]) -> None:
    (drawn,) = boxplot_stats(values)
    expected = [drawn[key] for key in ("q1", "med", "q3", "whislo", "whishi")]
    found = box(values)
    assert [found.q1, found.median, found.q3, found.whisker_low, found.whisker_high] == pytest.approx(expected)


def test_an_outlier_is_beyond_the_whisker() -> None:
    assert box([1, 2, 3, 4, 5, 100]) == Box(2.25, 3.5, 4.75, 1.0, 5.0)


def test_the_interval_is_scipys_with_the_same_draws() -> None:
    drawn = stats.bootstrap(
        (VALUES,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(SEED)
    ).confidence_interval
    assert mean_interval(VALUES) == pytest.approx((drawn.low, drawn.high), rel=1e-12)


def test_asking_twice_tells_the_same() -> None:
    assert mean_interval(VALUES) == mean_interval(VALUES)


def test_one_number_is_its_own_interval() -> None:
    assert mean_interval([0.7]) == pytest.approx((0.7, 0.7))
