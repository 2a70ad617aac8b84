"""A call's body comes as one piece, and all else passes as it came."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.whole_bodies import WholeBodies

GONE = {"type": "http.disconnect"}


def request(body, more=False):
    return {"type": "http.request", "body": body, "more_body": more}


def told_to_app(comes, kind="http"):
    """What an application hears that asks until there is nothing more."""
    left, heard = list(comes), []

    async def receive():
        return left.pop(0)

    async def app(scope, receive, send):
        assert (scope["type"], send) == (kind, None)
        while left or not heard or heard[-1]["type"] == "http.request":
            heard.append(await receive())

    asyncio.run(WholeBodies(app)({"type": kind}, receive, None))
    return heard


@given(st.lists(st.binary(max_size=5), min_size=1))
def test_pieces_are_put_together_in_order_and_what_follows_passes(pieces):
    comes = [request(piece, more=True) for piece in pieces[:-1]] + [request(pieces[-1])]
    assert told_to_app([*comes, GONE]) == [request(b"".join(pieces)), GONE]


def test_a_piece_may_leave_out_what_it_need_not_say():
    """ASGI 3: a body is empty and the last piece unless it says otherwise."""
    assert told_to_app([request(b"a", more=True), {"type": "http.request"}, GONE]) == [request(b"a"), GONE]


def test_a_caller_who_goes_before_all_has_come_is_heard_to_go_and_half_a_body_is_not_used():
    assert told_to_app([request(b"half", more=True), GONE]) == [GONE]


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_what_is_no_call_passes(kind):
    comes = [{"type": f"{kind}.startup"}, {"type": f"{kind}.shutdown"}]
    assert told_to_app(comes, kind) == comes
