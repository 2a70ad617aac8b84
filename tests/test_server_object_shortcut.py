"""What Flower's grid sends and receives goes through files, and over HTTPS where a file is not there."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.error_pb2 import Error as ProtoError
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse, PushObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse, PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import http_grid
from flwr.superlink.grid.http_grid import HttpGrid

from common import wire
from common.object_files import ObjectFiles
from server.object_shortcut import INFLATE, MAKE_PULL, NESTED, take_shortcut
from server.object_store import FiledObjectStore

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")
RUN = 7


class Calls:
    """Stands in for Flower's client and the SuperLink behind it: answers from a store, and notes what it is asked."""

    def __init__(self, store):
        self.store, self.asked, self.replies, self.lies = store, [], [], []
        self.before_push = lambda: None

    def PushMessages(self, request):  # noqa: N802
        self.before_push()
        trees = request.message_object_trees
        missing = [name for tree in trees for name in self.store.preregister(RUN, tree)]
        names = [tree.object_id for tree in trees]
        return PushAppMessagesResponse(message_ids=names, objects_to_push=missing, session_id="s")

    def PushObject(self, request):  # noqa: N802
        self.asked.append(request.object_id)
        self.store.put(request.object_id, request.object_content)
        return PushObjectResponse(stored=True)

    def PullMessages(self, _):  # noqa: N802
        honest = [(message_to_proto(each), get_object_tree(each)) for each in self.replies]
        told, trees = zip(*honest, *self.lies, strict=True)
        return PullAppMessagesResponse(messages_list=told, message_object_trees=trees)

    def PullObject(self, request):  # noqa: N802
        self.asked.append(request.object_id)
        content = self.store.get(request.object_id)
        there = {"object_found": content is not None, "object_available": bool(content)}
        return PullObjectResponse(**there, object_content=content)

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.store.delete(request.message_object_id)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The folder; what the shortcut replaces is put back afterwards."""
    for name in (NESTED, MAKE_PULL, INFLATE):
        monkeypatch.setattr(http_grid, name, getattr(http_grid, name))
    return ObjectFiles(tmp_path / "objects")


@pytest.fixture
def calls(files, tmp_path):
    store = FiledObjectStore(str(tmp_path / "state.db"), files)  # one in memory has one connection for all threads
    store.initialize()
    return Calls(store)


@pytest.fixture
def grid(calls, files, monkeypatch):
    """With the shortcut taken."""
    for name, value in {"_task_id": 1, "_run_id": RUN, "_node_id": 1}.items():
        monkeypatch.setattr(TaskIdentity, name, value)
    grid = HttpGrid(token="t")
    grid._run, grid._client = SimpleNamespace(run_id=RUN), calls
    take_shortcut(grid, files)
    return grid


def message(node, weights):
    content = RecordDict({"arrays": ArrayRecord({"w": weights}), "config": ConfigRecord({"node": node})})
    return Message(content, node, "train")


@pytest.fixture
def weights():
    """More than two of Flower's pieces of 5 MB, the first two of which are alike."""
    return Array(np.repeat(np.float32([0.0, 1.0]), [3 << 20, 5]))


def assert_same(one, two):
    assert one["config"] == two["config"]
    assert np.array_equal(one["arrays"]["w"].numpy(), two["arrays"]["w"].numpy())


def received(store, name):
    """The message as a site makes it of what the SuperLink gives it."""
    names = [node.object_id for node in iterate_object_tree(store.get_object_tree(name))]
    return inflate_object_from_contents(name, {each: store.get(each) for each in names})


def test_what_is_sent_is_never_asked_for(grid, calls, weights):
    messages = [message(node, weights) for node in (11, 12)]
    names = grid.push_messages(messages)
    assert calls.asked == []
    for name, sent in zip(names, messages, strict=True):
        assert_same(received(calls.store, name).content, sent.content)


def test_what_goes_at_that_moment_is_sent_over_https(grid, calls, files, weights):
    """The SuperLink deletes an earlier message with the same pieces after they were found to lie there."""
    earlier, later = message(11, weights), message(12, weights)
    (name,) = grid.push_messages([earlier])
    calls.before_push = lambda: calls.store.delete(name)
    (name,) = grid.push_messages([later])
    shared = set(get_all_nested_objects(weights))
    assert shared <= set(calls.asked)
    assert_same(received(calls.store, name).content, later.content)


