"""Components of random scores against SciPy's labels, and the one that holds the maximum."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common.components import Component, component_of_maximum, largest_component


def expected(labels, label):
    where = np.argwhere(labels == label)
    return Component(
        tuple(where.mean(axis=0)), tuple(map(int, where.min(axis=0))), tuple(map(int, where.max(axis=0) + 1))
    )


def same(found, wanted):
    assert (found.low, found.high) == (wanted.low, wanted.high)
    np.testing.assert_allclose(found.centroid, wanted.centroid, rtol=0, atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95), st.tuples(*[st.integers(1, 7)] * 3))
@settings(deadline=None, max_examples=150)
def test_the_largest_and_the_maximums_are_scipys(seed, share, shape):
    scores = np.random.default_rng(seed).uniform(size=shape).astype(np.float32)
    threshold = float(np.quantile(scores, share))
    labels, count = ndimage.label(scores >= threshold)
    assert count
    same(largest_component(scores, threshold), expected(labels, 1 + np.argmax(np.bincount(labels.ravel())[1:])))
    halves, _ = ndimage.label(scores >= scores.max() / 2)
    same(component_of_maximum(scores), expected(halves, halves[np.unravel_index(scores.argmax(), shape)]))


def test_the_end_of_a_slice_does_not_touch_the_begin_of_the_next():
    scores = np.zeros((2, 3, 4), np.float32)
    scores[0, 2, 3] = scores[1, 0, 0] = 1
    assert largest_component(scores, 0.5) == Component((0.0, 2.0, 3.0), (0, 2, 3), (1, 3, 4))


def test_nothing_at_the_threshold_is_none():
    assert largest_component(np.zeros((2, 3, 4), np.float32), 0.5) is None
