"""The largest piece against SciPy's labels."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from common.pieces import largest_component


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 0.6))
@settings(deadline=None, max_examples=40)
def test_largest_component_agrees_with_scipy(seed, density):
    mask = np.random.default_rng(seed).uniform(size=(5, 8, 9)) < density
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = structure[:, 1, 1] = True
    labels, count = ndimage.label(mask, structure)
    result = largest_component(mask).astype(bool)
    if not count:
        assert not result.any()
        return
    assert np.count_nonzero(result) == np.bincount(labels.ravel())[1:].max()
    assert len(np.unique(labels[result])) == 1
