"""Sites that a test scripts: their replies, the grid that carries them, and time that only waiting moves on."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from common import wire
from common.errors import WorkError
from common.recipe import Recipe
from common.split import SplitConfig
from common.tasks import EpochRecord, NormalisationRecord, SiteProgress, TrainResult, TrainTask
from server import patience, rounds, sites, waiting, watch

NODES = {"A": 11, "B": 22, "C": 33}
TASK = TrainTask(
    experiment="tiny",
    recipe=Recipe(),
    split=SplitConfig(),
    model="m",
    step=1,
    round=3,
    epochs_done=4,
    local_epochs=2,
    epochs_total=8,
    lr0=0.1,
    seed=1,
    normalisation=NormalisationRecord(mean=0, sd=1),
)
IDLE = {"state": "idle", "epoch": 0, "epochs": 0, "seconds": 0.0}


def result(num_examples: int = 4, **more: Any) -> TrainResult:
    """What a site tells with weights that answer `TASK`."""
    epochs = (EpochRecord(epoch=0, lr=0.1, losses={"stage1": 0.5}),)
    told = {"model": "m", "round": 3, "epochs": epochs, "validation_dsc": None, "seconds": 1.0, **more}
    return TrainResult(num_examples=num_examples, **told)


def answer(content: RecordDict, to: Message | None = None) -> Message:
    """A reply, to a message of its own where `to` is not given."""
    return Message(content=content, reply_to=to or Message(RecordDict(), 7, wire.TRAIN))


def good(arrays: Mapping[str, Any], num_examples: int = 4, sent=None, to=None, **more: Any) -> Message:
    """A reply to `TASK` that carries these arrays; in fp16 where it is told what they were made from."""
    transport = "fp32" if sent is None else "fp16"
    return answer(wire.train_reply(arrays, sent or {}, result(num_examples, **more), transport), to)


def failed(code: str = "bad-image", to: Message | None = None) -> Message:
    """A site's own error, whose text stays there."""

    class BrokenError(WorkError):
        pass

    BrokenError.code = code
    return answer(wire.error_reply(BrokenError("Secret^Name")), to)


def flower_error(code: int, to: Message | None = None) -> Message:
    """An error that Flower puts in a site's stead."""
    return Message(Error(code, "Secret^Name"), reply_to=to or Message(RecordDict(), 7, wire.TRAIN))


def progress(to: Message, **told: Any) -> Message:
    """How far a site says that it is."""
    return Message(wire.progress_reply(SiteProgress(**IDLE | told)), reply_to=to)


def identify(monkeypatch) -> None:
    """Says who sends the messages that a test makes, as Flower does in an app's process."""
    for name in ("task_id", "run_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


class Clock:
    """Time that only the code's own waiting moves on; `at` calls what is due on the way."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        for module in (patience, rounds, sites, waiting, watch):
            if hasattr(module, "time"):
                monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        for when, do in sorted([each for each in self.due if each[0] <= until], key=lambda each: each[0]):
            self.now = max(self.now, when)
            do()
        self.due = [each for each in self.due if each[0] > until]
        self.now = until

    def at(self, when: float, do: Callable[[], None]) -> None:
        self.due.append((when, do))


class ScriptedGrid(Grid):
    """`online` are the nodes that are connected; `answer(node, message)` is what comes when a message is asked after.

    Replies come one at each pull, the last message's first, as if from node 1; `answer` returns None for none yet.
    """

    def __init__(self, online=(11, 22, 33), answer=None):
        self.online = online
        self.answer = answer or (lambda node, message: Message(RecordDict(), reply_to=message))
        self.pushed: dict[str, Message] = {}
        self.unknown: set[int] = set()
        """Nodes that Flower takes no message for."""

    def get_node_ids(self):
        return self.online() if callable(self.online) else self.online

    def push_messages(self, messages):
        return [self._push(message) for message in messages]

    def _push(self, message):
        if message.metadata.dst_node_id in self.unknown:
            return None
        name = f"id-{len(self.pushed)}"
        message.metadata.__dict__["_message_id"] = name
        self.pushed[name] = message
        return name

    def pull_messages(self, message_ids):
        for name in reversed(list(message_ids)):
            reply = self.answer(self.pushed[name].metadata.dst_node_id, self.pushed[name])
            if reply is not None:
                reply.metadata.__dict__["_src_node_id"] = 1
                return [reply]
        return []

    def asked(self, kind=wire.TRAIN):
        """The nodes that were sent a message of a kind, in order."""
        return [each.metadata.dst_node_id for each in self.pushed.values() if each.metadata.message_type == kind]

    def send_and_receive(self, messages, *, timeout=None):
        raise AssertionError("it would wait for anonymous nodes")

    def create_message(self, *args, **kwargs):
        raise AssertionError("not used by the round loop")

    def set_run(self, run):
        raise AssertionError("not used by the round loop")

    @property
    def run(self):
        return None


def full(shape, value, dtype=np.float32):
    """An array of one value."""
    return np.full(shape, value, dtype)
