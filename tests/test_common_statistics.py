"""HU histograms and the normalisation they give."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.errors import InputError
from common.statistics import NUM_BINS, HuHistogram, Normalisation, body_histogram

hu_lists = st.lists(st.integers(-1024, 4095), min_size=1, max_size=60)


def test_two_values() -> None:
    histogram = HuHistogram.from_values([-1.0, 1.0])
    assert (histogram.num_voxels, histogram.mean, histogram.sd) == (2, 0.0, 1.0)


def test_values_are_rounded_and_clipped() -> None:
    histogram = HuHistogram.from_values(np.array([[-3000.0, 9000.0], [0.4, 0.6]], np.float32))
    assert {int(k) - 1024: int(histogram.counts[k]) for k in np.flatnonzero(histogram.counts)} == {
        -1024: 1,
        0: 1,
        1: 1,
        4095: 1,
    }


@given(hu_lists, st.data())
def test_the_federated_result_is_the_pooled_one_exactly(values: list[int], data: st.DataObject) -> None:
    sites = data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    merged = HuHistogram.empty()
    for site in data.draw(st.permutations(range(4))):
        merged += HuHistogram.from_values([v for v, s in zip(values, sites, strict=True) if s == site])
    pooled = HuHistogram.from_values(values)
    assert (merged.num_voxels, merged.mean, merged.sd) == (pooled.num_voxels, pooled.mean, pooled.sd)
    assert merged.mean == pytest.approx(np.mean(values))
    assert merged.sd == pytest.approx(np.std(values))


def test_sums_beyond_int64_stay_exact() -> None:
    counts = np.zeros(NUM_BINS, np.int64)
    counts[[0, -1]] = 2**50  # the sum of squares times the count is about 2 ** 125
    histogram = HuHistogram(counts)
    assert histogram.mean == (4095 - 1024) / 2
    assert histogram.sd == (4095 + 1024) / 2


def test_averaging_the_sites_sds_would_be_wrong() -> None:
    sites = [HuHistogram.from_values([-100, 100]), HuHistogram.from_values([200, 400])]
    assert [site.sd for site in sites] == [100.0, 100.0]
    assert (sites[0] + sites[1]).sd == pytest.approx(math.sqrt(32500))


def test_an_empty_histogram_has_no_mean_and_gives_no_normalisation() -> None:
    assert math.isnan(HuHistogram.empty().mean)
    assert math.isnan(HuHistogram.empty().sd)
    for histogram in (HuHistogram.empty(), HuHistogram.from_values([7, 7])):
        with pytest.raises(InputError, match="SD above 0"):
            Normalisation.from_histogram(histogram)


@given(hu_lists)
def test_a_histogram_survives_the_wire(values: list[int]) -> None:
    histogram = HuHistogram.from_values(values)
    np.testing.assert_array_equal(HuHistogram.from_array(histogram.to_array()).counts, histogram.counts)


@pytest.mark.parametrize(
    "counts",
    [
        np.zeros(NUM_BINS - 1, np.int64),
        np.zeros(NUM_BINS),
        np.full(NUM_BINS, -1),
        np.full(NUM_BINS, 2**62),
    ],
)
def test_a_false_histogram_is_refused(counts: NDArray[np.int64]) -> None:
    with pytest.raises(InputError, match="histogram"):
        HuHistogram.from_array(counts)


def test_normalisation_subtracts_the_mean_and_divides_by_the_sd() -> None:
    normalisation = Normalisation(mean=-100.0, sd=200.0)
    result = normalisation.apply(np.array([-100, 100, -300], np.int16))
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, [0.0, 1.0, -1.0])
    assert normalisation.air == -4.5


@dataclass
class FakeCase:
    image: NDArray[np.int16]
    body: NDArray[np.uint8]


def test_only_body_voxels_of_all_channels_count() -> None:
    body = np.zeros((1, 2, 2), np.uint8)
    body[0, 0] = 1
    image = np.arange(8, dtype=np.int16).reshape(2, 1, 2, 2)
    histogram = body_histogram([FakeCase(image, body), FakeCase(image[:1], body)])  # type: ignore[list-item]
    assert [int(n) for n in histogram.counts[1024:1034]] == [2, 2, 0, 0, 1, 1, 0, 0, 0, 0]
