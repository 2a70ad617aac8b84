"""Parts of a message on their way: how many at a time, what waits, and what one that fails does to the others."""

import threading

import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectUnavailableError
from hypothesis import given
from hypothesis import strategies as st

from client import transfers
from client.transfers import AT_ONCE, downloaded, upload

NAMES = [str(number) for number in range(3 * AT_ONCE)]


@pytest.fixture
def at_once(monkeypatch):
    """Nobody waits."""
    monkeypatch.setattr(transfers, "LOOK_S", 0.0)
    monkeypatch.setattr(transfers, "LOOK_MAX_S", 0.0)


@given(st.lists(st.text(), unique=True))
def test_every_part_is_had_and_sent_once(names):
    sent = []
    assert downloaded(names, str.encode) == {name: name.encode() for name in names}
    upload(names, sent.append)
    assert sorted(sent) == sorted(names)


@pytest.mark.parametrize("transfer", [downloaded, upload])
def test_four_parts_are_under_way_at_a_time(transfer):
    """None of the first four ends before all four have begun."""
    four, begun = threading.Barrier(AT_ONCE, timeout=30.0), []

    def carry(name):
        begun.append(name)
        if len(begun) <= AT_ONCE:
            four.wait()
        return b""

    transfer(NAMES, carry)
    assert sorted(begun) == sorted(NAMES)


def test_a_part_that_is_not_there_yet_is_asked_for_again(at_once):
    asked = []

    def pull(name):
        asked.append(name)
        if asked.count(name) < 4:
            raise ObjectUnavailableError(name)
        return b"here"

    assert downloaded(["a"], pull) == {"a": b"here"}
    assert asked == ["a"] * 4


def test_a_part_that_does_not_come_is_given_up(at_once, monkeypatch):
    monkeypatch.setattr(transfers, "AVAILABLE_S", 0.0)

    def pull(name):
        raise ObjectUnavailableError(name)

    with pytest.raises(ObjectPullError, match="'a': it did not come"):
        downloaded(["a"], pull)


@pytest.mark.parametrize("transfer", [downloaded, upload])
def test_after_a_failure_no_further_part_is_begun(transfer, monkeypatch):
    monkeypatch.setattr(transfers, "AT_ONCE", 1)
    begun = []

    def carry(name):
        begun.append(name)
        if name == NAMES[1]:
            raise RuntimeError("broken")
        return b""

    with pytest.raises(RuntimeError, match="broken"):
        transfer(NAMES, carry)
    assert begun == NAMES[:2]


def test_a_part_is_no_longer_waited_for_once_another_has_failed(monkeypatch):
    monkeypatch.setattr(transfers, "LOOK_S", 600.0)
    monkeypatch.setattr(transfers, "LOOK_MAX_S", 600.0)
    waits = threading.Event()

    def pull(name):
        if name == "waits":
            waits.set()
            raise ObjectUnavailableError(name)
        waits.wait(30.0)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        downloaded(["waits", "breaks"], pull)
