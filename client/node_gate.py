"""The gate in a SuperNode: Flower's two steps that pull a task and push a reply, led through the site's border.

Flower 1.41 pulls and runs whatever code and task it is sent, and sends whatever its ClientApp replies, an exception's
text included. Its main loop calls two functions of its own module, which are replaced here:

- the task and its objects are pulled first, then the code is checked, then the border judges the task; only then does
  Flower's own step get all of it, from memory, and start the ClientApp;
- of the ClientApp's reply the border makes the one that leaves, and that one is sent.

Whatever is refused is answered with a code. No process is started for it and no file of it is installed.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any

from flwr.app import Message, RecordDict
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, inflate_object_from_contents, pull_objects
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.run import Run, RunNotRunningException

from client.approval import Approvals
from client.border import Border, Entry
from common import wire
from common.errors import ApprovalError, AuditError, FedgtvError, TaskError, WorkError

log = logging.getLogger("fedgtv.site")
CODE = "code"
OBJECTS_S, OBJECT_POLL_S = 600.0, 0.05
"""How long a ClientApp may take to store what it replies, and how often it is looked for."""
PULL, PUSH, INSERT = "_pull_and_store_message", "_push_messages", "_insert_message"
"""Flower's private functions in `flwr.supernode.start_client_internal`; a contract test guards them."""


