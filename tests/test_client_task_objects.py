"""A ClientApp's calls for parts, answered before Flower's layers: every answer is that of Flower's own app."""

import asyncio
import warnings
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from flwr.proto.message_pb2 import (
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.runtime_pb2 import GetNodesRequest

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer's use of click, not ours
    from flwr.supercore.constant import TaskType
    from flwr.supercore.inflatable.inflatable_object import get_object_id
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
    from flwr.supernode.main import create_app
    from flwr.supernode.nodestate import NodeStateFactory

from client.task_objects import answer_first
from common.direct_calls import DirectCalls

RUN = 4711
PULL, PUSH = "/v1/runtime/pull-object", "/v1/runtime/push-object"
TOKEN, PROTOBUF = "flwr-task-token", "application/protobuf"


def part(size: int) -> bytes:
    """An object of Flower's with `size` bytes in it."""
    return b"ArrayChunk  %d\x00" % size + b"x" * size


HERE, COMING, UNKNOWN = part(5_000_000), part(300), part(7)
HANDED_OVER = part(70_000)


class Node:
    """A node's application with a task, one part that is there and one that is not yet."""

    def __init__(self, make: Any) -> None:
        factory = NodeStateFactory(ObjectStoreFactory())
        self.state = factory.state()
        self.state.set_node_id(1)
        task = self.state.create_task(TaskType.CLIENT_APP, RUN)
        assert task is not None
        self.token = self.state.claim_task(task) or ""
        self.session = self.state.start_session(RUN)
        children = [ObjectTree(object_id=get_object_id(each)) for each in (COMING, HANDED_OVER)]
        tree = ObjectTree(object_id=get_object_id(HERE), children=children)
        self.state.preregister_object_tree(tree, self.session)
        assert self.state.store_object(RUN, self.session, get_object_id(HERE), HERE)
        self.app: FastAPI = make(factory, b"secret")

    def call(
        self, path: str, body: Any, *more: tuple[str, str], tokens: int = 1, kind: str | None = PROTOBUF,
        method: str = "POST",
    ) -> httpx.Response:  # fmt: skip
        """`body`: bytes, or a message, whose session is this node's."""
        headers = [*([("content-type", kind)] if kind else []), *([(TOKEN, self.token)] * tokens), *more]
        content = body if isinstance(body, bytes) else body.SerializeToString()
        if isinstance(body, PushObjectRequest) and not body.session_id:
            content += PushObjectRequest(session_id=self.session).SerializeToString()

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(ask())


def stand_in() -> ModuleType:
    """As `flwr.supernode.main`, to be changed."""
    module = ModuleType("main")
    module.create_app = create_app  # type: ignore[attr-defined]
    return module


def making_direct() -> Any:
    module = stand_in()
    answer_first(module, {get_object_id(HANDED_OVER): HANDED_OVER}.get)
    return module.create_app


@pytest.fixture
def nodes() -> tuple[Node, Node]:
    """Flower's own, and the one that answers these calls first."""
    return Node(create_app), Node(making_direct())


def facts(answer: httpx.Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    return answer.status_code, answer.content, sorted(answer.headers.multi_items())


def both(nodes: tuple[Node, Node], path: str, body: Any, *more: tuple[str, str], **options: Any) -> httpx.Response:
    """Ours, which is Flower's."""
    theirs, ours = (node.call(path, body, *more, **options) for node in nodes)
    assert facts(ours) == facts(theirs)
    return ours


def asking(content: bytes) -> PullObjectRequest:
    return PullObjectRequest(object_id=get_object_id(content))


def giving(content: bytes, name: str = "", session: str = "") -> PushObjectRequest:
    return PushObjectRequest(object_id=name or get_object_id(content), object_content=content, session_id=session)


def test_the_calls_are_answered_before_flower_s_layers(nodes: tuple[Node, Node]) -> None:
    theirs, ours = (node.app.user_middleware for node in nodes)
    assert ours[0].cls is DirectCalls
    assert [each.cls for each in ours[1:]] == [each.cls for each in theirs]


def test_a_part_that_was_handed_over_is_given_to_who_calls_for_it(nodes: tuple[Node, Node]) -> None:
    """Code of another release, which was approved, knows of no handover."""
    flower_s, ours = (PullObjectResponse.FromString(node.call(PULL, asking(HANDED_OVER)).content) for node in nodes)
    assert flower_s == PullObjectResponse(object_found=True)
    assert ours == PullObjectResponse(object_found=True, object_available=True, object_content=HANDED_OVER)
    nodes[1].state.object_store.clear()  # a part that no task of this node has
    assert PullObjectResponse.FromString(nodes[1].call(PULL, asking(HANDED_OVER)).content) == PullObjectResponse()


@pytest.mark.parametrize("module", [stand_in(), SimpleNamespace(create_app=create_app)])
def test_the_application_that_the_module_makes_is_changed_and_nothing_else(module: Any) -> None:
    answer_first(module, {}.get)
    assert module.create_app is not create_app
    assert DirectCalls in [each.cls for each in module.create_app().user_middleware]
    assert DirectCalls not in [each.cls for each in create_app().user_middleware]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HERE, PullObjectResponse(object_found=True, object_available=True, object_content=HERE)),
        (COMING, PullObjectResponse(object_found=True)),
        (UNKNOWN, PullObjectResponse()),
    ],
    ids=["here", "coming", "unknown"],
)
def test_a_part_is_given_or_told_to_be_coming_or_unknown(
    nodes: tuple[Node, Node], content: bytes, expected: PullObjectResponse
) -> None:
    answer = both(nodes, PULL, asking(content))
    assert (answer.status_code, answer.headers["content-type"]) == (200, PROTOBUF)
    assert PullObjectResponse.FromString(answer.content) == expected


