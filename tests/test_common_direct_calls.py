"""Calls before Flower's layers: their body whole, errors in Flower's words, and everything else left to Flower."""

import asyncio
import socket
import ssl
import threading
import time

import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.supercore.error import ApiErrorCode, FlowerError

from common.direct_calls import PIECE_BYTES, DirectCalls
from server.provision import make_certificates

PATH = "/v1/fleet/pull-object"
ASKED = PullObjectRequest(object_id="name")
PROTOBUF = (b"content-type", b"application/protobuf")


def called(answer, *pieces, path=PATH, method="POST", kind="http", gone=False, **options):
    """What is sent for a call whose body comes in pieces, and whether the application behind was asked."""
    sent, passed = [], []
    told = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    told.append({"type": "http.disconnect"} if gone else {"type": "http.request"})

    async def behind(scope, receive, send):
        passed.append((scope["path"], await receive()))

    async def receive():
        return told.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "method": method, "path": path, "headers": [PROTOBUF], "query_string": b"", "app": FastAPI()}
    asyncio.run(DirectCalls(behind, {PATH: answer}, **options)(scope, receive, send))
    return sent, passed


def body(sent):
    return b"".join(each.get("body", b"") for each in sent)


def found(_call, asked):
    return PullObjectResponse(object_found=True, object_content=asked.object_id.encode())


@pytest.mark.parametrize("cuts", [(), (1,), (1, 2, 3)])
def test_a_body_is_read_whole_and_the_answer_is_written_as_protobuf(cuts):
    whole = ASKED.SerializeToString()
    ends = (*cuts, len(whole))
    sent, passed = called(found, *(whole[start:end] for start, end in zip((0, *cuts), ends, strict=True)))
    assert PullObjectResponse.FromString(body(sent)) == found(None, ASKED)
    assert (sent[0]["status"], passed) == (200, [])
    assert PROTOBUF in sent[0]["headers"]


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 5_000_000])
def test_an_answer_is_sent_in_pieces(size):
    sent, _ = called(lambda *_: Response(b"a" * size), ASKED.SerializeToString())
    assert body(sent) == b"a" * size
    pieces = [each for each in sent if each["type"] == "http.response.body"]
    assert max(len(each["body"]) for each in pieces) <= PIECE_BYTES
    assert [bool(each.get("more_body")) for each in pieces] == [True] * (len(pieces) - 1) + [False]


def test_who_takes_an_answer_slowly_gets_all_of_it(tmp_path, monkeypatch):
    """uvicorn closes a connection that it has nothing more for, and asyncio gives TLS a while for what has not left."""
    files = make_certificates(tmp_path, ["localhost"])
    monkeypatch.setattr("asyncio.constants.SSL_SHUTDOWN_TIMEOUT", 0.5)
    size = 30_000_000  # more than the system's buffers
    app = DirectCalls(FastAPI(), {PATH: lambda *_: Response(b"a" * size + b"z")})
    config = uvicorn.Config(
        app, port=0, loop="asyncio", ws="none", lifespan="off", timeout_keep_alive=1, log_level="error",
        ssl_certfile=files.certificate, ssl_keyfile=files.key,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        context = ssl.create_default_context(cafile=files.authority)
        with context.wrap_socket(socket.create_connection(("localhost", port)), server_hostname="localhost") as line:
            head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/protobuf\r\n"
            asked = ASKED.SerializeToString()
            line.sendall(f"{head}content-length: {len(asked)}\r\n\r\n".encode() + asked)
            came = bytearray(line.recv(1 << 16))
            time.sleep(3.0)  # twice as long as both give it
            while not came.endswith(b"z") and (more := line.recv(1 << 20)):
                came += more
    finally:
        server.should_exit = True
        thread.join()
    assert bytes(came).partition(b"\r\n\r\n")[2] == b"a" * size + b"z"


def test_a_body_that_lies_elsewhere_stands_for_the_one_that_came():
    sent, _ = called(found, b"", find_body=lambda call: ASKED.SerializeToString() if call.url.path == PATH else None)
    assert PullObjectResponse.FromString(body(sent)) == found(None, ASKED)


@pytest.mark.parametrize("other", [{"path": "/v1/fleet/push-object"}, {"method": "GET"}, {"kind": "websocket"}])
def test_all_else_is_left_to_the_application_behind(other):
    sent, passed = called(found, b"as it came", **other)
    assert sent == []
    assert passed == [(other.get("path", PATH), {"type": "http.request", "body": b"as it came", "more_body": True})]


def test_nobody_is_answered_who_has_gone():
    assert called(lambda *_: pytest.fail("was asked"), b"half", gone=True) == ([], [])


def raised(error):
    def answer(_call, _asked):
        raise error

    sent, passed = called(answer, ASKED.SerializeToString())
    assert passed == []
    return sent[0]["status"], body(sent)


def test_errors_are_told_as_flower_tells_them_and_no_text_of_others_leaves():
    assert raised(HTTPException(401, "who?")) == (401, b'{"detail":"who?"}')
    status, told = raised(FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, "inner words", public_details="outer"))
    assert status >= 400
    assert b"outer" in told
    assert b"inner words" not in told
    status, told = raised(OSError("/data/secret is full"))
    assert status == 500
    assert b"secret" not in told
