"""One model of many, part by part: the mean by cases, and the rules that a few bad sites cannot move far.

However many sites there are, and however large the model, memory holds the new model and some parts of the others.
The parts are added up in fp64 and in the order of the sites' names, so the order of arrival changes no bit.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from common.checkpoint import Weights
from common.layers import PART
from server.spool import Update

MOST = 1 << 22
"""Numbers of all sites together that are in memory at a time, at most; of each, no more than `PART`."""

Rows = NDArray[np.float32]
"""The same part of several sites' weights, a row a site."""
Reduce = Callable[[Rows, Sequence[int]], NDArray[np.float64]]
"""From rows and the sites' cases to one part of the new model."""


def combined(updates: Sequence[Update], sent: Weights, reduce: Reduce) -> Weights:
    """Returns `reduce` over all parts, in fp32 and in the shapes of `sent`.

    A layer that some sites keep to themselves is made of the others' alone; one that all keep stays as it was sent.
    """
    made = {name: np.array(array, np.float32, order="C") for name, array in sent.items()}  # so that it can be flattened
    for name, array in made.items():
        having = [update for update in updates if name in update.places]
        cases = [update.cases for update in having]
        flat = array.reshape(-1)
        for part in _parts(flat.size, len(having)):
            flat[part] = reduce(np.stack([update.part(name, part) for update in having]), cases)
    return made


def _parts(size: int, num_rows: int) -> list[slice]:
    if not num_rows:
        return []
    step = max(1, min(PART, MOST // num_rows))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def mean(rows: Rows, cases: Sequence[int]) -> NDArray[np.float64]:
    """Returns the mean weighted by cases (arXiv 1602.05629)."""
    total = np.zeros(rows.shape[1])
    for row, weight in zip(rows, cases, strict=True):
        total += weight * row.astype(np.float64)
    return total / sum(cases)


def median(rows: Rows, cases: Sequence[int]) -> NDArray[np.float64]:
    """Returns the median of every number; cases do not count (arXiv 1803.01498)."""
    return np.asarray(np.median(rows.astype(np.float64), axis=0))


def trimmed_mean(beta: float) -> Reduce:
    """Returns the mean without the share `beta` of the sites at either end, for every number (arXiv 1803.01498)."""

    def reduce(rows: Rows, cases: Sequence[int]) -> NDArray[np.float64]:
        cut = num_trimmed(beta, len(rows))
        return np.asarray(np.sort(rows, axis=0)[cut : len(rows) - cut].astype(np.float64).mean(axis=0))

    return reduce


def num_trimmed(beta: float, num_sites: int) -> int:
    """Returns how many sites are left out at either end."""
    return int(beta * num_sites)


def products(updates: Sequence[Update], sent: Weights) -> NDArray[np.float64]:
    """Returns the scalar products of all pairs of the sites' updates (their weights less what was sent).

    A layer that a site keeps to itself has not moved.
    """
    total = np.zeros((len(updates), len(updates)))
    for name, array in sent.items():
        flat = array.reshape(-1)
        for part in _parts(flat.size, len(updates)):
            moved = np.zeros((len(updates), part.stop - part.start))
            for index, update in enumerate(updates):
                if name in update.places:
                    np.subtract(update.part(name, part), flat[part], out=moved[index], dtype=np.float64)
            total += moved @ moved.T
    return total


def krum_order(gram: NDArray[np.float64], num_malicious: int) -> list[int]:
    """Returns the updates' indices, the most central first (arXiv 1703.02757).

    An update's score is the sum of its squared distances to the n - f - 2 others nearest to it, to one at least.
    """
    squares = np.diag(gram)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    num_closest = max(1, len(gram) - num_malicious - 2)
    scores = np.sort(distances, axis=1)[:, 1 : num_closest + 1].sum(axis=1)  # the first is its own, 0
    return [int(index) for index in np.argsort(scores, kind="stable")]
