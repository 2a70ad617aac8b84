"""The gateway's configuration, and a real nginx with it; the SuperLink behind it is a stand-in."""

import hashlib
import json
import os
import socket
import ssl
import subprocess
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from flwr.proto.message_pb2 import PullObjectResponse

from common.errors import WorkError
from common.object_files import ObjectFiles
from common.processes import free_port
from server.gateway import (
    BODY_FILE,
    CALLS,
    HANDS_OUT,
    OBJECTS,
    Gateway,
    Upstream,
    nginx_config,
    nginx_path,
    only_loopback,
)
from server.provision import certificate_files, make_certificates, renew_certificate


def nowhere(folder):
    """A SuperLink that does not run."""
    return Upstream("127.0.0.1:1", folder / "objects", folder / "bodies")


@pytest.fixture(scope="module")
def nginx():
    return nginx_path() or pytest.skip("nginx is not installed; on Debian: make nginx")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("pki"), ["gtv.example.org"])


@pytest.fixture(scope="module")
def passed():
    """(path, address told) of the calls that came through."""
    return []


@pytest.fixture(scope="module")
def told():
    """The headers of the calls that came through, and `bodies`: the names and contents of the bodies in files then."""
    return []


@pytest.fixture(scope="module")
def handed_out():
    """The object that the SuperLink has the gateway hand out; none at first."""
    return []


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, nginx, certificates, passed, told, handed_out):
    def bodies():
        return {"bodies": {str(path): path.read_bytes() for path in upstream.bodies.iterdir()}}

    class Superlink(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            passed.append((self.path, self.headers["x-forwarded-for"]))
            told.append(dict(self.headers) | bodies())
            self.send_response(200)
            if handed_out:
                self.send_header("x-accel-redirect", f"/{OBJECTS}/{handed_out[0]}")
                self.send_header("content-type", "application/protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Superlink)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    folder = tmp_path_factory.mktemp("gateway")
    upstream = Upstream(f"127.0.0.1:{server.server_address[1]}", folder / "objects", folder / "bodies")
    (folder / "bodies").mkdir()
    (folder / "bodies" / "0000000007").write_bytes(b"of one that was killed")
    try:
        with Gateway(folder, certificates, ["localhost"], free_port(), upstream) as running:
            assert list(upstream.bodies.iterdir()) == []
            yield running
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def https(gateway):
    trust = ssl.create_default_context(cafile=str(gateway.certificates.authority))
    with httpx.Client(verify=trust, base_url=f"https://localhost:{gateway.port}") as client:
        yield client


def test_the_nodes_calls_pass_with_the_callers_address(https, passed):
    passed.clear()
    for call in CALLS:
        assert https.post(f"/v1/fleet/{call.name}", headers={"x-forwarded-for": "192.0.2.1"}).status_code == 200
    assert passed == [(f"/v1/fleet/{call.name}", "127.0.0.1") for call in CALLS]


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/control/list-runs", "/v1/fleet/register-node", "/health"])
def test_all_else_is_answered_with_404_and_put_on_record(https, gateway, passed, path):
    passed.clear()
    before = gateway.num_refused()
    assert [https.request(method, path).status_code for method in ("GET", "POST")] == [404, 404]
    assert https.get("/v1/fleet/pull-messages").status_code == 404
    assert passed == []
    assert gateway.num_refused() == before + 3
    last = json.loads(gateway.refused.read_text().splitlines()[-2])
    assert (last["status"], last["method"], last["path"], last["from"]) == (404, "POST", path, "127.0.0.1")


def test_bodies_pass_up_to_what_a_call_needs(https, passed):
    for call in CALLS:
        largest = (16 << 20) if call.largest == "16m" else 64 << 10
        answers = [https.post(f"/v1/fleet/{call.name}", content=(largest + more) * b"\0") for more in (0, 1)]
        assert [answer.status_code for answer in answers] == [200, 413], call


def test_a_part_that_is_brought_lies_in_a_file_for_as_long_as_the_call_takes(https, gateway, told):
    part = os.urandom(6 << 20)
    forged = {BODY_FILE: "/etc/passwd", HANDS_OUT: "no"}
    assert https.post("/v1/fleet/push-object", content=part, headers=forged).status_code == 200
    assert list(told[-1]["bodies"].items()) == [(told[-1][BODY_FILE], part)]
    assert "content-length" not in {name.lower() for name in told[-1]}
    assert list(gateway.superlink.bodies.iterdir()) == []


def test_a_disk_that_takes_no_part_is_told_so_that_nodes_call_again(https, gateway, passed):
    passed.clear()
    bodies = gateway.superlink.bodies
    away = bodies.rename(bodies.with_name("away"))
    try:
        assert https.post("/v1/fleet/push-object", content=b"part").status_code == 503
    finally:
        away.rename(bodies)
    assert passed == []
    assert https.post("/v1/fleet/push-object", content=b"part").status_code == 200


def test_no_part_leaves_a_line_in_the_log(https, gateway):
    before = gateway.tree.log_size()
    assert https.post("/v1/fleet/push-object", content=bytes(1 << 20)).status_code == 200
    assert b"buffered" not in gateway.tree.log.read_bytes()[before:]


def test_all_other_bodies_come_with_their_call(https, told):
    assert https.post("/v1/fleet/push-messages", content=b"body", headers={HANDS_OUT: "no"}).status_code == 200
    assert (told[-1]["bodies"], told[-1]["Content-Length"], told[-1][HANDS_OUT]) == ({}, "4", "yes")
    assert BODY_FILE not in told[-1]


def test_what_the_superlink_names_is_handed_out_in_its_stead(https, gateway, handed_out):
    body = os.urandom(6 << 20)
    content = b"ArrayChunk  %d\x00" % len(body) + body
    name = hashlib.sha256(content).hexdigest()
    ObjectFiles(gateway.superlink.objects).write(name, content)
    handed_out.append(name)
    answer = https.post("/v1/fleet/pull-object")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/protobuf")
    expected = PullObjectResponse(object_found=True, object_available=True, object_content=content)
    assert PullObjectResponse.FromString(answer.content) == expected
    handed_out[:] = ["0" * 64]
    gone = https.post("/v1/fleet/pull-object")
    assert (gone.status_code, PullObjectResponse.FromString(gone.content)) == (200, PullObjectResponse())
    handed_out.clear()


def test_nobody_gets_an_object_without_the_superlink(https, gateway, passed):
    passed.clear()
    ObjectFiles(gateway.superlink.objects).write("1" * 64, b"a b 1\x00c")
    assert {https.request(way, f"/{OBJECTS}/" + "1" * 64).status_code for way in ("GET", "POST")} == {404}
    assert passed == []


def test_a_flood_is_slowed_with_an_answer_that_nodes_retry(https):
    answers = [https.post("/v1/fleet/activate-node").status_code for _ in range(60)]
    assert answers[:15] == 15 * [200]
    assert set(answers) == {200, 503}
    assert https.post("/v1/fleet/pull-messages").status_code == 200


def test_parts_of_models_on_their_way_hold_up_no_other_call(https, gateway):
    """Sixteen sites behind one address, each with four parts."""
    head = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000000\r\n\r\nbegun"
    trust = ssl.create_default_context(cafile=str(gateway.certificates.authority))
    with ExitStack() as stack:
        for _ in range(64):
            plain = stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
            stack.enter_context(trust.wrap_socket(plain, server_hostname="localhost")).sendall(head)
        while https.post("/v1/fleet/pull-object").status_code == 200:
            pass  # until nginx has seen them all
        assert https.post("/v1/fleet/pull-object").status_code == 503
        assert https.post("/v1/fleet/send-node-heartbeat").status_code == 200
        assert https.post("/v1/fleet/pull-messages").status_code == 200


def test_a_port_that_is_taken_and_a_broken_certificate_are_told(gateway, tmp_path, certificates):
    other = Gateway(tmp_path, certificates, ["localhost"], gateway.port, gateway.superlink)
    with pytest.raises(WorkError, match=f"port {gateway.port}: taken"):
        other.start()
    broken = Gateway(tmp_path, certificate_files(tmp_path), ["localhost"], free_port(), gateway.superlink)
    (tmp_path / "ca.crt").write_bytes(certificates.authority.read_bytes())
    with pytest.raises(WorkError, match=r"gateway: ended at once: .*server\.crt"):
        broken.start()
    assert broken.tree.members() == []


def test_a_gateway_that_died_is_started_again_and_leaves_nothing(nginx, tmp_path, certificates):
    with Gateway(tmp_path, certificates, ["localhost"], free_port(), nowhere(tmp_path)) as gateway:
        gateway.keep_up()
        first = gateway.tree.process.pid
        gateway.tree.process.kill()
        gateway.tree.process.wait()
        gateway.keep_up()
        assert gateway.tree.process.pid != first
        assert gateway.tree.members() == [gateway.tree.process.pid]
    assert gateway.tree.members() == []


def test_nginx_approves_of_the_configuration_for_other_machines(nginx, tmp_path, certificates):
    names = ["gtv.example.org", "192.0.2.7"]
    text = nginx_config(names, free_port(), nowhere(tmp_path), certificates, tmp_path)
    path = tmp_path / "nginx.conf"
    path.write_text(text)
    told = subprocess.run(
        [nginx, "-t", "-e", "stderr", "-p", str(tmp_path), "-c", str(path)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    assert "warn" not in told.stderr


def test_loopback_names_are_served_on_loopback_alone(tmp_path):
    files = certificate_files(tmp_path)
    assert only_loopback(["localhost", "127.0.0.1"])
    assert not only_loopback(["localhost", "192.0.2.7"])
    local = nginx_config(["localhost"], 8443, nowhere(tmp_path), files, tmp_path)
    assert [line.split() for line in local.splitlines() if "listen " in line] == [["listen", "127.0.0.1:8443", "ssl;"]]
    outside = nginx_config(["gtv.example.org"], 8443, nowhere(tmp_path), files, tmp_path)
    assert "listen 8443 ssl;" in outside


def test_only_the_gateways_own_files_are_named(tmp_path):
    text = nginx_config(
        ["gtv.example.org"], 8443, nowhere(tmp_path), certificate_files(tmp_path / "pki"), tmp_path / "g"
    )
    absolute = [
        word.strip(";.")
        for word in text.split()
        if word.startswith(os.sep) and "/v1/" not in word and word != f"/{OBJECTS}/"
    ]
    assert {path for path in absolute if len(path) > 1 and not path.startswith(str(tmp_path))} == set()


def test_a_renewed_certificate_is_used_after_a_start(nginx, tmp_path):
    files = make_certificates(tmp_path / "pki", ["localhost"])
    gateway = Gateway(tmp_path / "g", files, ["localhost"], free_port(), nowhere(tmp_path))
    with gateway:
        old = ssl.get_server_certificate(("127.0.0.1", gateway.port))
        renew_certificate(tmp_path / "pki", ["localhost"])
    with gateway:
        assert ssl.get_server_certificate(("127.0.0.1", gateway.port)) != old
