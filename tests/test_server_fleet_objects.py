"""The two calls that carry parts: answered as by Flower, and the bytes left to the gateway where there is one."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pytest
from exchange import Exchange, apart
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.superlink.main import create_app
from flwr.superlink.routers.fleet import node_auth
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from common.direct_calls import DirectCalls
from common.object_files import ObjectFiles
from server import fleet_objects
from server.fleet_guard import SignedTimes, guarded
from server.fleet_objects import PULL, PUSH, FleetObjects
from server.gateway import BODY_FILE, HANDS_OUT, OBJECTS
from server.superlink_process import AUTHENTICATE

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")
"""Flower's fault, not ours: how it configures its migrations."""
PROTOBUF = "application/protobuf"


class Site:
    """An exchange whose run is under way, with a node that calls Flower's SuperLink, and ours."""

    def __init__(self, folder):
        self.key = generate_key_pairs()
        self.exchange = Exchange(folder, public_key_to_bytes(self.key[1]))
        self.state, self.run = self.exchange.state, self.exchange.run
        (self.task,) = self.state.get_tasks()
        assert self.state.claim_task(self.task.task_id)
        assert self.state.activate_task(self.task.task_id)
        self.bodies = folder / "bodies"
        self.bodies.mkdir()
        direct = FleetObjects(ObjectFiles(folder / "objects"), self.bodies)
        self.theirs, self.ours = (self._app() for _ in range(2))
        self.ours.add_middleware(DirectCalls, answers=direct.answers, find_body=direct.find_body)

    def _app(self):
        app = create_app()
        app.state.linkstate_factory = SimpleNamespace(state=lambda: self.state)
        return app

    def signed(self, path, message, key=None, media=PROTOBUF, **headers):
        """A call by the node."""
        url = f"http://superlink{path}"
        content = message if isinstance(message, bytes) else message.SerializeToString()
        request = httpx.Request("POST", url, content=content, headers={"content-type": media, **headers})
        context = ProtobufRequestContext("", message, request)
        key = self.key if key is None else key
        return NodeAuthHttpInterceptor(*key).intercept(context, lambda told: told.request) if key else request

    def send(self, app, request):
        """What a call is answered with."""

        async def answered():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
                return await client.send(request)

        return asyncio.run(answered())

    def call(self, app, *asked, **how):
        """What a new call by the node is answered with."""
        return self.send(app, self.signed(*asked, **how))

    def both(self, *asked, **how):
        """What ours answers, which is what Flower's does."""
        theirs, ours = (self.call(app, *asked, **how) for app in (self.theirs, self.ours))
        assert (ours.status_code, ours.headers["content-type"], ours.content) == (
            theirs.status_code,
            theirs.headers["content-type"],
            theirs.content,
        )
        return ours

    def pull(self, name, node=None, run=None):
        node = Node(node_id=self.exchange.node if node is None else node)
        return PullObjectRequest(node=node, run_id=run or self.run, object_id=name)

    def push(self, session, name, content=None):
        content = self.exchange.parts[name] if content is None else content
        node = Node(node_id=self.exchange.node)
        return PushObjectRequest(node=node, run_id=self.run, object_id=name, object_content=content, session_id=session)

    def traffic(self):
        (run,) = self.state.get_run_info(run_ids=[self.run])
        return run.bytes_sent, run.bytes_recv


@pytest.fixture
def site(tmp_path, monkeypatch):
    apart(monkeypatch)
    return Site(tmp_path)


def test_what_is_asked_for_is_answered_as_by_flower(site):
    session, missing = site.exchange.announce()
    stored, waiting, *_ = sorted(missing)
    assert site.exchange.push(session, stored)
    answers = {name: site.both(PULL, site.pull(name)) for name in (stored, waiting, "0" * 64, "../state.db")}
    told = {name: PullObjectResponse.FromString(each.content) for name, each in answers.items()}
    assert told[stored] == PullObjectResponse(
        object_found=True, object_available=True, object_content=site.exchange.parts[stored]
    )
    assert told[waiting] == PullObjectResponse(object_found=True)
    assert told["0" * 64] == told["../state.db"] == PullObjectResponse()


@pytest.mark.parametrize("path", [PULL, PUSH])
def test_who_may_not_call_is_refused_as_by_flower(site, path):
    session, missing = site.exchange.announce()
    name = min(missing)
    message = site.pull(name) if path == PULL else site.push(session, name)
    assert site.both(path, message, key=()).status_code == 401
    assert site.both(path, message, key=generate_key_pairs()).status_code == 401
    message.node.node_id = 7
    assert site.both(path, message).status_code == 401
    message.node.node_id = site.exchange.node
    assert site.both(path, message, media="text/plain").status_code == 415
    assert site.both(path, b"\xff\xff").status_code == 400
    assert site.state.object_store.get(name) == b""