def test_a_part_is_kept_once_and_given_from_then_on(nodes: tuple[Node, Node]) -> None:
    for stored in (True, False):  # it is no longer missing
        answer = both(nodes, PUSH, giving(COMING))
        assert (answer.status_code, answer.headers["content-type"]) == (200, PROTOBUF)
        assert PushObjectResponse.FromString(answer.content).stored == stored
    assert PullObjectResponse.FromString(both(nodes, PULL, asking(COMING)).content).object_content == COMING


@pytest.mark.parametrize(
    "given",
    [
        giving(UNKNOWN, get_object_id(COMING)),
        giving(COMING[:-1], get_object_id(COMING)),
        giving(b"", get_object_id(COMING)),
        giving(UNKNOWN),
        giving(COMING, session="another"),
        PushObjectRequest(),
    ],
    ids=["other content", "cut", "empty", "unasked", "other session", "nothing"],
)
def test_a_push_that_is_not_what_was_announced_is_not_kept(nodes: tuple[Node, Node], given: PushObjectRequest) -> None:
    answer = both(nodes, PUSH, given)
    assert (answer.status_code, PushObjectResponse.FromString(answer.content).stored) == (200, False)
    assert [node.state.object_store.get(get_object_id(COMING)) for node in nodes] == [b"", b""]


CALLS = pytest.mark.parametrize(
    ("path", "message"), [(PULL, asking(HERE)), (PUSH, giving(COMING))], ids=["pull", "push"]
)


@CALLS
@pytest.mark.parametrize(
    ("tokens", "more"),
    [(0, ()), (0, ((TOKEN, "wrong"),)), (0, ((TOKEN, ""),)), (2, ()), (1, ((TOKEN, "wrong"),))],
    ids=["none", "wrong", "empty", "twice", "two"],
)
def test_who_has_not_one_right_token_is_refused(
    nodes: tuple[Node, Node], path: str, message: Any, tokens: int, more: tuple[tuple[str, str], ...]
) -> None:
    answer = both(nodes, path, message, *more, tokens=tokens)
    assert (answer.status_code, answer.json()["code"]) == (401, 1008)
    assert [node.state.object_store.get(get_object_id(COMING)) for node in nodes] == [b"", b""]


