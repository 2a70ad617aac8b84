"""A model's way through a site without a network: the gate, Flower's node, and what its ClientApp's process does."""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer's use of click, not ours
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        no_object_id_recompute,
    )
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from test_client_node_gate import RUN, TRAIN, Coordinator, Node, events

from client.handover import VARIABLE, handed_over
from client.task_input import hand_over, take_in
from common import wire
from common.objects import RemoteChunk
from common.tasks import TrainResult

SENT = {"stage1.w": np.linspace(-1, 1, 3_000_000, dtype=np.float32).reshape(3, -1), "stage1.b": np.zeros(7, np.float32)}
TRAINED = {name: value + np.float32(0.25) for name, value in SENT.items()}
RESULT = TrainResult(model=TRAIN.model, round=TRAIN.round, num_examples=4, validation_dsc=None, seconds=1.0, epochs=())


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("task_id", 1), ("run_id", RUN), ("node_id", 1)):
        monkeypatch.setattr(TaskIdentity, f"_{name}", value)


class Once(Coordinator):
    """That sends its message once."""

    def receive(self) -> Any:
        return None if hasattr(self, "message") else super().receive()


class Site(Node):
    """A node that was sent a model to train; of 12 MB, three parts of it."""

    def __init__(self, config: Path, bundle: bytes, transport: str = "fp32") -> None:
        super().__init__(config, hashlib.sha256(bundle).hexdigest())
        self.folder = config.parent / "work" / "handover"
        self.task = TRAIN.model_copy(update={"transport": transport})
        content = wire.task_record(self.task)
        content[wire.ARRAYS] = wire.pack_weights(SENT, transport)
        self.side = Once(bundle, content=content, kind=wire.TRAIN)
        self.taken = self.take(self.side)

    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []

    def pulled(self) -> Message:
        """What the ClientApp's process gets."""
        (asked,) = self.state.get_messages_legacy(is_reply=False)
        calls: list[str] = []

        def pull(name: str) -> bytes:
            calls.append(name)
            content = self.store.get(name)
            assert content
            return content

        whole = take_in(get_object_tree(self.side.message), pull, self.store.delete)
        assert isinstance(whole, Message)
        whole.metadata.__dict__["_message_id"] = asked.metadata.message_id
        self.calls = calls
        return whole

    def reply(self, asked: Message, meanwhile: Callable[[], None] = lambda: None) -> None:
        """What Flower's process does after the ClientApp."""
        received = wire.record_to_weights(wire.records(asked.content, ArrayRecord)[wire.ARRAYS])
        content = wire.train_reply(TRAINED, received, RESULT, self.task.transport, handed_over)
        reply = Message(content, reply_to=asked)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            bare = message_from_proto(message_to_proto(remove_content_from_message(reply)))
            session = self.state.start_session(RUN)
            stored, missing = self.state.store_message_and_object_tree(bare, get_object_tree(reply), session)
            assert stored
            hand_over(get_all_nested_objects(reply), self.store.put, object_ids_to_push=set(missing))
        meanwhile()
        self.give(self.side)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "site.yaml").write_text(json.dumps({"site": "A"}))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "work" / "handover"))
    return tmp_path / "site.yaml"


def arrived(side: Coordinator) -> Message:
    whole = inflate_object_from_contents(side.tree.object_id, dict(side.arrived))
    assert isinstance(whole, Message)
    return whole


def weights_of(message: Message) -> dict[str, np.ndarray]:
    return wire.record_to_weights(wire.records(message.content, ArrayRecord)[wire.ARRAYS])


