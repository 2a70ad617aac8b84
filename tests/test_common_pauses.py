"""Pauses between two looks: short after something has happened, at last as long as allowed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.pauses import pause_s


@pytest.mark.parametrize(
    ("longest_s", "quiet_s", "expected_s"),
    [(3.0, 0.0, 0.3), (3.0, 6.0, 0.3), (3.0, 20.0, 1.0), (3.0, 60.0, 3.0), (3.0, 9e9, 3.0), (0.5, 0.0, 0.05)],
)
def test_a_pause_is_a_twentieth_of_the_quiet_before_it(longest_s: float, quiet_s: float, expected_s: float) -> None:
    assert pause_s(longest_s, quiet_s) == pytest.approx(expected_s)


@given(st.floats(0.01, 10), st.floats(0, 1e6), st.floats(0, 1e6))
def test_pauses_grow_with_the_quiet_up_to_the_longest(longest_s: float, one_s: float, other_s: float) -> None:
    less, more = sorted((one_s, other_s))
    assert 0.1 * longest_s <= pause_s(longest_s, less) <= pause_s(longest_s, more) <= longest_s