@CALLS
def test_a_token_whose_task_is_over_is_refused(nodes: tuple[Node, Node], path: str, message: Any) -> None:
    for node in nodes:
        (task,) = node.state.get_tasks()
        assert node.state.activate_task(task.task_id)
        assert node.state.finish_task(task.task_id, "completed", "")
    assert both(nodes, path, message).status_code == 401


@CALLS
@pytest.mark.parametrize("kind", ["application/json", "application/x-protobuf", "", None])
def test_another_kind_of_content_is_refused(
    nodes: tuple[Node, Node], path: str, message: Any, kind: str | None
) -> None:
    answer = both(nodes, path, message, kind=kind)
    assert (answer.status_code, answer.json()["code"]) == (415, 1002)


@CALLS
def test_the_kind_of_content_may_have_parameters_and_any_case(
    nodes: tuple[Node, Node], path: str, message: Any
) -> None:
    assert both(nodes, path, message, kind="Application/Protobuf; charset=x").status_code == 200


@CALLS
@pytest.mark.parametrize("tokens", [0, 1])
def test_a_body_that_is_no_message_is_refused(nodes: tuple[Node, Node], path: str, message: Any, tokens: int) -> None:
    for body in (b"\xff\xff\xff", message.SerializeToString()[:-1]):
        answer = both(nodes, path, body, tokens=tokens)
        assert (answer.status_code, answer.json()["code"]) == (400, 1003)


@CALLS
def test_a_fault_of_the_node_s_is_told_without_its_text(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch, path: str, message: Any
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("Mustermann^Erika")

    for node in nodes:
        monkeypatch.setattr(node.state, "get_object", fail)
        monkeypatch.setattr(node.state, "store_object", fail)
    answer = both(nodes, path, message)
    assert (answer.status_code, answer.json()) == (500, {"detail": "Internal server error."})


@CALLS
def test_a_node_that_has_no_state_yet_says_so(path: str, message: Any) -> None:
    nodes = Node(create_app), Node(making_direct())
    for node in nodes:
        node.app.state.runtime_state_factory = None
    assert both(nodes, path, message).json()["code"] == 1009


@CALLS
def test_a_clientapp_of_the_node_s_version_is_answered(nodes: tuple[Node, Node], path: str, message: Any) -> None:
    own = RuntimeVersionMetadata.from_local_component("ClientApp").as_metadata()
    assert both(nodes, path, message, *own).status_code == 200


@CALLS
def test_a_clientapp_of_another_version_is_refused_by_flower_s_layers_alone(
    nodes: tuple[Node, Node], path: str, message: Any
) -> None:
    other = RuntimeVersionMetadata("flwr", "1.2.3", "ClientApp").as_metadata()
    theirs, ours = (node.call(path, message, *other) for node in nodes)
    assert theirs.json()["code"] == 1001
    assert ours.status_code == 200
    assert both(nodes, "/v1/runtime/pull-messages", b"", *other).json()["code"] == 1001


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200), ("GET", PULL, 405), ("PUT", PUSH, 405), ("HEAD", PULL, 405), ("POST", PULL + "/", 307),
        ("POST", "/v1/runtime/pull-objects", 404), ("POST", "/v1/fleet/pull-object", 404),
    ],
)  # fmt: skip
def test_all_else_is_left_to_flower(nodes: tuple[Node, Node], method: str, path: str, status: int) -> None:
    assert both(nodes, path, b"", method=method).status_code == status


def test_flower_s_own_calls_are_answered_by_flower(nodes: tuple[Node, Node]) -> None:
    assert both(nodes, "/v1/runtime/get-nodes", GetNodesRequest()).json()["code"] == 3005
    assert both(nodes, "/v1/runtime/pull-messages", b"").status_code == 200
