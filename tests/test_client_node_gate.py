"""The gate with Flower's own two steps, node state and object store, in this process: no network and no ClientApp."""

import dataclasses
import hashlib
import importlib
import json
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.supercore.task_identity import TaskIdentity

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer's use of click, not ours
    from flwr.supercore.fab import Fab
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
    from flwr.supercore.object_store import ObjectStoreFactory
    from flwr.supercore.run import Run, RunNotRunningException
    from flwr.supernode import start_client_internal as flower
    from flwr.supernode.nodestate import NodeStateFactory

from client import node_gate, node_messages
from client.approval import Approvals
from client.audit import AuditLog
from client.node_gate import Gate
from client.node_queue import Link
from common import wire
from common.recipe import Recipe
from common.split import SplitConfig
from common.tasks import NormalisationRecord, ProgressTask, SiteProgress, SiteStatistics, StatisticsTask, TrainTask

SECRET = "Mustermann^Erika"
RUN = 4711


@pytest.fixture(autouse=True)
def identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("task_id", 1), ("run_id", RUN), ("node_id", 1)):
        monkeypatch.setattr(TaskIdentity, f"_{name}", value)


def task() -> RecordDict:
    return wire.task_record(StatisticsTask(experiment="e", recipe=Recipe(), split=SplitConfig()))


def done() -> RecordDict:
    return wire.statistics_reply(SiteStatistics(train=9, validation=1, test=1, seconds=1.0), None)


@dataclass
class Coordinator:
    """What the other side holds: one message, the run and its bundle; and what it was sent."""

    bundle: bytes
    stated: str = ""
    content: RecordDict = field(default_factory=task)
    kind: str = wire.STATISTICS
    sent: list[Message] = field(default_factory=list)
    bytes_received: bytes = b""
    confirmed: int = 0
    alone: Any = field(default_factory=threading.Lock)

    def receive(self) -> Any:
        self.message = Message(self.content, 1, self.kind)
        self.message.metadata.__dict__["_message_id"] = self.message.object_id
        self.objects = {name: each.deflate() for name, each in get_all_nested_objects(self.message).items()}
        bare = Message(RecordDict(), 1, self.kind)
        bare.__dict__.update(_metadata=self.message.metadata, _content=None)
        return bare, get_object_tree(self.message)

    def get_run(self, run_id: int) -> Run:
        run = Run.create_empty(run_id)
        run.fab_hash = self.stated or hashlib.sha256(self.bundle).hexdigest()
        return run

    def get_fab(self, fab_hash: str, _run_id: int) -> Fab:
        return Fab(fab_hash, self.bundle, {})

    def pull_object(self, _run_id: int, name: str) -> bytes:
        return self.objects[name]

    def confirm(self, *_: Any) -> None:
        self.confirmed += 1

    def send(self, message: Message, tree: Any, _seconds: float) -> tuple[set[str], str]:
        self.sent.append(message)
        self.tree, self.arrived = tree, dict[str, bytes]()
        names, todo = set(), [tree]
        while todo:
            each = todo.pop()
            names.add(each.object_id)
            todo += each.children
        return names, "session"

    def push_object(self, run_id: int, session: str, name: str, content: bytes) -> None:
        assert (run_id, session) == (RUN, "session")
        assert hashlib.sha256(content).hexdigest() == name
        with self.alone:
            self.arrived[name] = content
            self.bytes_received += content

    @property
    def reply(self) -> Message:
        """The last reply, put together as the coordinator does."""
        whole = inflate_object_from_contents(self.tree.object_id, dict(self.arrived))
        assert isinstance(whole, Message)
        assert self.sent[-1].metadata.reply_to_message_id == self.message.metadata.message_id
        return whole


