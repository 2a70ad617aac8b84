"""Every signed time is good for one call, and a node speaks for itself alone."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from fastapi import HTTPException
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from hypothesis import given
from hypothesis import strategies as st

from server.fleet_guard import AHEAD, KEPT_S, SignedTimes, guarded

START = datetime(2027, 3, 1, 12, tzinfo=UTC)


def signed(seconds):
    return (START + timedelta(seconds=seconds)).isoformat()


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.integers(6, 20))))
def test_each_key_may_use_each_time_once(calls):
    times, seen = SignedTimes(START), set()
    for key, second in calls:
        assert times.take(key, signed(second)) == ((key, second) not in seen)
        seen.add((key, second))
    assert len(times) == len(seen)


def test_what_was_signed_before_this_process_may_have_been_used_before():
    times = SignedTimes(START)
    assert not times.take(b"a", signed(-1))
    assert not times.take(b"a", signed(AHEAD.total_seconds() - 0.001))
    assert times.take(b"a", signed(AHEAD.total_seconds()))


def test_used_times_are_forgotten_when_flower_would_refuse_them_anyway():
    now = [0.0]
    times = SignedTimes(START, lambda: now[0])
    assert times.take(b"a", signed(10))
    now[0] = KEPT_S
    assert not times.take(b"a", signed(10))
    now[0] = KEPT_S + 1
    assert times.take(b"a", signed(11))
    assert len(times) == 1


def request(message, key=b"key", at=None):
    headers = {"flwr-public-key": b64encode(key).decode(), "flwr-timestamp": at or signed(60)}
    state, url = SimpleNamespace(protobuf_request=message), SimpleNamespace(path="/v1/fleet/x")
    return SimpleNamespace(headers=headers, state=state, url=url)


@pytest.fixture
def check():
    return guarded(lambda _: None, SignedTimes(START))


def test_flowers_own_check_comes_first():
    def refuse(_):
        raise HTTPException(401)

    times = SignedTimes(START)
    with pytest.raises(HTTPException) as refused:
        guarded(refuse, times)(request(DeactivateNodeRequest(node_id=7)))
    assert (refused.value.status_code, len(times)) == (401, 0)


def test_a_call_that_comes_again_is_told_to_sign_anew(check, caplog):
    check(request(DeactivateNodeRequest(node_id=7)))
    other_text = request(DeactivateNodeRequest(node_id=7))
    other_text.headers["flwr-public-key"] = "a2V6"  # 'kez': another key
    check(other_text)
    with pytest.raises(HTTPException) as refused:
        check(request(PushMessagesRequest(node=Node(node_id=7))))
    assert refused.value.status_code == 503
    assert "refused: /v1/fleet/x of node 7: its signed time is used or too old" in caplog.text


def test_the_same_key_in_another_base64_text_is_the_same_key(check):
    """Base64 leaves the last bits of 'a2V' + 'x'..'5' open: one byte string has four texts."""
    first, second = request(DeactivateNodeRequest()), request(DeactivateNodeRequest())
    first.headers["flwr-public-key"], second.headers["flwr-public-key"] = "a2U=", "a2V="
    check(first)
    with pytest.raises(HTTPException):
        check(second)


def test_a_reply_in_another_nodes_name_is_refused(check, caplog):
    def push(*senders):
        messages = [Message(metadata=Metadata(src_node_id=sender)) for sender in senders]
        return request(PushMessagesRequest(node=Node(node_id=7), messages_list=messages), at=signed(60 + len(senders)))

    check(push(7))
    with pytest.raises(HTTPException) as refused:
        check(push(7, 8))
    assert refused.value.status_code == 403
    assert "a reply in the name of node 8" in caplog.text
