"""What a call leaves in a cycle of references goes after so many bytes, and not after so many objects."""

import asyncio
import gc
import weakref

import pytest

from server import collected_bodies
from server.collected_bodies import CollectedBodies

LIMIT_BYTES = 100


class Left:
    """An object that refers to itself."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def layer(monkeypatch):
    """A function that makes a call of so many bytes in and out, and returns how many of all calls' objects are left."""
    monkeypatch.setattr(collected_bodies, "COLLECT_BYTES", LIMIT_BYTES)
    left = []

    async def app(_, receive, send):
        left.append(weakref.ref(Left()))
        told = await receive()
        await send({"type": "http.response.start"})
        await send({"type": "http.response.body", "body": told["body"][: told["answered"]]})

    collected = CollectedBodies(app)

    def call(num_in, num_out=0):
        sent = []

        async def receive():
            return {"type": "http.request", "body": bytes(num_in), "answered": num_out}

        async def send(told):
            sent.append(told)

        asyncio.run(collected({"type": "http"}, receive, send))
        assert [len(told.get("body", b"")) for told in sent] == [0, num_out]
        return sum(each() is not None for each in left)

    gc.disable()
    try:
        yield call
    finally:
        gc.enable()


def test_bodies_and_answers_count_and_the_count_begins_anew(layer):
    assert layer(40) == 1
    assert layer(40, 19) == 2
    assert layer(1) == 0
    assert layer(99) == 1
    assert layer(1) == 0


def test_what_was_there_before_the_start_is_not_gone_through(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))

    async def app(scope, *_):
        assert (scope["type"], frozen) == ("lifespan", [True])

    asyncio.run(CollectedBodies(app)({"type": "lifespan"}, None, None))