class Node:
    """Flower's state and store with the gate before them."""

    def __init__(self, config: Path, own: str) -> None:
        store = ObjectStoreFactory()
        self.state, self.store = NodeStateFactory(store).state(), store.store()
        self.state.set_node_id(1)
        self.gate = Gate(config, own, flower)

    def take(self, side: Coordinator) -> int | None:
        return self.gate.pull(
            state=self.state, object_store=self.store, node_config={}, receive=side.receive, get_run=side.get_run,
            get_fab=side.get_fab, pull_object=side.pull_object, confirm_message_received=side.confirm,
            trusted_entities=None,
        )  # fmt: skip

    def work(self, side: Coordinator, content: RecordDict | Error) -> None:
        """What a ClientApp's process does."""
        (asked,) = self.state.get_messages_legacy(is_reply=False)
        flower._insert_message(Message(content, reply_to=asked), self.state, self.store)  # type: ignore[arg-type]

    def give(self, side: Coordinator) -> None:
        self.gate.push(state=self.state, object_store=self.store, send=side.send, push_object=side.push_object)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "site.yaml").write_text(json.dumps({"site": "A"}))
    return tmp_path / "site.yaml"


def events(config: Path) -> list[tuple[str, str]]:
    audit = AuditLog(config.parent / "state").read()
    assert audit.faults == ()
    return [(line["event"], str(line.get("decision", line.get("error", "")))) for line in audit.records]


def test_the_release_s_own_code_and_a_good_reply_pass(config: Path, own_bundle: bytes) -> None:
    side = Coordinator(own_bundle)
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    assert node.take(side) == RUN
    assert side.confirmed == 1
    node.work(side, done())
    node.give(side)
    assert wire.read_result(side.reply, SiteStatistics).train == 9
    assert events(config) == [("task", ""), ("code", "accepted"), ("decision", "admitted"), ("outgoing", "")]
    assert node.store.get(side.sent[-1].metadata.message_id) is None
    assert node.take(side) == RUN  # the code is asked for once a run
    assert events(config)[4:] == [("task", ""), ("decision", "admitted")]


@pytest.mark.parametrize("way", ["unapproved-code", "tampered-code", "hostile-code"])
def test_other_code_starts_nothing_and_is_answered_by_a_code(
    config: Path, own_bundle: bytes, pack_bundle: Any, way: str
) -> None:
    other = pack_bundle(client__app=b"app = 2\n")
    side = {
        "unapproved-code": Coordinator(other),
        "tampered-code": Coordinator(own_bundle + b"\0", stated=hashlib.sha256(own_bundle).hexdigest()),
        "hostile-code": Coordinator(other + b"evil"),
    }[way]
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    assert node.take(side) == RUN
    assert node.state.get_messages_legacy(is_reply=False) == []  # no task that a ClientApp could be started for
    assert node.state.get_run(RUN) is None
    node.give(side)
    assert wire.read_error(side.reply) == way
    assert events(config) == [("task", ""), ("code", way), ("outgoing", way)]
    assert len(Approvals(config.parent / "state").waiting()) == (way == "unapproved-code")


def test_code_that_is_approved_meanwhile_runs_without_a_restart(
    config: Path, own_bundle: bytes, pack_bundle: Any
) -> None:
    side = Coordinator(own_bundle)
    node = Node(config, "0" * 64)
    node.take(side)
    node.give(side)
    assert wire.read_error(side.reply) == "unapproved-code"
    Approvals(config.parent / "state").approve(own_bundle)
    node.take(side)
    node.work(side, done())
    node.give(side)
    assert wire.read_error(side.reply) is None


def test_what_the_policy_forbids_is_not_begun(config: Path, own_bundle: bytes) -> None:
    config.write_text(json.dumps({"site": "A", "policy": {"tasks": ["train"]}}))
    side = Coordinator(own_bundle)
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    assert node.state.get_messages_legacy(is_reply=False) == []
    node.give(side)
    assert wire.read_error(side.reply) == "policy-task"