@pytest.mark.parametrize("transport", ["fp32", "fp16"])
def test_a_model_comes_and_goes_by_files_and_nothing_of_it_stays(
    config: Path, own_bundle: bytes, transport: str
) -> None:
    site = Site(config, own_bundle, transport)
    assert site.taken == RUN
    num_parts = 3 if transport == "fp32" else 2
    assert len(site.files()) == num_parts
    in_memory = sum(len(site.store.get(name) or b"") for name in site.side.objects)
    assert 0 < in_memory < 10_000
    asked = site.pulled()
    assert len(site.calls) == len(site.side.objects) - num_parts
    assert all(np.array_equal(weights_of(asked)[name], SENT[name].astype("f2" if transport == "fp16" else "f4"))
               for name in SENT)  # fmt: skip
    site.reply(asked)
    assert len(site.files()) == 2 * num_parts
    sent = wire.unpacked(wire.records(arrived(site.side).content, ArrayRecord)[wire.ARRAYS])
    expected = wire.unpacked(wire.pack_trained(TRAINED, weights_of(asked), transport))
    assert {name: each.tobytes() for name, each in sent.arrays().items()} == {
        name: each.tobytes() for name, each in expected.arrays().items()
    }
    assert events(config)[-1] == ("outgoing", "")
    assert site.take(site.side) is None
    assert site.files() == []


@pytest.mark.parametrize("policy", [{"clip_norm": 0.5}, {"local_layers": ["*.b"]}])
def test_a_policy_that_changes_the_model_sees_it_whole(config: Path, own_bundle: bytes, policy: dict[str, Any]) -> None:
    config.write_text(json.dumps({"site": "A", "policy": policy}))
    site = Site(config, own_bundle)
    site.reply(site.pulled())
    found = weights_of(arrived(site.side))
    step = np.sqrt(sum(np.sum((found[name] - SENT[name]).astype(np.float64) ** 2) for name in found))
    assert (set(found), step < 0.51) == ((set(SENT), True) if "clip_norm" in policy else ({"stage1.w"}, False))


@pytest.mark.parametrize("content", [None, b"ArrayChunk  70000\0" + b"x" * 70_000], ids=["gone", "other bytes"])
@pytest.mark.parametrize("of", ["what was sent", "the reply"])
def test_what_was_changed_on_the_way_does_not_leave(
    config: Path, own_bundle: bytes, of: str, content: bytes | None
) -> None:
    """The policy's limits are taken of what the coordinator sent: who changes that could pass any update for small."""
    site = Site(config, own_bundle)
    before, asked = site.files(), site.pulled()

    def change() -> None:
        path = before[0] if of == "what was sent" else next(each for each in site.files() if each not in before)
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    is_gone = content is None and of == "the reply"
    if is_gone:
        site.state.finish_task(site.state.get_tasks()[0].task_id, "failed", "")  # nobody will put it there any more
    site.reply(asked, change)
    assert wire.read_error(arrived(site.side)) == ("worker-lost" if is_gone else "policy-reply")
    assert max(map(len, site.side.arrived.values())) < 10_000


def test_what_changes_after_it_was_judged_is_not_sent(
    config: Path, own_bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(config, own_bundle)
    before, asked = site.files(), site.pulled()
    border = type(site.gate._border)
    leave = border.leave

    def leave_and_change(*given: Any) -> Message:
        leaving: Message = leave(*given)
        for path in site.files():
            if path not in before:
                path.write_bytes(path.read_bytes().replace(b"\0", b"\1"))
        return leaving

    monkeypatch.setattr(border, "leave", leave_and_change)
    site.reply(asked)
    assert all(len(content) < 10_000 for content in site.side.arrived.values())


def test_a_folder_that_cannot_be_used_costs_no_round(config: Path, own_bundle: bytes) -> None:
    (config.parent / "work").mkdir()
    (config.parent / "work" / "handover").write_text("a file")
    site = Site(config, own_bundle)
    site.reply(site.pulled())
    assert all(np.array_equal(weights_of(arrived(site.side))[name], TRAINED[name]) for name in SENT)


def test_code_of_another_release_gets_all_by_calls(config: Path, own_bundle: bytes) -> None:
    site = Site(config, own_bundle)
    parts = {path.name for path in site.files()}
    got = {name: site.gate.handed_over(name) or site.store.get(name) for name in site.side.objects}
    assert got == site.side.objects
    assert parts < got.keys()


def test_parts_are_remote_where_there_is_room(config: Path, own_bundle: bytes) -> None:
    site = Site(config, own_bundle)
    vector = wire.pack_weights(TRAINED, put=handed_over)[wire.PACKED]
    assert all(isinstance(each, RemoteChunk) for _, each in vars(vector)["_chunks"])
    assert Array(np.frombuffer(vector.data, np.uint8)).numpy().size > 12_000_000
    assert len(site.files()) == 6
