"""A node's pauses between two looks: short after something has happened, at last as long as Flower's."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.node_pauses import Pauses, pause_s


@pytest.mark.parametrize(
    ("flower_s", "quiet_s", "expected_s"),
    [(3.0, 0.0, 0.3), (3.0, 6.0, 0.3), (3.0, 20.0, 1.0), (3.0, 60.0, 3.0), (3.0, 9e9, 3.0), (0.5, 0.0, 0.05)],
)
def test_a_pause_is_a_twentieth_of_the_quiet_before_it(flower_s: float, quiet_s: float, expected_s: float) -> None:
    assert pause_s(flower_s, quiet_s) == pytest.approx(expected_s)


@given(st.floats(0.01, 10), st.floats(0, 1e6), st.floats(0, 1e6))
def test_pauses_grow_with_the_quiet_and_stay_within_flower_s(flower_s: float, one_s: float, other_s: float) -> None:
    less, more = sorted((one_s, other_s))
    assert 0.1 * flower_s <= pause_s(flower_s, less) <= pause_s(flower_s, more) <= flower_s


def test_it_stands_for_the_clock_s_module(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pauses = Pauses(lambda: 20.0)
    pauses.sleep(3)
    pauses.sleep(0.5)
    assert slept == [1.0, 0.5]
    assert pauses.monotonic is time.monotonic
