"""Paired tests against SciPy, statsmodels and values by hand; the test over sites is the test over all their cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from common.paired_tests import (
    Moments,
    SignedRanks,
    holm,
    mean_of_sites,
    moments,
    paired_t,
    pooled,
    signed_ranks,
    stratified_wilcoxon,
)

FEW = [0.8, -0.2, 0.5, 1.1, 0.3, -0.1]
TIED = [0.5, 0.5, -0.5, 1.0, 0.0, 2.0, -1.0, 3.0]
MANY = list(np.random.default_rng(5).normal(0.2, 1.0, 80).round(2))
SAMPLES = [FEW, TIED, MANY, MANY[:50], MANY[:14]]


@pytest.mark.parametrize("values", SAMPLES)
def test_the_paired_t_test_is_scipys_and_statsmodels(values: list[float]) -> None:
    found = paired_t(moments(values))
    assert found is not None
    scipys = stats.ttest_rel(np.array(values) + 3.0, np.full(len(values), 3.0))
    described = DescrStatsW(values)
    assert (found.t, found.p) == pytest.approx((scipys.statistic, scipys.pvalue), rel=1e-9)
    assert (found.t, found.p) == pytest.approx(described.ttest_mean(0.0)[:2], rel=1e-12)
    assert (found.low, found.high) == pytest.approx(described.tconfint_mean(0.05), rel=1e-12)


def test_a_t_test_by_hand() -> None:
    """Differences 1, 2, 3: mean 2, SD 1, t = 2 / (1 / sqrt 3); two degrees of freedom have p in closed form."""
    found = paired_t(moments([1.0, 2.0, 3.0]))
    assert found is not None
    assert found.t == pytest.approx(2 * math.sqrt(3))
    assert found.p == pytest.approx(1 - found.t / math.sqrt(found.t**2 + 2))


@pytest.mark.parametrize("values", [[0.3], [0.2] * 4, [0.0] * 5, [0.1 + 0.2, 0.3, 0.3]])
def test_there_is_no_t_test_of_one_pair_or_of_equal_differences(values: list[float]) -> None:
    assert paired_t(moments(values)) is None


@pytest.mark.parametrize("values", SAMPLES)
def test_the_signed_ranks_are_scipys(values: list[float]) -> None:
    found = signed_ranks(values)
    scipys = stats.wilcoxon(values)
    kept = sum(value != 0 for value in values)
    assert found.p == pytest.approx(scipys.pvalue, rel=1e-12)
    assert found.n == len(values)
    assert (kept * (kept + 1) / 2 - abs(found.ranks)) / 2 == pytest.approx(scipys.statistic)


def test_the_exact_wilcoxon_by_hand() -> None:
    """Six positive differences: both signs' extremes among 2 ** 6 equally likely changes of sign."""
    assert signed_ranks([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == SignedRanks(6, 21.0, 91.0, 2 / 64)


def test_pairs_without_a_difference_give_no_wilcoxon() -> None:
    assert signed_ranks([0.0, 0.0, 0.0]) == SignedRanks(3, 0.0, 0.0, None)
    assert stratified_wilcoxon([signed_ranks([0.0, 0.0])]) is None


@pytest.mark.parametrize("values", [MANY, TIED])
def test_two_equal_strata_are_scipys_normal_approximation_twice(values: list[float]) -> None:
    """Two sites with the same ranks: z is sqrt 2 times that of one."""
    one = stats.wilcoxon(values, method="asymptotic", correction=False)
    both = stratified_wilcoxon([signed_ranks(values), signed_ranks([2 * value for value in values])])
    assert both == pytest.approx(2 * stats.norm.cdf(math.sqrt(2) * one.zstatistic), rel=1e-10)


def test_one_stratum_has_its_own_p() -> None:
    assert stratified_wilcoxon([signed_ranks(FEW), signed_ranks([0.0, 0.0])]) == stats.wilcoxon(FEW).pvalue


def test_strata_that_disagree_cancel() -> None:
    assert stratified_wilcoxon([signed_ranks(FEW), signed_ranks([-value for value in FEW])]) == 1.0


NUMBERS = st.lists(st.integers(-1000, 1000).map(lambda k: k / 1000), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_over_sites_the_t_test_is_the_pooled_one(sites: list[list[float]]) -> None:
    together = moments([value for site in sites for value in site])
    apart = pooled([moments(site) for site in sites])
    assert apart.n == together.n
    assert apart.mean == pytest.approx(together.mean, rel=1e-12, abs=1e-12)
    assert apart.sd == pytest.approx(together.sd, rel=1e-12, abs=1e-12)
    one, other = paired_t(apart), paired_t(together)
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert (one.t, one.low, one.high) == pytest.approx((other.t, other.low, other.high), rel=1e-12, abs=1e-12)
        assert one.p == pytest.approx(other.p, rel=1e-10, abs=1e-12)


def test_pooling_by_hand() -> None:
    """1, 3 and 5, 7 are four numbers with mean 4 and a sum of squares of 20."""
    assert pooled([Moments(2, 2.0, math.sqrt(2)), Moments(2, 6.0, math.sqrt(2))]).mean == 4.0
    assert pooled([moments([1, 3]), moments([5, 7])]).sd == pytest.approx(math.sqrt(20 / 3))


def test_holm_by_hand() -> None:
    """0.01 x 4, 0.02 x 3, 0.03 x 2 is no smaller, 0.6; what has no p takes no part."""
    assert holm([0.03, 0.01, None, 0.6, 0.02]) == pytest.approx([0.06, 0.04, None, 0.6, 0.06])
    assert holm([]) == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(ps: list[float]) -> None:
    assert holm(ps) == pytest.approx(list(multipletests(ps, method="holm")[1]), rel=1e-12, abs=1e-300)


def test_the_mean_of_two_sites_is_tested_as_welch_tests_their_sum() -> None:
    """Mean of a and b against 0 is half of the difference of a and minus b: SciPy's test of unequal variances."""
    random = np.random.default_rng(5)
    a, b = random.normal(1.0, 2.0, 18), random.normal(-0.5, 5.0, 4)
    mean, test = mean_of_sites([moments(a), moments(b)])
    oracle = stats.ttest_ind(a, -b, equal_var=False)
    low, high = oracle.confidence_interval(0.95)
    assert test is not None
    assert (test.t, test.p) == pytest.approx((oracle.statistic, oracle.pvalue))
    assert (mean, test.low, test.high) == pytest.approx(((a.mean() + b.mean()) / 2, low / 2, high / 2))


def test_a_site_of_one_case_leaves_the_mean_of_sites_without_a_test() -> None:
    assert mean_of_sites([moments([1.0, 2.0]), moments([4.0])]) == (2.75, None)
