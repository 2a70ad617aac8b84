"""Attacks on a running federation of two sites behind the gateway: none is accepted, all are on record, none stops it.

`docs/security.md` sums up what they show. `make test-all` runs them, as does
`pytest -m slow tests/federation/test_attacks.py`.
"""

import json
import shutil
import socket
import ssl
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    Message,
    Metadata,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.contact import contact
from client.keys import key_files, make_key
from client.node import SiteNode
from common.enrolment import read_join_request
from common.errors import SiteError, WorkError
from common.experiment import Experiment
from common.kit import Kit
from common.processes import free_port
from common.split import SplitConfig
from common.steps import StatisticsStep, TrainStep
from server import provision
from server.gateway import CALLS
from server.launch import launch
from server.provision import certificate_files, make_certificates, renew_authority, renew_certificate

pytestmark = [pytest.mark.slow, pytest.mark.tls, pytest.mark.timeout(600)]
NUM_REPLAYS = 1000
MEDIA_TYPE = {"content-type": PROTOBUF_MEDIA_TYPE}


@pytest.fixture
def federation(two_sites):
    return two_sites


@pytest.fixture
def on_record(federation):
    """A function that returns the statuses that the gateway put on record since the test began, `num` at the least.

    nginx writes a call down once its connection is done with, which a body that is still on its way can delay.
    """
    before = federation.gateway.num_refused()

    def statuses(num):
        deadline = time.monotonic() + 20.0
        while federation.gateway.num_refused() < before + num and time.monotonic() < deadline:
            time.sleep(0.1)
        lines = federation.gateway.refused.read_text().splitlines()[before:]
        return Counter(json.loads(line)["status"] for line in lines)

    return statuses


@pytest.fixture
def https(federation):
    """A client that trusts the federation's authority, and calls the gateway."""
    context = ssl.create_default_context(cafile=str(federation.superlink.certificates.authority))
    with httpx.Client(verify=context, base_url=f"https://localhost:{federation.port}") as client:
        yield client


def signing_client(federation, key, port=None):
    authority = federation.superlink.certificates.authority
    signer = NodeAuthHttpInterceptor(key, key.public_key())
    return FleetHttpClient.from_server_address(
        f"localhost:{port or federation.port}", False, authority.read_bytes(), [signer]
    )


def key_of(federation, site):
    path = key_files(site, federation.folder / f"site-{site}" / "keys").private
    return load_ssh_private_key(path.read_bytes(), None)


def calls_as(client, node_id):
    """Every call that a node makes, in the name of node `node_id`."""
    node = Node(node_id=node_id)
    return [
        lambda: client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=30)),
        lambda: client.PullMessages(PullMessagesRequest(node=node)),
        lambda: client.PushMessages(push_from(node_id, node_id)),
        lambda: client.GetRun(GetRunRequest(node=node, run_id=1)),
        lambda: client.GetFab(GetFabRequest(node=node, run_id=1, hash_str="0")),
        lambda: client.PushObject(PushObjectRequest(node=node, run_id=1, object_id="0", object_content=b"0")),
        lambda: client.PullObject(PullObjectRequest(node=node, run_id=1, object_id="0")),
        lambda: client.ConfirmMessageReceived(ConfirmMessageReceivedRequest(node=node, run_id=1)),
        lambda: client.DeactivateNode(DeactivateNodeRequest(node_id=node_id)),
    ]


def push_from(node_id, sender):
    metadata = Metadata(run_id=1, src_node_id=sender, dst_node_id=1, reply_to_message_id="0", message_type="train")
    return PushMessagesRequest(
        node=Node(node_id=node_id), messages_list=[Message(metadata=metadata)], message_object_trees=[ObjectTree()]
    )


def status_of(call):
    """The HTTP status that a call was answered with; 200 if it was accepted."""
    try:
        call()
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    return 200


def test_a_key_that_is_not_registered_is_refused_every_call(federation, on_record):
    stranger = ec.generate_private_key(ec.SECP384R1())
    with signing_client(federation, stranger) as client:
        statuses = [status_of(call) for call in calls_as(client, federation.node_ids["A"])]
        public = public_key_to_bytes(stranger.public_key())
        statuses.append(status_of(lambda: client.ActivateNode(ActivateNodeRequest(public_key=public))))
    assert len(statuses) == len(CALLS)
    assert set(statuses[:-1]) == {401}
    assert 400 <= statuses[-1] < 500
    assert sum(on_record(len(CALLS)).values()) == len(CALLS)


