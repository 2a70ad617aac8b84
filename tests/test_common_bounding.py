"""The box of a mask, by hand and by a search over all voxels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.bounding import bounding_box


def test_two_voxels_and_what_lies_between_them() -> None:
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 4, 0] = mask[3, 2, 5] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 5), slice(0, 6))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_an_empty_mask_has_an_empty_box(dtype: type) -> None:
    mask = np.zeros((3, 4, 5), dtype)
    assert mask[bounding_box(mask)].size == 0


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=4))
def test_no_smaller_box_holds_the_mask(voxels: list[tuple[int, int, int]]) -> None:
    mask = np.zeros((5, 6, 7), np.uint8)
    mask[tuple(np.array(voxels).T)] = 1
    low, high = np.argwhere(mask).min(axis=0), np.argwhere(mask).max(axis=0)
    assert [(part.start, part.stop - 1) for part in bounding_box(mask)] == list(zip(low, high, strict=True))
