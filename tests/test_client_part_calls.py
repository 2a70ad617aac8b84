"""Calls that carry parts, made over real sockets: what arrives, what is read and what goes wrong is as with httpx."""

import gzip
import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest, PushObjectResponse
from flwr.proto.runtime_pb2 import GetNodesRequest, GetNodesResponse
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supercore.retry.http_retry import _RETRYABLE_TRANSPORT_ERRORS
from flwr.supercore.runtime import RuntimeHttpClient

from client import part_calls
from client.part_calls import PartCalls
from client.task_input import TaskClient
from common.processes import free_port
from server.provision import Certificates, make_certificates

PART = bytes(range(256)) * 20_000  # 5 MB
PULL, PUSH = "/v1/runtime/pull-object", "/v1/runtime/push-object"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@dataclass
class Call:
    """What came: the first line, the headers in their order, the body; and the port of the caller's connection."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    port: int


class Handler(BaseHTTPRequestHandler):
    """Notes every call; answers a pull by `PART`, a push by "stored", all else by nothing."""

    protocol_version, timeout = "HTTP/1.1", 5  # so that a connection nobody closes holds up no test

    def do_POST(self) -> None:
        self.note(self.rfile.read(int(self.headers["content-length"])))
        answer = {PULL: PullObjectResponse(object_found=True, object_available=True, object_content=PART)}
        self.answer(answer.get(self.path, PushObjectResponse(stored=self.path == PUSH)).SerializeToString())

    def note(self, body: bytes) -> None:
        headers = [(name.lower(), value) for name, value in self.headers.items()]
        self.server.calls.append(Call(self.requestline, headers, body, self.client_address[1]))  # type: ignore[attr-defined]

    def answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False
    calls: list[Call]

    def handle_error(self, *_: Any) -> None:
        """A caller who has gone is no fault."""


@contextmanager
def serving(handler: type[Handler], certificates: Certificates | None = None) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), handler) as server:
        server.calls = []
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates.certificate, certificates.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def using(kind: type[RuntimeHttpClient], url: str, **options: Any) -> Iterator[RuntimeHttpClient]:
    with kind(url, **options) as client:
        try:
            yield client
        finally:
            for each in client._interceptors:
                close(each)  # type: ignore[arg-type]


def close(calls: PartCalls) -> None:
    for _, connection in calls._idle:
        connection.close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("pki"), ["localhost"])


@pytest.fixture(params=["http", "https"])
def place(request: pytest.FixtureRequest, certificates: Certificates) -> Callable[[type[Handler]], Any]:
    """A function that starts a server, without TLS or with it; gives the server, its address and a client's options."""

    @contextmanager
    def start(handler: type[Handler] = Handler) -> Iterator[tuple[Server, str, dict[str, Any]]]:
        with_tls = request.param == "https"
        with serving(handler, certificates if with_tls else None) as server:
            trust = ssl.create_default_context(cafile=str(certificates.authority)) if with_tls else True
            yield server, f"{request.param}://localhost:{server.server_port}", {"verify": trust, "timeout": 10.0}

    return start


@pytest.fixture
def plain() -> Iterator[tuple[Server, str]]:
    with serving(Handler) as server:
        yield server, f"http://127.0.0.1:{server.server_port}"


def pull(client: RuntimeHttpClient, name: str = "name") -> bytes:
    return client.PullObject(PullObjectRequest(object_id=name)).object_content


def push(client: RuntimeHttpClient, content: bytes = PART) -> bool:
    return client.PushObject(PushObjectRequest(object_id="name", object_content=content, session_id="s")).stored


def error(kind: type[RuntimeHttpClient], url: str, call: Callable[[RuntimeHttpClient], Any], **options: Any) -> Any:
    """What a call ends with."""
    with using(kind, url, **options) as client, pytest.raises((httpx.HTTPError, ValueError)) as raised:
        call(client)
    return raised.value


def idle(client: RuntimeHttpClient) -> list[Any]:
    return [connection for _, connection in client._interceptors[-1]._idle]  # type: ignore[attr-defined]