def test_one_sites_key_cannot_speak_for_another(federation, on_record):
    a, b = federation.node_ids["A"], federation.node_ids["B"]
    key, public_b = key_of(federation, "A"), public_key_to_bytes(key_of(federation, "B").public_key())
    with signing_client(federation, key) as client:
        statuses = [status_of(call) for call in calls_as(client, b)]
        statuses.append(status_of(lambda: client.ActivateNode(ActivateNodeRequest(public_key=public_b))))
        assert status_of(lambda: client.PushMessages(push_from(a, b))) == 403
    assert set(statuses) == {401}
    assert on_record(len(CALLS) + 1) == {401: len(CALLS), 403: 1}
    assert f"a reply in the name of node {b}" in federation.superlink.tree.tail()


def test_a_revoked_key_is_refused_at_once(federation, tmp_path, on_record):
    files = make_key("C", tmp_path)
    node_id = federation.superlink.enrol(read_join_request(files.request)).node_id
    key = load_ssh_private_key(files.private.read_bytes(), None)
    public = public_key_to_bytes(key.public_key())
    login = ActivateNodeRequest(public_key=public, heartbeat_interval=30)
    with signing_client(federation, key) as client:
        assert client.ActivateNode(login).node_id == node_id
        assert status_of(calls_as(client, node_id)[1]) == 200
        federation.superlink.revoke("C")
        statuses = [status_of(call) for call in calls_as(client, node_id)]
        statuses.append(status_of(lambda: client.ActivateNode(login)))
    assert set(statuses[:-1]) == {401}
    assert 400 <= statuses[-1] < 500
    assert sum(on_record(len(CALLS)).values()) == len(CALLS)
    with pytest.raises(SiteError, match="cannot come back"):
        federation.superlink.enrol(read_join_request(files.request))


def port_of(node):
    """Where a node's own interface listens on loopback."""
    words = Path(f"/proc/{node.tree.process.pid}/cmdline").read_bytes().decode().split("\0")
    return int(words[words.index("--port") + 1])


@pytest.mark.parametrize("secret", [b"", b"another account's secret, 32 bytes"])
def test_a_node_s_own_interface_gives_no_work_to_who_lacks_its_secret(federation, secret):
    """Of other users of a hospital's machine, who could answer in the training code's place."""
    signing = SuperExecAuthHttpInterceptor(
        master_secret=secret, protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"})
    )
    for node in federation.nodes.values():
        with RuntimeHttpClient.from_server_address(
            server_address=f"127.0.0.1:{port_of(node)}",
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), *([signing] if secret else [])],
        ) as client:
            asked = AcquireTaskRequest(supported_task_types=["flwr-clientapp"])
            assert status_of(lambda client=client, asked=asked: client.AcquireTask(asked)) == 401


def every_path():
    """(method, path) of everything that Flower serves but the calls that pass, and of some that it does not."""
    from flwr.superlink.main import create_app

    passing = {f"/v1/fleet/{call.name}" for call in CALLS}
    served = {path for _, path in PROTOBUF_REQUEST_TYPES} | {
        route.path for route in create_app().routes if hasattr(route, "path")
    }
    closed = [*sorted(served - passing), "/", "/docs/", "/openapi.json", "/v1/fleet/", "/v1/fleet/pull-messages/"]
    methods = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
    return [(method, path) for path in closed for method in methods] + [
        (method, path) for path in sorted(passing) for method in methods if method != "POST"
    ]


def test_nothing_but_the_nodes_calls_is_reachable(https, on_record):
    asked = every_path()
    assert {"/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/v1/fleet/register-node"} <= {
        path for _, path in asked
    }
    answers = Counter(https.request(method, path, headers=MEDIA_TYPE).status_code for method, path in asked)
    assert answers == {404: len(asked)}
    assert on_record(len(asked)) == {404: len(asked)}