def reply(calls, weights, left_out=()):
    """A reply that a site has sent, but for some of its objects."""
    sent = message(1, weights)
    sent.metadata.__dict__["_message_id"] = sent.object_id
    objects = get_all_nested_objects(sent)
    for name in calls.store.preregister(RUN, get_object_tree(sent)):
        if name not in left_out:
            calls.store.put(name, objects[name].deflate())
    calls.replies.append(sent)
    return sent


def test_what_is_received_is_read_from_its_file_and_goes_then(tmp_path, grid, calls, weights):
    sent = [reply(calls, weights), reply(calls, Array(np.ones(3, np.float32)))]
    for one, two in zip(grid.pull_messages(["a", "b"]), sent, strict=True):
        assert_same(one.content, two.content)
        assert one.metadata.message_id == two.metadata.message_id
    assert calls.asked == []
    assert (len(calls.store), list((tmp_path / "objects").iterdir())) == (0, [])


def test_what_has_not_come_yet_is_asked_for_over_https(grid, calls, weights):
    """Flower's own answer, so that it waits as it does without the shortcut, and is told what is lost."""
    last = next(iter(get_all_nested_objects(weights)))
    sent = reply(calls, weights, left_out=[last])
    pull = calls.PullObject

    def comes_after(request):
        answer = pull(request)
        calls.store.put(last, get_all_nested_objects(weights)[last].deflate())
        return answer

    calls.PullObject = comes_after
    (one,) = grid.pull_messages(["a"])
    assert_same(one.content, sent.content)
    assert calls.asked == [last]


def test_a_reply_that_is_gone_is_told_as_without_the_shortcut(grid, calls, weights):
    sent = reply(calls, weights)
    calls.store.delete(sent.object_id)
    (one,) = grid.pull_messages(["a"])
    assert one.has_error()
    assert calls.asked


def as_object(kind, body, *children):
    """An object of Flower's of that kind, with its name."""
    content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body
    return hashlib.sha256(content).hexdigest(), content


BROKEN = {
    "an array of no chunk": (
        "Array",
        b'{"dtype": "<f4", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": [0]}',
    ),
    "an array that is no JSON": ("Array", b"rubbish"),
    "a record in the place of all": ("ConfigRecord", b"rubbish"),
}


def lie(calls, metadata, body, *parts):
    """A reply with such a message as its own object; the SuperLink took it as one to `asked`, by node 5."""
    root, content = as_object("Message", body, *(name for name, _ in parts))
    tree = ObjectTree(object_id=root, children=[ObjectTree(object_id=name) for name, _ in parts])
    calls.store.preregister(RUN, tree)
    for name, each in (*parts, (root, content)):
        calls.store.put(name, each)
    metadata = {"run_id": RUN, "src_node_id": 5, "reply_to_message_id": "asked", "message_type": "train"} | metadata
    calls.lies.append((ProtoMessage(metadata=ProtoMetadata(message_id=root, **metadata)), tree))
    return root


def taken_from(grid):
    """What is said of the one reply: its error, what it answers, by whom, and its id."""
    (one,) = grid.pull_messages(["asked"])
    told = one.metadata
    return wire.read_error(one), told.reply_to_message_id, told.src_node_id, told.message_id


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_reply_that_is_no_message_has_no_result_and_is_its_sender_s(grid, calls, broken):
    """The site is named, and the run goes on with the others."""
    root = lie(calls, {}, b"", as_object(*broken))
    assert taken_from(grid) == ("no-result", "asked", 5, root)


def test_a_reply_whose_own_object_is_no_message_is_its_sender_s_too(grid, calls):
    root = lie(calls, {}, b"\xff\xff rubbish")
    assert taken_from(grid) == ("no-result", "asked", 5, root)


def test_a_reply_that_names_another_sender_and_question_is_taken_as_what_it_is(grid, calls):
    other = ProtoMetadata(run_id=RUN, src_node_id=6, reply_to_message_id="another's", message_type="train")
    error = ProtoError(code=3, reason="a lie")
    root = lie(calls, {}, ProtoMessage(metadata=other, error=error).SerializeToString())
    assert taken_from(grid) == ("flower-3", "asked", 5, root)
