"""Calls that are answered before Flower's layers: those that carry the parts of a model.

Flower 1.41 leads every call through seven layers, which start two tasks for each piece of a body of 5 MB, and cut the
answer up as often. Of these layers a part needs what is done here: its body whole, read as the message that it is, and
an error told as Flower tells it. Who calls is checked by the function that answers. Whether a caller has the same
version of Flower is not looked at here; every caller makes other calls too.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from fastapi import Request, Response
from flwr.supercore.error import http_error_translator
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES, ProtobufTranslationMiddleware
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PIECE_BYTES = 1 << 18
"""Of an answer, at one go."""
POST = "POST"

Answer = Callable[[Request, Any], Any]
"""Given a call and its message (protobuf), what answers it, in a thread of its own: by a message, or a `Response`.

It raises HTTPException and Flower's FlowerError."""
Body = Callable[[Request], bytes | None]
"""What finds a call's body elsewhere; None: it comes with the call."""


class DirectCalls:
    """An ASGI application that answers the POSTs of some paths itself, and passes all else on to `app`."""

    def __init__(self, app: ASGIApp, answers: Mapping[str, Answer], find_body: Body = lambda _call: None) -> None:
        """`answers`: by the path, of calls that Flower knows."""
        self._app, self._answers, self._find_body = app, answers, find_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers nobody who has gone before the body had come."""
        answer = self._answers.get(scope["path"]) if scope["type"] == "http" and scope["method"] == POST else None
        if answer is None:
            await self._app(scope, receive, send)
            return
        call = Request(scope, receive)
        try:
            body = await call.body()
        except ClientDisconnect:
            return
        response = await http_error_translator(call, partial(self._answered, answer, body))
        await response(scope, receive, in_pieces(send))

    async def _answered(self, answer: Answer, body: bytes, call: Request) -> Response:
        return await run_in_threadpool(self._answer, answer, body, call)

    def _answer(self, answer: Answer, body: bytes, call: Request) -> Response:
        ProtobufTranslationMiddleware._check_request_media_type(call)
        found = self._find_body(call)
        message = _read(call.url.path, body if found is None else found)
        call.state.protobuf_request = message  # where Flower's check of who calls looks for it
        try:
            answered = answer(call, message)
        finally:
            del call.state.protobuf_request  # the connection keeps its state until the next call
        if isinstance(answered, Response):
            return answered
        return Response(answered.SerializeToString(), media_type=PROTOBUF_MEDIA_TYPE)


def in_pieces(send: Send) -> Send:
    """Returns `send` for bodies of any size, which waits after each piece until the line has taken it.

    For uvicorn has done with a body once it has the last of it: five seconds later it closes the connection, and
    asyncio gives what has not left by then 30 s. Of 5 MB at once, a line of a Mbit/s would never get the end.
    """

    async def send_in_pieces(message: Message) -> None:
        body = memoryview(message.get("body", b""))
        if len(body) <= PIECE_BYTES:
            await send(message)
            return
        more = message.get("more_body", False)
        for start in range(0, len(body), PIECE_BYTES):
            piece, is_last = body[start : start + PIECE_BYTES], start + PIECE_BYTES >= len(body)
            await send({**message, "body": piece, "more_body": more or not is_last})

    return send_in_pieces


def _read(path: str, body: bytes) -> Any:
    return ProtobufTranslationMiddleware._parse_request(body, PROTOBUF_REQUEST_TYPES[POST, path])