DETOURS = [
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/pull-messages/../../control/list-runs",
    "/v1/fleet/pull-messages%2f..%2f..%2fcontrol%2flist-runs",
    "/v1/control/list-runs?/v1/fleet/pull-messages",
    "/v1/control/list-runs#/v1/fleet/pull-messages",
    "/v1/control/list-runs;/v1/fleet/pull-messages",
    "//v1/control/list-runs",
    "/v1//runtime//acquire-task",
    "/v1/runtime/acquire-task/./",
    "/V1/CONTROL/LIST-RUNS",
    "/v1\\control\\list-runs",
    "/v1/fleet/pull-messages\\..\\..\\control\\list-runs",
    "/v1/fleet/pull-messages%00/v1/control/list-runs",
    "https://localhost/v1/control/list-runs",
    "*",
]


@pytest.mark.parametrize("target", DETOURS)
def test_no_detour_leads_to_the_control_interface(federation, on_record, target):
    lines = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PROTOBUF_MEDIA_TYPE}\r\nContent-Length: 0\r\n"
    with channel(federation) as connection:
        assert status_line(connection, lines.encode() + b"Connection: close\r\n\r\n") in {400, 404}
    assert sum(on_record(1).values()) == 1


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOST /v1/control/list-runs HTTP/1.1\r\n\r\n",
        b"Content-Length: 4\r\nContent-Length: 40\r\n\r\nPOST /v1/control/list-runs HTTP/1.1\r\n\r\n",
        b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        b"X: " + 40_000 * b"x" + b"\r\n\r\n",
    ],
)
def test_a_request_smuggled_in_another_is_refused(federation, on_record, headers):
    start = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    with channel(federation) as connection:
        assert status_line(connection, start + headers) in {400, 415, 501}
    assert sum(on_record(1).values()) == 1
    assert "list-runs" not in federation.superlink.tree.tail()


@contextmanager
def channel(federation):
    """A TLS connection to the gateway, for raw bytes."""
    context = ssl.create_default_context(cafile=str(federation.superlink.certificates.authority))
    with (
        socket.create_connection(("127.0.0.1", federation.port), timeout=20.0) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        yield encrypted


def status_line(connection, request):
    """The status of the answer to raw bytes; 0 if the connection was closed without one."""
    connection.sendall(request)
    answer = connection.recv(4096)
    return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0


def test_plain_text_and_old_tls_are_refused(federation, on_record):
    request = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    for sent in (request, 64 * b"\0"):
        with socket.create_connection(("127.0.0.1", federation.port), timeout=20.0) as plain:
            assert status_line(plain, sent) == 400
    assert on_record(2) == {400: 2}
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", federation.port)) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)
    assert "SSL_do_handshake() failed" in federation.gateway.tree.tail()


def test_oversized_bodies_are_refused_before_they_are_read(https, federation, on_record):
    for call in CALLS:
        largest = (16 << 20) if call.largest == "16m" else 64 << 10
        path = f"/v1/fleet/{call.name}"
        assert https.post(path, headers=MEDIA_TYPE, content=b"\0" * (largest + 1)).status_code == 413
    pieces = (b"\0" * (1 << 20) for _ in range(20))  # chunked: no length is told
    assert https.post("/v1/fleet/push-object", headers=MEDIA_TYPE, content=pieces).status_code == 413
    told = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 60}\r\n\r\n"
    with channel(federation) as connection:
        assert status_line(connection, told.encode()) == 413
    assert on_record(len(CALLS) + 2) == {413: len(CALLS) + 2}


def test_a_body_that_never_ends_keeps_nobody_out(federation):
    request = b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
    with channel(federation) as stalled, signing_client(federation, key_of(federation, "A")) as client:
        stalled.sendall(request)
        assert status_of(calls_as(client, federation.node_ids["A"])[0]) == 200


def test_certificates_of_another_authority_are_refused_by_the_node(federation, tmp_path):
    stranger, key = make_certificates(tmp_path / "pki", ["localhost"]), make_key("A", tmp_path / "keys")
    node = SiteNode(
        "A", tmp_path / "node", f"localhost:{federation.port}", stranger.authority, key.private, tmp_path / "site.yaml"
    )
    with node, pytest.raises(WorkError, match="not signed by"):
        node.wait_online(60.0)
    assert "alert" in federation.gateway.tree.tail()