@pytest.mark.parametrize("call", [pull, push])
def test_what_arrives_and_what_is_read_is_the_same_as_with_flower_s_own_client(place: Any, call: Any) -> None:
    with place() as (server, url, options):
        answers = []
        for kind in (RuntimeHttpClient, TaskClient):
            with using(kind, url, **options) as client:
                answers.append(call(client))
        theirs, ours = server.calls
        assert (ours.line, ours.headers, ours.body) == (theirs.line, theirs.headers, theirs.body)
        assert answers == [PART if call is pull else True] * 2
        named = dict(ours.headers)
        assert (named["host"], named["content-length"]) == (url.split("//")[1], str(len(ours.body)))
        assert named["content-type"] == named["accept"] == "application/protobuf"


def test_such_a_call_is_not_made_by_httpx_and_any_other_is(plain: tuple[Server, str]) -> None:
    server, url = plain
    left: list[str] = []

    def call_next(context: ProtobufRequestContext) -> httpx.Response:
        left.append(context.request.url.path)
        return httpx.Response(200, request=context.request)

    with closing_calls() as calls, httpx.Client() as client:
        for path in (PULL, PUSH, "/v1/runtime/get-nodes", PULL + "/more"):
            request = client.build_request("POST", url + path, content=b"")
            assert calls.intercept(ProtobufRequestContext("", PullObjectRequest(), request), call_next).is_success
    assert [call.line.split()[1] for call in server.calls] == [PULL, PUSH]
    assert left == ["/v1/runtime/get-nodes", PULL + "/more"]


@contextmanager
def closing_calls() -> Iterator[PartCalls]:
    calls = PartCalls(True)
    try:
        yield calls
    finally:
        close(calls)


def test_other_calls_come_back_from_the_same_client(plain: tuple[Server, str]) -> None:
    server, url = plain
    with using(TaskClient, url) as client:
        assert client.GetNodes(GetNodesRequest()) == GetNodesResponse()
        assert idle(client) == []
    assert [call.line for call in server.calls] == ["POST /v1/runtime/get-nodes HTTP/1.1"]


def test_an_answer_that_was_packed_or_comes_in_chunks_is_read(plain: tuple[Server, str]) -> None:
    whole = PullObjectResponse(object_found=True, object_content=PART).SerializeToString()

    class Packing(Handler):
        def do_POST(self) -> None:
            self.note(self.rfile.read(int(self.headers["content-length"])))
            packed = gzip.compress(whole, 1)
            self.send_response(200)
            self.send_header("content-encoding", "gzip")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in (packed[:1000], packed[1000:], b""):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    with serving(Packing) as server, using(TaskClient, f"http://127.0.0.1:{server.server_port}") as client:
        assert [pull(client), pull(client)] == [PART, PART]
        assert server.calls[0].port == server.calls[1].port


def test_one_connection_carries_calls_in_sequence(place: Any) -> None:
    with place() as (server, url, options), using(TaskClient, url, **options) as client:
        for _ in range(3):
            assert pull(client) == PART
            assert push(client)
        assert len({call.port for call in server.calls}) == 1
        assert len(server.calls) == 6


def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used(place: Any) -> None:
    class Leaving(Handler):
        def do_POST(self) -> None:
            super().do_POST()
            self.close_connection = True  # and does not say so

    with place(Leaving) as (server, url, options), using(TaskClient, url, **options) as client:
        for _ in range(3):
            assert push(client, b"small")
            (connection,) = idle(client)
            assert select.select([connection.sock], [], [], 10)[0]  # the end has come
        assert len({call.port for call in server.calls}) == 3


