"""Flower's state of messages as the SuperLink has it, with a run, a node, a message to it, and the reply's parts."""

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from common.object_files import ObjectFiles
from server.object_store import FiledObjectStore
from server.uploads import KEPT_S, TTL, PatientLinkState


def apart(monkeypatch):
    """Keeps what an exchange sets for its whole process to one test."""
    for name in ("run_id", "node_id", "task_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", None)
    monkeypatch.setattr(sql_corestate, TTL, KEPT_S)


class Exchange:
    """A run with one node that was sent a message, and its reply of three arrays."""

    def __init__(self, folder, key=b"key"):
        """`key`: the node's public one."""
        path = str(folder / "state.db")
        store = FiledObjectStore(path, ObjectFiles(folder / "objects"))
        store.initialize()
        self.state = PatientLinkState(path, NoOpFederationManager(), store)
        self.state.initialize()
        self.node = self.state.create_node("owner", "owner", key, 30)
        self.state.activate_node(self.node, 30)
        self.run = self.state.create_run(None, None, "hash", {}, NOOP_FEDERATION_ID, None, "owner", TaskType.SERVER_APP)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self.run, 1, 1
        self.asked, self.reply, self.parts = self.ask()

    def ask(self):
        """Stores a message, and returns its id, the reply to it, and this one's parts."""
        asked = self._identified(Message(RecordDict(), self.node, "train"))
        self._store(asked)
        arrays = ArrayRecord({str(number): Array(np.full(3, number)) for number in range(3)})
        reply = self._identified(Message(RecordDict({"arrays": arrays}), reply_to=asked))
        with no_object_id_recompute():
            parts = {name: each.deflate() for name, each in get_all_nested_objects(reply).items()}
        return asked.metadata.message_id, reply, parts

    def _identified(self, message):
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
        return message

    def _store(self, message):
        session = self.state.start_session(self.run)
        with no_object_id_recompute():
            tree = get_object_tree(message)
        _, missing = self.state.store_message_and_object_tree(remove_content_from_message(message), tree, session)
        return session, missing

    def announce(self, reply=None):
        """The session of an upload of the reply, and the parts that it lacks."""
        return self._store(reply or self.reply)

    def push(self, session, name):
        return self.state.store_object(self.run, session, name, self.parts[name])

    def replies(self):
        return [each.metadata.message_id for each in self.state.get_message_res({self.asked}, self.run)]