@pytest.mark.parametrize("path", [PULL, PUSH])
def test_a_call_that_is_played_again_is_refused_also_here(site, monkeypatch, path):
    times = SignedTimes(datetime.now(UTC) - timedelta(minutes=1))
    monkeypatch.setattr(node_auth, AUTHENTICATE, guarded(getattr(node_auth, AUTHENTICATE), times))
    session, missing = site.exchange.announce()
    name = min(missing)
    recorded = site.signed(path, site.pull(name) if path == PULL else site.push(session, name))
    assert [site.send(site.ours, recorded).status_code for _ in range(2)] == [200, 503]


def test_what_is_brought_is_kept_and_counted_as_by_flower(site):
    session, missing = site.exchange.announce()
    first, second, *_ = sorted(missing)
    answers, traffic = [], []
    for app, name in ((site.theirs, first), (site.ours, second)):
        before = site.traffic()
        answers.append(site.call(app, PUSH, site.push(session, name)))
        traffic.append([after - earlier for earlier, after in zip(before, site.traffic(), strict=True)])
        assert site.state.object_store.get(name) == site.exchange.parts[name]
    assert [each.content for each in answers] == [answers[0].content] * 2
    assert traffic == [[0, len(site.exchange.parts[name])] for name in (first, second)]


def test_what_is_not_what_its_id_says_is_refused_as_by_flower(site):
    session, missing = site.exchange.announce()
    name = min(missing)
    assert site.both(PUSH, site.push(session, name, b"CustomDataClass  4\x00evil")).content == b""
    assert site.both(PUSH, site.push("no session", name)).content == b""
    assert site.state.object_store.get(name) == b""


def test_a_run_that_has_ended_gets_nothing_as_by_flower(site, monkeypatch):
    monkeypatch.setattr(fleet_objects, "RUNNING_S", 0.0)
    session, missing = site.exchange.announce()
    name = min(missing)
    assert site.both(PULL, site.pull(name)).status_code == 200
    assert site.state.stop_run(site.run)
    assert site.both(PULL, site.pull(name)).status_code >= 400
    assert site.both(PUSH, site.push(session, name)).status_code >= 400
    assert site.both(PULL, site.pull(name, run=site.run + 1)).status_code >= 400


def test_the_gateway_is_told_the_file_of_a_part_that_is_there_alone(site):
    session, missing = site.exchange.announce()
    stored, waiting, *_ = sorted(missing)
    site.exchange.push(session, stored)
    sent, _ = site.traffic()
    answer = site.call(site.ours, PULL, site.pull(stored), **{HANDS_OUT: "yes"})
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"", PROTOBUF)
    assert answer.headers["x-accel-redirect"] == f"/{OBJECTS}/{stored}"
    assert site.traffic()[0] - sent == len(site.exchange.parts[stored])
    for name, found in ((waiting, True), ("0" * 64, False), ("../state.db", False)):
        answer = site.call(site.ours, PULL, site.pull(name), **{HANDS_OUT: "yes"})
        assert "x-accel-redirect" not in answer.headers
        assert PullObjectResponse.FromString(answer.content) == PullObjectResponse(object_found=found)
    refused = site.call(site.ours, PULL, site.pull(stored), key=generate_key_pairs(), **{HANDS_OUT: "yes"})
    assert (refused.status_code, "x-accel-redirect" in refused.headers) == (401, False)


def test_a_body_is_taken_from_the_gateway_s_files_and_from_no_others(site, tmp_path):
    session, missing = site.exchange.announce()
    name = min(missing)
    message = site.push(session, name).SerializeToString()
    for path in (tmp_path / "elsewhere", site.bodies / "0000000001"):
        path.write_bytes(message)
    for path in (tmp_path / "elsewhere", site.bodies / ".." / "elsewhere"):
        assert site.call(site.ours, PUSH, b"", **{BODY_FILE: str(path)}).status_code == 401  # a body without a node
        assert site.state.object_store.get(name) == b""
    assert site.call(site.ours, PUSH, b"", **{BODY_FILE: str(site.bodies / "0000000001")}).status_code == 200
    assert site.state.object_store.get(name) == site.exchange.parts[name]


def test_a_run_is_not_asked_for_every_part_whether_it_runs(site, monkeypatch):
    asked, ask = [], site.state.get_run_status
    monkeypatch.setattr(site.state, "get_run_status", lambda runs: asked.append(runs) or ask(runs))
    session, missing = site.exchange.announce()
    for name in missing:
        assert site.call(site.ours, PUSH, site.push(session, name)).status_code == 200
    assert asked == [{site.run}]