@pytest.mark.parametrize(
    "reply",
    [
        Error(3, f"<class 'OSError'>:<'/data/{SECRET}/ct.dcm'>"),
        RecordDict({wire.RESULT: ConfigRecord({wire.ERROR: SECRET})}),
        RecordDict({SECRET: ConfigRecord({"text": SECRET})}),
        RecordDict({"x": ArrayRecord({SECRET: Array(np.frombuffer(SECRET.encode(), np.uint8))})}),
    ],
)
def test_words_of_the_work_do_not_reach_the_coordinator(config: Path, own_bundle: bytes, reply: Any) -> None:
    side = Coordinator(own_bundle)
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    node.work(side, reply)
    node.give(side)
    assert wire.read_error(side.reply) in {"crashed", "failed", "policy-reply"}
    everything = side.bytes_received + repr(side.sent).encode()
    assert b"Mustermann" not in everything
    assert b"Erika" not in everything


def forge(node: Node, message_id: str) -> None:
    """What hostile code that is still alive can do: put a reply to any message beside Flower's own."""
    asked = Message(RecordDict(), 1, wire.STATISTICS)
    asked.metadata.__dict__["_message_id"] = message_id
    forged = Message(RecordDict({SECRET: ConfigRecord({"text": SECRET})}), reply_to=asked)
    flower._insert_message(forged, node.state, node.store)


