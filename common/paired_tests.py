"""Do two models differ on the same cases? Paired t-test and Wilcoxon's signed ranks, over one site or several.

Of a site's differences five numbers are enough to test over all sites: n, mean and SD for the t-test, which is then
exactly that of the pooled cases, and two sums over ranks for Wilcoxon's. Tests are two-tailed, and none corrects for
how many are made: `holm` does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

LEVEL = 0.95
"""Of the intervals."""
EXACT = 1e-12
"""Differences that spread by less than this share of their mean are all the same, but for rounding."""


@dataclass(frozen=True)
class Moments:
    """Of the differences first minus second, or of any numbers."""

    n: int
    mean: float
    sd: float
    """Sample SD (n - 1 in the denominator); 0 for one."""


@dataclass(frozen=True)
class PairedT:
    """Student's t-test of differences against 0, and their mean's interval by the same distribution."""

    t: float
    p: float
    low: float
    high: float


@dataclass(frozen=True)
class SignedRanks:
    """Wilcoxon's signed ranks of one site's differences; those of 0 are left out, as Wilcoxon did."""

    n: int
    """Pairs, those without a difference included."""
    ranks: float
    """Sum of the ranks of positive differences less that of negative ones."""
    squares: float
    """Sum of the squared ranks: the variance of `ranks` if signs are by chance, ties allowed for."""
    p: float | None
    """Of this site alone; None where no pair differs."""


def moments(values: ArrayLike) -> Moments:
    """Returns those of at least one number."""
    numbers = np.asarray(values, np.float64)
    sd = float(np.std(numbers, ddof=1)) if numbers.size > 1 else 0.0
    return Moments(numbers.size, float(np.mean(numbers)), sd)


def pooled(parts: Sequence[Moments]) -> Moments:
    """Returns the moments of all parts' numbers together: exactly, up to rounding, in any order."""
    n = sum(part.n for part in parts)
    mean = math.fsum(part.n * part.mean for part in parts) / n
    within = math.fsum((part.n - 1) * part.sd**2 for part in parts)
    between = math.fsum(part.n * (part.mean - mean) ** 2 for part in parts)
    return Moments(n, mean, math.sqrt((within + between) / (n - 1)) if n > 1 else 0.0)


def paired_t(differences: Moments) -> PairedT | None:
    """Returns the test, or None where there is none: one pair, or differences that are all the same."""
    n, mean, sd = differences.n, differences.mean, differences.sd
    if n < 2 or sd <= EXACT * abs(mean):
        return None
    return _t_test(mean, sd / math.sqrt(n), n - 1)


def mean_of_sites(parts: Sequence[Moments]) -> tuple[float, PairedT | None]:
    """Returns the mean of sites' mean differences, each site once, and its test; None as in `paired_t`.

    The degrees of freedom are those of Satterthwaite (Biometrics Bulletin 2, 1946), for sites differ in n and SD.
    """
    mean = math.fsum(part.mean for part in parts) / len(parts)
    shares = [part.sd**2 / part.n / len(parts) ** 2 for part in parts]
    error = math.sqrt(math.fsum(shares))
    if any(part.n < 2 for part in parts) or error <= EXACT * abs(mean):
        return mean, None
    degrees = error**4 / math.fsum(share**2 / (part.n - 1) for share, part in zip(shares, parts, strict=True))
    return mean, _t_test(mean, error, degrees)


def _t_test(mean: float, error: float, degrees: float) -> PairedT:
    t = mean / error
    reach = float(special.stdtrit(degrees, (1 + LEVEL) / 2)) * error
    return PairedT(t, float(2 * special.stdtr(degrees, -abs(t))), mean - reach, mean + reach)


def signed_ranks(differences: ArrayLike) -> SignedRanks:
    """Returns Wilcoxon's test of one site, by `scipy.stats.wilcoxon` as it decides itself.

    That is exact up to 50 pairs without ties and zeros, by all changes of sign up to 13 pairs with some, and by the
    normal distribution else.
    """
    from scipy import stats  # half a second, and for those who compare alone

    numbers = np.asarray(differences, np.float64)
    kept = numbers[numbers != 0]
    if not kept.size:
        return SignedRanks(numbers.size, 0.0, 0.0, None)
    ranks: NDArray[np.float64] = stats.rankdata(np.abs(kept))
    p = float(stats.wilcoxon(numbers).pvalue)
    return SignedRanks(numbers.size, float(np.sum(np.sign(kept) * ranks)), float(np.sum(ranks**2)), p)


def stratified_wilcoxon(sites: Sequence[SignedRanks]) -> float | None:
    """Returns p of the signed ranks within each site, summed over sites; None where no pair differs.

    Differences are ranked among those of their own site, so no rank compares cases of two sites, and none leaves. A
    site's sum has the weight 1 / (n + 1), as van Elteren gives to a stratum (Bull. Inst. Int. Stat. 37, 1960: for two
    samples; his reason, that a sum of ranks grows with n, holds here too). By the normal distribution, without a
    correction for continuity: rough below some ten pairs in all. One site alone has its own p.
    """
    telling = [site for site in sites if site.squares > 0]
    if len(telling) < 2:
        return telling[0].p if telling else None
    total = math.fsum(site.ranks / (site.n + 1) for site in telling)
    variance = math.fsum(site.squares / (site.n + 1) ** 2 for site in telling)
    return float(2 * special.ndtr(-abs(total) / math.sqrt(variance)))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Returns each p corrected for how many there are (Holm, Scand. J. Stat. 6, 1979); None stays, and counts for none.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none becomes smaller than one before it, nor
    larger than 1.
    """
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, place) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[place] = largest
    return corrected
