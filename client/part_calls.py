"""The calls that carry parts of a model (5 MB), made with little work of the processor.

httpx, which Flower calls with, reads a body from TLS in pieces of 16 kB and leads each through four layers. Python's
own HTTP client reads it in one go. It is asked as the last of Flower's interceptors, and gives what httpx would: its
responses, and its errors, by which Flower decides what is tried again. Where a proxy stands in between, all calls stay
with httpx.
"""

import http.client
import select
import ssl
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx
from flwr.supercore.protobuf.client import (
    ProtobufCall,
    ProtobufClient,
    ProtobufClientInterceptor,
    ProtobufRequestContext,
)

PATHS = ("/pull-object", "/push-object")
"""How the paths of these calls end."""
PIECE_BYTES = 1 << 16
"""What is written at one go, and has the timeout of a write for it."""
PORTS = {"http": 80, "https": 443}
KEPT_S = 4.0
"""A connection is used again within that time; Flower's node closes one after five seconds without a call."""


class PartCalls:
    """Makes these calls over connections that it keeps, as many as there are calls at a time; safe from threads."""

    def __init__(self, verify: ssl.SSLContext | bool | str) -> None:
        """`verify`: whose certificate is trusted, as httpx takes it."""
        self._verify = verify
        self._context: ssl.SSLContext | None = None
        self._idle: deque[tuple[float, http.client.HTTPConnection]] = deque()

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """As Flower's interceptors: makes the call, if it is one of these, and leaves any other to httpx.

        It follows no redirections: neither a gateway nor a node sends such.

        Raises:
            httpx.TransportError: there is no connection, it broke, or one of the request's timeouts has passed.
        """
        request = context.request
        if not request.url.path.endswith(PATHS) or _is_proxied(request.url):
            return call_next(context)
        connection = self._connection(request)
        try:
            response = _called(connection, request)
        except BaseException:
            connection.close()
            raise
        if connection.sock is not None:
            self._idle.append((time.monotonic(), connection))
        return response

    def _connection(self, request: httpx.Request) -> http.client.HTTPConnection:
        with suppress(IndexError):  # none is idle
            while True:
                left, connection = self._idle.pop()
                if time.monotonic() - left < KEPT_S and _is_quiet(connection):
                    return connection
                connection.close()
        url, timeout = request.url, request.extensions["timeout"]["connect"]
        host, port = url.host, url.port or PORTS[url.scheme]
        if url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=timeout)
        if self._context is None:
            self._context = httpx.create_ssl_context(self._verify)
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=self._context)

    def close(self) -> None:
        """Closes the connections that no call uses."""
        while self._idle:
            self._idle.pop()[1].close()


class PartClient(ProtobufClient):
    """Any of Flower's clients that makes these calls so."""

    def __init__(
        self, base_url: str, *, interceptors: Sequence[ProtobufClientInterceptor] = (),
        verify: ssl.SSLContext | bool | str = True, **options: Any,
    ) -> None:  # fmt: skip
        """As Flower's."""
        self._parts = PartCalls(verify)
        super().__init__(base_url, interceptors=(*interceptors, self._parts), verify=verify, **options)

    def close(self) -> None:
        """As Flower's."""
        super().close()
        self._parts.close()


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    """Whether nothing has come on a connection; what comes between two calls is that the other side has closed it."""
    waiting = select.poll()
    waiting.register(connection.sock, select.POLLIN)
    return not waiting.poll(0)


def _is_proxied(url: httpx.URL) -> bool:
    proxies = getproxies()
    return bool({url.scheme, "all"} & proxies.keys()) and not proxy_bypass(url.host)


def _called(connection: http.client.HTTPConnection, request: httpx.Request) -> httpx.Response:
    timeouts = request.extensions["timeout"]
    if connection.sock is None:
        with _as_httpx(httpx.ConnectError, httpx.ConnectTimeout):
            connection.connect()
    with _as_httpx(httpx.WriteError, httpx.WriteTimeout), _answered_early():
        connection.sock.settimeout(timeouts["write"])
        connection.putrequest(request.method, request.url.raw_path.decode(), skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        body = memoryview(request.content)
        for start in range(0, len(body), PIECE_BYTES):
            connection.send(body[start : start + PIECE_BYTES])
    with _as_httpx(httpx.ReadError, httpx.ReadTimeout):
        connection.sock.settimeout(timeouts["read"])
        with connection.getresponse() as answered:
            if answered.length is None and not answered.chunked:
                raise http.client.IncompleteRead(b"")  # broken off in its head, which Python takes for its end
            content = answered.read()
    return httpx.Response(answered.status, headers=answered.getheaders(), content=content, request=request)


@contextmanager
def _answered_early() -> Iterator[None]:
    """Who answers before it has the whole body, and closes, says why: that is read then."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError:
        return


@contextmanager
def _as_httpx(broken: type[httpx.TransportError], too_slow: type[httpx.TransportError]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:  # of TLS, it names that: Flower would take it for a certificate that does not fit
        raise too_slow("timed out") from error
    except http.client.HTTPException as error:
        raise httpx.RemoteProtocolError(str(error) or type(error).__name__) from error
    except OSError as error:
        raise broken(str(error)) from error