@pytest.mark.parametrize("ended", ["the server's", "the authority's"])
def test_a_coordinator_whose_certificate_has_expired_is_told_nothing(federation, tmp_path, monkeypatch, ended):
    """The way leads to the gateway, with a certificate, or a kit, of the federation's own authority that has ended."""
    shutil.copytree(federation.folder / "pki", tmp_path / "pki")
    files = certificate_files(tmp_path / "pki")
    if ended == "the server's":
        renew_certificate(tmp_path / "pki", ["localhost"], valid_days=-0.01)
    else:
        monkeypatch.setattr(provision, "AUTHORITY_DAYS", -0.01)
        renew_authority(tmp_path / "pki")
    recorded, key = [], key_files("A", federation.folder / "site-A" / "keys").private
    with recorder(federation, recorded, files) as port:
        address = f"localhost:{port}"
        with pytest.raises(WorkError, match=r"ended on 20|expired; this clock says 20"):
            contact(Kit(site="A", coordinator=address, authority=files.authority.read_text()))
        node = SiteNode("A", tmp_path / "node", address, files.authority, key, tmp_path / "site.yaml")
        with node, pytest.raises(WorkError, match="not signed by"):
            node.wait_online(60.0)
    assert recorded == []
    assert "CERTIFICATE_VERIFY_FAILED" in node.tree.tail()


@contextmanager
def recorder(federation, recorded, files=None):
    """A proxy with the coordinator's own certificate before the gateway: who had its key could record so much."""
    own = federation.superlink.certificates
    files = files or own
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    trust = ssl.create_default_context(cafile=str(own.authority))
    onwards = httpx.Client(verify=trust, base_url=f"https://localhost:{federation.port}", timeout=60.0)

    class Recorder(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            recorded.append((self.path, dict(self.headers), body))
            answer = onwards.post(self.path, headers=dict(self.headers), content=body)
            self.send_response(answer.status_code)
            self.send_header("content-type", answer.headers.get("content-type", ""))
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", free_port()), Recorder)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        onwards.close()


def test_a_thousand_recorded_calls_are_refused_when_they_come_again(https, federation, on_record):
    recorded, node_id = [], federation.node_ids["A"]
    with (
        recorder(federation, recorded) as port,
        signing_client(federation, key_of(federation, "A"), port) as client,
    ):
        heartbeat, pull = calls_as(client, node_id)[:2]
        assert Counter(status_of(call) for _ in range(NUM_REPLAYS // 2) for call in (heartbeat, pull)) == {
            200: NUM_REPLAYS
        }
    answers = Counter(https.post(path, headers=headers, content=body).status_code for path, headers, body in recorded)
    assert answers == {503: NUM_REPLAYS}
    body = DeactivateNodeRequest(node_id=node_id).SerializeToString()
    for _, headers, _ in recorded[-10:]:  # a recorded signature with another call
        signed = {name: text for name, text in headers.items() if name.startswith("flwr-")}
        again = https.post("/v1/fleet/deactivate-node", headers=signed | MEDIA_TYPE, content=body)
        assert again.status_code == 503
    assert on_record(NUM_REPLAYS + 10) == {503: NUM_REPLAYS + 10}
    assert federation.superlink.tree.tail().count("its signed time is used") >= NUM_REPLAYS


def test_the_federation_works_as_before(federation, tiny_recipe):
    """After all of this: both sites are online, and train."""
    experiment = Experiment(
        reuse=False,
        name="after",
        sites=("A", "B"),
        recipe=tiny_recipe,
        split=SplitConfig(test_fraction=0.3, validation_fraction=0.2),
        steps=(
            StatisticsStep(kind="statistics"),
            TrainStep(kind="train", model="federated", rounds=1, local_epochs=1),
        ),
    )
    control, told = federation.superlink.control, []
    assert {control.nodes()[node_id] for node_id in federation.node_ids.values()} == {"online"}
    launch(control, federation.superlink.folder, experiment, "after", told.append)
    assert told[-1]["kind"] == "end"
    assert [node.num_starts for node in federation.nodes.values()] == [1, 1]