class Gate:
    """Stands between Flower's main loop and its two steps; the loop does one message at a time."""

    def __init__(self, config: Path, own: str, flower: Any) -> None:
        """Takes the steps that are to be led through the border.

        Args:
            config: the site's site.yaml.
            own: hash of this release's bundle.
            flower: the module of Flower's loop.
        """
        self._config = config
        self._own = own
        self._pull, self._push, self._insert = (getattr(flower, name) for name in (PULL, PUSH, INSERT))
        self._border: Border | None = None
        """Of the site.yaml that could be read last: a later one that cannot be read is refused in the same log."""
        self._asked: dict[str, tuple[Message, Entry]] = {}
        """Messages that are being worked on, by id."""
        self._refused: dict[str, Message] = {}
        """Replies to messages that are not, by the message's id. What is sent is this object: the store that Flower
        keeps a copy in is open to the training code."""
        with suppress(FedgtvError):
            self._open()

    def pull(self, *, state: Any, object_store: Any, receive: Any, get_run: Any, get_fab: Any, pull_object: Any,
             confirm_message_received: Any, **others: Any) -> int | None:  # fmt: skip
        """As Flower's step: returns the run of the message that was taken in, or None when there was none."""
        try:
            received = receive()
            if received is None:
                return None
            message, tree = received
            run_id, message_id = int(message.metadata.run_id), message.metadata.message_id
            known = state.get_run(run_id)
            run = known or get_run(run_id)
            fab = None if known else get_fab(run.fab_hash, run_id)
            contents = _pull_objects(tree, lambda name: pull_object(run_id, name))
            confirm_message_received(run_id, message_id)
        except RunNotRunningException:
            log.info("the run has ended; its message is left")
            return None
        except ObjectPullError as error:
            log.warning("a message could not be received whole; it is left: %s", error)
            return None
        refusal = self._judge(message, run, fab, contents)
        if refusal is not None:
            self._refused[message_id] = refusal
            self._insert(refusal, state, object_store)
            return run_id
        done: int | None = self._pull(
            state=state, object_store=object_store, receive=lambda: (message, tree), get_run=lambda _: run,
            get_fab=lambda *_: fab, pull_object=lambda _, name: contents[name],
            confirm_message_received=lambda *_: None, **others,
        )  # fmt: skip
        return done

    def _judge(self, message: Message, run: Run, fab: Fab | None, contents: dict[str, bytes]) -> Message | None:
        """Returns the reply to a message that may not be worked on, or None."""
        try:
            border = self._received(message, sum(map(len, contents.values())))
            if fab is not None:
                self._check_code(border, run, fab)
            inflated = _inflate(message, contents)
            self._asked[message.metadata.message_id] = (inflated, border.enter(inflated))
            return None
        except Exception as error:
            return _refusal(self._border, message, error)

    def _received(self, message: Message, num_bytes: int) -> Border:
        """Writes to the audit log that a message came, also where site.yaml cannot be read, and returns the border."""
        try:
            border = self._open()
        except FedgtvError as error:
            if self._border is not None:
                self._border.receive(message, num_bytes)
                self._border.turn_away(message, error)
            raise
        border.receive(message, num_bytes)
        return border

    def _open(self) -> Border:
        """Returns the border by site.yaml as it is now (ConfigError: it cannot be read)."""
        self._border = Border.open(self._config)
        return self._border

    def _check_code(self, border: Border, run: Run, fab: Fab) -> None:
        """Writes to the audit log which code came and whether it may run (ApprovalError: it may not)."""
        told = {"run": str(run.run_id), "sha256": run.fab_hash, "bytes": len(fab.content)}
        try:
            bundle, why = Approvals(border.state).check(fab.content, run.fab_hash, self._own)
        except ApprovalError as error:
            border.audit.append(CODE, **told, decision=error.code, why=str(error))
            raise
        border.audit.append(CODE, **told, decision="accepted", why=why, name=bundle.name, version=bundle.version)
        log.info("code %s %s, hash %s: %s", bundle.name, bundle.version, run.fab_hash[:12], why)

    def push(self, *, state: Any, object_store: Any, send: Any, push_object: Any) -> None:
        """As Flower's step: waits for replies, and sends what the border makes of them."""

        def send_what_may_leave(reply: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
            leaving = self._leaving(reply, tree, object_store.get)
            if leaving is None:
                return set(), ""
            with no_object_id_recompute():
                leaving.metadata.__dict__["_message_id"] = leaving.object_id  # as Flower's own step does
                objects, tree_of_it = get_all_nested_objects(leaving), get_object_tree(leaving)
            missing, session = send(leaving, tree_of_it, seconds)
            for name in missing:
                push_object(leaving.metadata.run_id, session, name, objects[name].deflate())
            return set(), session  # nothing of the original is left for Flower to send

        self._push(state=state, object_store=_Stored(object_store), send=send_what_may_leave, push_object=push_object)

    def _leaving(self, reply: Message, tree: Any, get: Callable[[str], bytes | None]) -> Message | None:
        """Returns what is sent for a reply that waits; None for one that answers nothing that is being worked on."""
        answered = reply.metadata.reply_to_message_id
        if answered in self._refused:
            return self._refused.pop(answered)
        if answered not in self._asked:
            self._hold_back(reply)
            return None
        message, entry = self._asked.pop(answered)
        try:
            border = self._open()
            if tree is None:
                raise WorkError("reply: stored under another id than its own")
            return border.leave(message, entry, reply if reply.has_error() else _inflate(reply, _contents(tree, get)))
        except Exception as error:
            return _refusal(self._border, message, error)

    def _hold_back(self, reply: Message) -> None:
        """Notes a reply that nobody asked for: the training code made it, for it alone can put one there."""
        log.warning("a reply to no message that is being worked on was held back")
        if self._border is not None:
            with suppress(AuditError):
                self._border.hold_back(reply)


class _Stored:
    """The store that replies lie in, for Flower's step, whose loop ends over a reply that is not there."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_object_tree(self, name: str) -> Any:
        """Returns the tree of a reply's objects, None where nothing lies under its id."""
        try:
            return self._store.get_object_tree(name)
        except NoObjectInStoreError:
            return None


def _refusal(border: Border | None, message: Message, error: Exception) -> Message:
    """Returns a reply with the code alone; where not even the audit log can be written, that is all that leaves."""
    if not isinstance(error, FedgtvError):
        log.error("unexpected", exc_info=error)
    try:
        if border is not None and not isinstance(error, AuditError):
            return border.refuse(message, error)
    except AuditError as broken:
        error = broken
    log.error("%s refused: %s", message.metadata.message_type, error)
    return Message(content=wire.error_reply(error), reply_to=message)


def _pull_objects(tree: Any, pull: Callable[[str], bytes]) -> dict[str, bytes]:
    return pull_objects([each.object_id for each in iterate_object_tree(tree)], pull)


def _contents(tree: Any, get: Callable[[str], bytes | None]) -> dict[str, bytes]:
    """The objects of a reply; its ClientApp stores them one by one after announcing all.

    Raises:
        WorkError: they are not there in time: the ClientApp has died over it.
    """
    contents = {}
    deadline = time.monotonic() + OBJECTS_S
    for name in [each.object_id for each in iterate_object_tree(tree)]:
        while not (content := get(name)):
            if content is None or time.monotonic() > deadline:
                raise WorkError("reply: not stored whole by the process that did the work; see the lines before this")
            time.sleep(OBJECT_POLL_S)
        contents[name] = content
    return contents


def _inflate(message: Message, contents: dict[str, bytes]) -> Message:
    """Returns the message with its content; its metadata stay those under which Flower knows it.

    Raises:
        TaskError: the objects are not what they say.
    """
    try:
        whole = inflate_object_from_contents(message.metadata.message_id, contents, keep_object_contents=True)
        content = whole.content if isinstance(whole, Message) else None
    except Exception as error:  # Flower's own and Python's, whatever a broken object sets off
        raise TaskError(f"message: cannot be read ({type(error).__name__}); update one side") from error
    if not isinstance(content, RecordDict):
        raise TaskError("message: holds no records; update one side")
    known = copy(message)
    known.content = content
    return known