def test_a_connection_that_was_idle_for_long_is_not_used(
    plain: tuple[Server, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, url = plain
    now = [100.0]
    monkeypatch.setattr(part_calls.time, "monotonic", lambda: now[0])
    with using(TaskClient, url) as client:
        for later in (0.0, part_calls.KEPT_S - 0.01, part_calls.KEPT_S):
            now[0] += later
            assert push(client, b"small")
        ports = [call.port for call in server.calls]
        assert ports[0] == ports[1] != ports[2]
        assert len(idle(client)) == 1


def test_a_connection_that_the_server_says_it_closes_is_not_kept(plain: tuple[Server, str]) -> None:
    class Saying(Handler):
        def answer(self, content: bytes, status: int = 200, **headers: str) -> None:
            super().answer(content, status, connection="close")

    with serving(Saying) as server, using(TaskClient, f"http://127.0.0.1:{server.server_port}") as client:
        assert push(client, b"small")
        assert idle(client) == []
        assert push(client, b"small")


def test_threads_that_call_at_a_time_each_get_their_own_answer(place: Any) -> None:
    num_threads = 6
    together = threading.Barrier(num_threads, timeout=20)

    class Echo(Handler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.note(body)
            together.wait()  # until all are here
            name = PullObjectRequest.FromString(body).object_id
            self.answer(PullObjectResponse(object_content=name.encode() * 100_000).SerializeToString())

    with place(Echo) as (server, url, options), using(TaskClient, url, **options) as client:
        for turn in range(3):
            names = [f"{turn}-{number}" for number in range(num_threads)]
            with ThreadPoolExecutor(num_threads) as pool:
                answers = list(pool.map(lambda name: pull(client, name), names))
            assert answers == [name.encode() * 100_000 for name in names]
        assert len(server.calls) == 3 * num_threads
        assert len({call.port for call in server.calls}) == len(idle(client)) == num_threads


def closes(handler: Handler) -> None:
    """Nothing is answered."""


def resets(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def breaks_off_in_the_body(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun")


def breaks_off_in_a_chunk(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3e8\r\nbegun")


def breaks_off_between_chunks(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n")


def breaks_off_in_the_head(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-le")


def breaks_off_in_the_first_line(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 20")


def speaks_no_http(handler: Handler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


@pytest.mark.parametrize(
    "fault",
    [
        closes, resets, breaks_off_in_the_body, breaks_off_in_a_chunk, breaks_off_between_chunks,
        breaks_off_in_the_head,
        breaks_off_in_the_first_line, speaks_no_http,
    ],
)  # fmt: skip
def test_a_broken_answer_ends_in_the_error_that_httpx_has_for_it(fault: Callable[[Handler], None]) -> None:
    class Broken(Handler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            fault(self)
            self.close_connection = True

    with serving(Broken) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        theirs, ours = (type(error(kind, url, pull, timeout=10.0)) for kind in (RuntimeHttpClient, TaskClient))
    assert ours is theirs
    assert ours in _RETRYABLE_TRANSPORT_ERRORS


def test_where_nobody_listens_there_is_no_connection() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert [type(error(kind, url, pull)) for kind in (RuntimeHttpClient, TaskClient)] == [httpx.ConnectError] * 2


@pytest.mark.parametrize(
    ("scheme", "call", "expected"),
    [
        ("http", pull, httpx.ReadTimeout),
        ("http", lambda client: push(client, PART * 4), httpx.WriteTimeout),
        ("https", pull, httpx.ConnectTimeout),
    ],
)
def test_who_does_not_answer_in_time_is_told_by_httpx_s_timeouts(scheme: str, call: Any, expected: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        raised = [type(error(kind, url, call, timeout=0.2)) for kind in (RuntimeHttpClient, TaskClient)]
    assert raised == [expected] * 2
    assert expected in _RETRYABLE_TRANSPORT_ERRORS


def test_an_untrusted_certificate_is_named(certificates: Certificates, tmp_path: Path) -> None:
    other = make_certificates(tmp_path / "other", ["localhost"])
    trust = ssl.create_default_context(cafile=str(other.authority))
    with serving(Handler, certificates) as server:
        url = f"https://localhost:{server.server_port}"
        theirs, ours = (error(kind, url, pull, verify=trust) for kind in (RuntimeHttpClient, TaskClient))
        assert server.calls == []
    assert type(ours) is type(theirs) is httpx.ConnectError
    assert str(ours) == str(theirs)
    assert "certificate verify failed" in str(ours)


@pytest.mark.parametrize("status", [307, 401, 403, 413, 500, 503])
def test_a_refusal_is_told_by_its_status_and_what_was_said(plain: tuple[Server, str], status: int) -> None:
    class Refusing(Handler):
        def answer(self, content: bytes, _status: int = 200, **headers: str) -> None:
            super().answer(b'{"code": 7, "detail": "why"}', status, content_type="application/json")

    with serving(Refusing) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        theirs, ours = (error(kind, url, pull) for kind in (RuntimeHttpClient, TaskClient))
    assert type(ours) is type(theirs) is httpx.HTTPStatusError
    assert ours.response.status_code == status
    assert str(ours) == str(theirs)
    assert ours.response.text == theirs.response.text == '{"code": 7, "detail": "why"}'
    assert ours.response.headers.keys() == theirs.response.headers.keys()


@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize(
    "place",
    ["http", "https"],
    indirect=True,
)
def test_who_refuses_a_body_before_it_has_come_is_heard(place: Any, says_so: bool) -> None:
    class Refusing(Handler):
        def do_POST(self) -> None:
            self.note(b"")
            self.answer(b"", 413, **({"connection": "close"} if says_so else {}))
            self.close_connection = True

    with place(Refusing) as (server, url, options):
        for kind in (RuntimeHttpClient, TaskClient):
            refused = error(kind, url, lambda client: push(client, PART * 4), **options)
            assert type(refused) is httpx.HTTPStatusError, kind
            assert refused.response.status_code == 413
        assert len(server.calls) == 2


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_where_a_proxy_stands_between_the_call_goes_through_it(
    plain: tuple[Server, str], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    server, url = plain
    with serving(Handler) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("no_proxy", "")
        with using(TaskClient, url) as client:
            push(client)
        assert [call.line for call in proxy.calls] == [f"POST {url}{PUSH} HTTP/1.1"]
    assert server.calls == []


@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
@pytest.mark.parametrize("excepted", ["127.0.0.1", "example.org,127.0.0.1", "*"])
def test_a_host_that_is_excepted_is_called_without_the_proxy(
    plain: tuple[Server, str], monkeypatch: pytest.MonkeyPatch, variable: str, excepted: str
) -> None:
    server, url = plain
    with serving(Handler) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv(variable, excepted)
        with using(TaskClient, url) as client:
            assert push(client)
            assert len(idle(client)) == 1
        assert proxy.calls == []
    assert [call.line for call in server.calls] == [f"POST {PUSH} HTTP/1.1"]


def test_a_redirection_is_not_followed(plain: tuple[Server, str]) -> None:
    server, url = plain

    class Elsewhere(Handler):
        def answer(self, content: bytes, _status: int = 200, **headers: str) -> None:
            super().answer(b"", 307, location=url + PULL)

    with serving(Elsewhere) as first:
        refused = error(TaskClient, f"http://127.0.0.1:{first.server_port}", pull)
    assert type(refused) is httpx.HTTPStatusError
    assert "307" in str(refused)
    assert server.calls == []


@pytest.mark.parametrize("host", ["::1", "2001:db8::abcd"])
def test_an_address_of_ipv6_with_the_scheme_s_own_port_is_called(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    asked: list[tuple[str, int]] = []

    def connect(address: tuple[str, int], *_: Any) -> socket.socket:
        asked.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert type(error(TaskClient, f"http://[{host}]:80", pull)) is httpx.ConnectError
    assert asked == [(host, 80)]


def test_a_process_with_many_files_open_uses_its_connections_again(plain: tuple[Server, str]) -> None:
    server, url = plain
    with ExitStack() as stack, using(TaskClient, url) as client:
        while (number := os.open(os.devnull, os.O_RDONLY)) < 1024:  # what select() can watch
            stack.callback(os.close, number)
        os.close(number)
        stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        assert push(client, b"small")
        (connection,) = idle(client)
        stack.callback(connection.close)
        assert push(client, b"small")
    assert server.calls[0].port == server.calls[1].port


def test_a_client_that_is_closed_closes_its_connections(plain: tuple[Server, str]) -> None:
    _, url = plain
    with using(TaskClient, url) as client:
        assert push(client, b"small")
        (connection,) = idle(client)
        client.close()
        left_open = connection.sock is not None
    assert not left_open
