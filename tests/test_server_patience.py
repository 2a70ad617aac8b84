"""Deadlines of a round, by hand."""

import math

import pytest
from scripted import Clock

from common.experiment import RoundConfig
from server.patience import Patience


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    return Clock(monkeypatch)


def waits_s(clock, earlier_s=(), enough_after_s=None, hopeless=False, **config):
    """How long after the round's start its deadline is."""
    clock.now = 1000.0
    patience = Patience(RoundConfig(**config), earlier_s)
    if enough_after_s is not None:
        clock.now += enough_after_s
        patience.note(True, False)
    if hopeless:
        patience.note(False, True)
    return patience.deadline - 1000.0


def test_without_enough_replies_it_is_the_longest_that_a_round_may_take(clock):
    assert waits_s(clock, [10.0], timeout_s=600) == 600


def test_with_the_quorum_in_it_is_by_how_long_rounds_took(clock):
    assert waits_s(clock, [100.0, 300.0, 200.0], enough_after_s=50) == 600  # 3 x the median
    assert waits_s(clock, [100.0, 300.0, 200.0], enough_after_s=50, patience=1.5) == 300


def test_only_the_last_five_rounds_count(clock):
    assert waits_s(clock, [9000.0] * 9 + [100.0] * 5, enough_after_s=1) == 300


def test_the_first_round_goes_by_the_time_that_the_quorum_took(clock):
    assert waits_s(clock, enough_after_s=100) == 300


def test_the_others_have_some_time_however_quick_rounds_are(clock):
    assert waits_s(clock, [1.0], enough_after_s=1) == 61
    assert waits_s(clock, [1.0], enough_after_s=1, grace_s=5) == 6
    assert waits_s(clock, [1.0], enough_after_s=1, grace_s=0) == 3


def test_no_round_is_longer_than_its_timeout(clock):
    assert waits_s(clock, [900.0], enough_after_s=1, timeout_s=1000) == 1000


def test_where_the_quorum_itself_is_late_the_others_still_have_some_time(clock):
    """A slow network slows all: who is a second behind the quorum is no straggler."""
    assert waits_s(clock, [10.0], enough_after_s=500) == 560


def test_what_can_no_longer_be_enough_is_not_waited_for(clock):
    assert waits_s(clock, hopeless=True) == -math.inf
    assert waits_s(clock, [10.0], enough_after_s=5, hopeless=True) == -math.inf


def test_when_the_quorum_came_first_counts(clock):
    clock.now = 0.0
    patience = Patience(RoundConfig(), ())
    clock.now = 100.0
    patience.note(True, False)
    clock.now = 200.0
    patience.note(True, False)
    assert patience.deadline == 300.0
