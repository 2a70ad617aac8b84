"""A node's pauses between two looks: short after something has happened, at last as long as Flower's."""

import time

import pytest

from client.node_pauses import Pauses


def test_it_stands_for_the_clock_s_module(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pauses = Pauses(lambda: 20.0)
    pauses.sleep(3)
    pauses.sleep(0.5)
    assert slept == [1.0, 0.5]
    assert pauses.monotonic is time.monotonic