@pytest.mark.parametrize("first", [True, False], ids=["before the refusal", "after it"])
def test_a_forged_reply_to_a_refused_message_does_not_leave(
    config: Path, own_bundle: bytes, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    side = Coordinator(own_bundle, content=RecordDict({"x": ConfigRecord({"a": 1})}))
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    insert = node.gate._insert
    order = [insert, lambda *_: forge(node, side.message.metadata.message_id)]
    monkeypatch.setattr(node.gate, "_insert", lambda *given: [each(*given) for each in order[:: -1 if first else 1]])
    node.take(side)
    node.give(side)
    assert wire.read_error(side.reply) == "bad-task"
    assert len(side.sent) == 1
    assert b"Mustermann" not in side.bytes_received + repr(side.sent).encode()
    assert events(config)[-2:] == [("outgoing", "bad-task"), ("decision", "unasked-reply")]


def test_a_reply_that_answers_nothing_is_held_back_and_noted(config: Path, own_bundle: bytes) -> None:
    side = Coordinator(own_bundle)
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    forge(node, "f" * 64)
    node.work(side, done())
    node.give(side)
    assert [each.metadata.reply_to_message_id for each in side.sent] == [side.message.metadata.message_id]
    assert b"Mustermann" not in side.bytes_received + repr(side.sent).encode()
    assert ("decision", "unasked-reply") in events(config)


@pytest.mark.parametrize("to_the_task", [True, False])
def test_a_reply_stored_under_another_id_is_held_back_and_the_node_lives(
    config: Path, own_bundle: bytes, to_the_task: bool
) -> None:
    side = Coordinator(own_bundle)
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    asked = Message(RecordDict(), 1, wire.STATISTICS)
    asked.metadata.__dict__["_message_id"] = side.message.metadata.message_id if to_the_task else "f" * 64
    forged = Message(RecordDict({SECRET: ConfigRecord({"text": SECRET})}), reply_to=asked)
    tree = get_object_tree(forged)
    forged.metadata.__dict__["_message_id"] = SECRET
    session = node.state.start_session(RUN)
    stored = message_from_proto(message_to_proto(forged))
    assert node.state.store_message_and_object_tree(stored, tree, session)[0]
    node.give(side)
    assert b"Mustermann" not in side.bytes_received + repr(side.sent).encode()
    assert "Mustermann" not in (config.parent / "state" / "audit.jsonl").read_text()
    held, sent = ("decision", "unasked-reply"), ("outgoing", "work-failed")
    assert events(config)[-1] == (sent if to_the_task else held)


def test_a_task_is_on_record_also_when_site_yaml_cannot_be_read(config: Path, own_bundle: bytes) -> None:
    side = Coordinator(own_bundle)
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    config.write_text("{site: A, policy: {quiet_hour: []}}")
    node.take(side)
    node.give(side)
    assert wire.read_error(side.reply) == "bad-config"
    assert events(config) == [("task", ""), ("decision", "bad-config"), ("outgoing", "bad-config")]


def test_a_broken_message_is_answered_and_the_node_lives(config: Path, own_bundle: bytes) -> None:
    side = Coordinator(own_bundle, content=RecordDict({"x": ConfigRecord({"a": 1})}))
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    node.give(side)
    assert wire.read_error(side.reply) == "bad-task"


def test_objects_that_are_not_what_they_say_are_answered(config: Path, own_bundle: bytes) -> None:
    side = Coordinator(own_bundle)
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    side.pull_object = lambda run, name: b"rubbish"  # type: ignore[method-assign]
    node.take(side)
    node.give(side)
    assert wire.read_error(side.reply) == "bad-task"
    assert events(config) == [("task", ""), ("code", "accepted"), ("outgoing", "bad-task")]


def test_a_site_whose_files_are_broken_answers_by_code_alone(config: Path, own_bundle: bytes) -> None:
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    (config.parent / "state").touch()  # no folder can be made there
    side = Coordinator(own_bundle)
    node.take(side)
    node.give(side)
    assert wire.read_error(side.reply) == "audit"
    (config.parent / "state").unlink()
    config.write_text(f"site: [{SECRET}")
    node.take(side)
    node.give(side)
    assert wire.read_error(side.reply) == "bad-config"
    assert b"Mustermann" not in side.bytes_received


def test_a_reply_that_is_never_stored_whole_is_a_crash(
    config: Path, own_bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_messages, "OBJECTS_S", 0.0)
    side = Coordinator(own_bundle)
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    node.work(side, done())
    monkeypatch.setattr(node.store, "get", lambda name: b"")
    node.give(side)
    assert wire.read_error(side.reply) == "worker-lost"


def test_no_message_is_no_work(config: Path, own_bundle: bytes) -> None:
    side = Coordinator(own_bundle)
    side.receive = lambda: None  # type: ignore[method-assign]
    assert Node(config, "").take(side) is None


def test_the_gate_is_put_in_flower_s_loop(monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    process = importlib.import_module("client.node_process")
    for name in (node_gate.PULL, node_gate.PUSH):
        monkeypatch.setattr(flower, name, getattr(flower, name))
    gate = Gate(config, "", flower)
    process.install(gate)
    assert (flower._pull_and_store_message, flower._push_messages) == (gate.pull, gate.push)


@dataclass
class Busy(Coordinator):
    """Sends what is put into `coming`, one message at a time, and keeps every reply by what it answers."""

    coming: list[tuple[str, RecordDict]] = field(default_factory=list)
    answers: list[tuple[str, Message]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def receive(self) -> Any:
        if not self.coming:
            return None
        self.kind, self.content = self.coming.pop(0)
        before = dict(getattr(self, "objects", {}))
        received = super().receive()
        self.objects = before | self.objects
        self.ids.append(self.message.metadata.message_id)
        return received

    def send(self, message: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
        told = super().send(message, tree, seconds)
        self.answers.append((message.metadata.message_type, message))
        return told

    def last(self) -> SiteProgress:
        return wire.read_result(self.answers[-1][1], SiteProgress)


def asks(experiment: str = "e") -> tuple[str, RecordDict]:
    return wire.PROGRESS, wire.task_record(ProgressTask(experiment=experiment))


TRAIN = TrainTask(
    experiment="e", recipe=Recipe(), split=SplitConfig(), model="m", step=1, round=2, epochs_done=3, local_epochs=3,
    epochs_total=9, lr0=0.1, seed=1, normalisation=NormalisationRecord(mean=0, sd=1),
)  # fmt: skip


def a_round() -> tuple[str, RecordDict]:
    content = wire.task_record(TRAIN)
    content[wire.ARRAYS] = wire.pack_weights({"stage1.a": np.zeros(3, np.float32)})
    return wire.TRAIN, content


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What happens, one after another, at each of the waits of Flower's step for a reply."""
    happens: list[Any] = []
    monkeypatch.setattr(flower.time, "sleep", lambda _: happens.pop(0)())
    monkeypatch.setattr(node_gate, "POLL_S", 0.0)
    return happens


def test_an_idle_site_says_so_in_one_line_of_the_log(config: Path, own_bundle: bytes) -> None:
    config.write_text(json.dumps({"site": "A", "policy": {"tasks": [], "quiet_hours": ["00:00-00:00"]}}))
    side, node = Busy(own_bundle, coming=[asks()]), Node(config, "")
    assert node.take(side) == RUN
    assert node.state.get_messages_legacy(is_reply=False) == []
    node.give(side)
    assert side.last() == SiteProgress(state="idle")
    assert wire.read_result(side.reply, SiteProgress) == SiteProgress()
    assert events(config) == [("outgoing", "")]
    (line,) = AuditLog(config.parent / "state").read().records
    assert (line["kind"], line["state"], line["run"]) == (wire.PROGRESS, "idle", str(RUN))
    assert node.take(side) is None


def test_a_site_at_work_tells_how_far_it_is_and_other_tasks_wait(
    config: Path, own_bundle: bytes, waiting: list[Any]
) -> None:
    side = Busy(own_bundle, coming=[a_round()])
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    work = config.parent / "work"
    work.mkdir(exist_ok=True)
    forged = {"state": "training", "epoch": 4, "epochs": 99, "model": "forged", "round": 77, "error": "audit"}
    told: list[SiteProgress] = []

    def ask(*coming: tuple[str, RecordDict]) -> None:
        if side.answers:
            told.append(side.last())
        side.coming += coming

    waiting += [
        lambda: ask(asks()),
        lambda: ask((wire.STATISTICS, task()), asks("another")),
        lambda: ((work / "progress.json").write_text(json.dumps(forged)), ask(asks())),
        lambda: (ask(), node.work(side, wire.code_reply("work-failed"))),
    ]
    node.give(side)
    assert [(each.state, each.model, each.round, each.epoch, each.epochs, each.error) for each in told] == [
        ("queued", "m", 2, 0, 6, None),
        ("queued", None, None, 0, 0, None),
        ("training", "m", 2, 4, 6, None),
    ]
    assert [kind for kind, _ in side.answers] == [wire.PROGRESS] * 3 + [wire.TRAIN]
    assert not (work / "progress.json").exists()

    side.coming += [asks()]
    node.take(side)  # the statistics, which waited; who asks is answered first once it is seen
    node.work(side, done())
    waiting += [lambda: None]
    node.give(side)
    assert [kind for kind, _ in side.answers][4:] == [wire.STATISTICS]
    node.take(side)
    node.give(side)
    assert side.last() == SiteProgress(state="idle")
    lines = AuditLog(config.parent / "state").read().records
    assert [line["event"] for line in lines if line["kind" if "kind" in line else "event"] == wire.PROGRESS] == (
        ["outgoing"] * 4
    )


def test_who_asks_is_answered_before_a_task_that_waits_beside(config: Path, own_bundle: bytes) -> None:
    side = Busy(own_bundle, coming=[asks(), a_round(), asks()])
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    for _ in range(2):
        node.take(side)
        node.give(side)
        assert side.last().state == "queued"
    node.take(side)
    (asked,) = node.state.get_messages_legacy(is_reply=False)
    assert asked.metadata.message_type == wire.TRAIN


def test_the_code_of_the_last_task_is_told(config: Path, own_bundle: bytes) -> None:
    side = Busy(own_bundle, coming=[a_round()])
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    node.work(side, wire.code_reply("disk-full"))
    node.give(side)
    side.coming += [asks()]
    node.take(side)
    node.give(side)
    assert side.last() == SiteProgress(state="idle", error="disk-full")


def ended_in_an_error(config: Path, own_bundle: bytes) -> tuple[Busy, Node]:
    """A site whose round for experiment `e` ended in `disk-full`."""
    side = Busy(own_bundle, coming=[a_round()])
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    node.work(side, wire.code_reply("disk-full"))
    node.give(side)
    return side, node


def told(side: Busy, node: Node, experiment: str) -> SiteProgress:
    side.coming += [asks(experiment)]
    node.take(side)
    node.give(side)
    return side.last()


def test_an_error_is_told_to_its_own_experiment_alone(config: Path, own_bundle: bytes) -> None:
    side, node = ended_in_an_error(config, own_bundle)
    assert told(side, node, "another").error is None
    assert told(side, node, "e").error == "disk-full"


@pytest.mark.parametrize(("experiment", "error"), [("another", None), ("e", "disk-full")])
def test_an_error_is_old_once_a_task_of_another_experiment_begins(
    config: Path, own_bundle: bytes, waiting: list[Any], experiment: str, error: str | None
) -> None:
    side, node = ended_in_an_error(config, own_bundle)
    content = a_round()[1]
    content[wire.CONFIG] = wire.task_config(TRAIN.model_copy(update={"round": 3, "experiment": experiment}))
    side.coming += [(wire.TRAIN, content)]
    node.take(side)
    during: list[SiteProgress] = []
    waiting += [
        lambda: side.coming.append(asks("e")),
        lambda: (during.append(side.last()), node.work(side, wire.code_reply("out-of-memory"))),
    ]
    node.give(side)
    assert [each.error for each in during] == [error]
    assert told(side, node, experiment).error == "out-of-memory"


def test_the_code_of_a_refusal_is_told_to_its_experiment(config: Path, own_bundle: bytes) -> None:
    side, node = ended_in_an_error(config, own_bundle)
    config.write_text(json.dumps({"site": "A", "policy": {"tasks": ["train"]}}))
    content = wire.task_record(StatisticsTask(experiment="another", recipe=Recipe(), split=SplitConfig()))
    side.coming += [(wire.STATISTICS, content)]
    node.take(side)
    node.give(side)
    assert told(side, node, "another").error == "policy-task"
    assert told(side, node, "e").error is None


@pytest.mark.parametrize("stage", ["before it starts", "at work"])
def test_a_process_that_ends_without_a_reply_is_answered_for_at_once(
    config: Path, own_bundle: bytes, waiting: list[Any], stage: str
) -> None:
    side = Busy(own_bundle, coming=[a_round()])
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    (work,) = node.state.get_tasks()
    assert node.state.claim_task(work.task_id)
    if stage == "at work":
        node.state.activate_task(work.task_id)
        (asked,) = node.state.get_messages_legacy(is_reply=False)
        assert asked.metadata.message_type == wire.TRAIN
    waiting += [lambda: None, lambda: node.state.finish_task(work.task_id, "failed", "killed"), lambda: None]
    node.give(side)
    assert wire.read_error(side.reply) == "worker-lost"
    assert events(config)[-1] == ("outgoing", "worker-lost")
    assert node.store.get(side.ids[0]) is None  # the model that was sent for it goes too
    side.coming += [asks(), a_round()]
    node.take(side)
    node.give(side)
    assert (side.last().state, side.last().error) == ("queued", "worker-lost")
    assert node.take(side) == RUN  # and the next task is taken


def test_a_reply_that_came_before_its_process_ended_is_sent(config: Path, own_bundle: bytes) -> None:
    side = Coordinator(own_bundle)
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    node.work(side, done())
    (work,) = node.state.get_tasks()
    node.state.finish_task(work.task_id, "failed", "killed on its way out")
    node.give(side)
    assert wire.read_result(side.reply, SiteStatistics).train == 9


def test_half_a_reply_of_a_process_that_died_over_it_is_not_waited_for(config: Path, own_bundle: bytes) -> None:
    side = Coordinator(own_bundle)
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    (asked,) = node.state.get_messages_legacy(is_reply=False)
    reply = Message(done(), reply_to=asked)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    bare = message_from_proto(message_to_proto(remove_content_from_message(reply)))
    node.state.store_message_and_object_tree(bare, get_object_tree(reply), node.state.start_session(RUN))
    (work,) = node.state.get_tasks()
    node.state.finish_task(work.task_id, "failed", "killed")
    node.give(side)
    assert wire.read_error(side.reply) == "worker-lost"


def test_a_network_that_is_away_ends_no_work(config: Path, own_bundle: bytes, waiting: list[Any]) -> None:
    side = Busy(own_bundle, coming=[(wire.STATISTICS, task())])
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)

    def away() -> Any:
        raise RunNotRunningException if len(waiting) == 1 else OSError("network is unreachable")

    side.receive = away  # type: ignore[method-assign]
    node.gate._link = Link(away, side.pull_object, side.confirm, side.get_run)
    waiting += [lambda: None, lambda: None, lambda: node.work(side, done())]
    node.give(side)
    assert wire.read_result(side.reply, SiteStatistics).train == 9


def test_a_question_that_cannot_be_read_is_answered_by_a_code(config: Path, own_bundle: bytes) -> None:
    side = Busy(own_bundle, coming=[(wire.PROGRESS, RecordDict({"x": ConfigRecord({"a": 1})}))])
    node = Node(config, "")
    node.take(side)
    node.give(side)
    assert wire.read_error(side.reply) == "bad-task"
    assert events(config) == [("outgoing", "bad-task")]


@pytest.mark.parametrize("how", ["the run was stopped", "another round", "the same round again", "another run"])
def test_a_round_that_nobody_waits_for_is_left_off(
    config: Path, own_bundle: bytes, waiting: list[Any], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(node_gate, "RUN_POLL_S", 0.0)
    side = Busy(own_bundle, coming=[a_round()])
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    node.take(side)
    unwanted = config.parent / "work" / "unwanted"
    unwanted.parent.mkdir(exist_ok=True)

    def happen() -> None:
        content = a_round()[1]
        if how == "the run was stopped":
            assert node.gate._link is not None
            monkeypatch.setattr(node.gate, "_link", dataclasses.replace(node.gate._link, get_run=stopped))
        elif how != "the same round again":
            content[wire.CONFIG] = wire.task_config(TRAIN.model_copy(update={"round": 3}))
        if how != "the run was stopped":
            side.coming.append((wire.TRAIN, content))
        if how == "another run":
            monkeypatch.setattr(TaskIdentity, "_run_id", RUN + 1)

    def stopped(_run_id: int) -> Run:
        raise RunNotRunningException

    left_off: list[bool] = []
    waiting += [happen, lambda: left_off.append(unwanted.exists()), lambda: node.work(side, wire.code_reply("audit"))]
    node.give(side)
    assert left_off == [how in ("the run was stopped", "another round")]
    assert not unwanted.exists()
    assert node.gate._error == (None if left_off[0] else ("e", "audit"))  # what is left off is no fault
    if how == "another round":
        assert node.take(side) == RUN  # from memory: its objects were fetched already, and were confirmed
        assert side.confirmed == 2


def test_a_slow_site_trains_the_latest_round_alone_and_says_so_in_its_log(config: Path, own_bundle: bytes) -> None:
    later = [wire.task_record(TRAIN.model_copy(update={"round": number})) for number in (3, 4, 5)]
    side = Busy(own_bundle, coming=[(wire.TRAIN, content) for content in later])
    node = Node(config, hashlib.sha256(own_bundle).hexdigest())
    assert node.take(side) == RUN
    assert events(config)[:4] == [("task", ""), ("decision", "passed-over")] * 2
    lines = [line for line in AuditLog(config.parent / "state").read().records if line["event"] == "task"]
    assert [line["message"] for line in lines] == side.ids
    node.work(side, wire.code_reply("work-failed"))
    node.give(side)
    assert [reply.metadata.reply_to_message_id for _, reply in side.answers] == [side.ids[2]]
    assert node.take(side) is None
