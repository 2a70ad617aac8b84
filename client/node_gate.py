"""The gate in a SuperNode: Flower's two steps that pull a task and push a reply, led through the site's border.

Flower 1.41 pulls and runs whatever code and task it is sent, and sends whatever its ClientApp replies, an exception's
text included. Its main loop calls two functions of its own module, which are replaced here:

- the task and its objects are pulled first, then the code is checked, then the border judges the task; only then does
  Flower's own step get all of it, from memory, and start the ClientApp;
- of the ClientApp's reply the border makes the one that leaves, and that one is sent. While there is none yet, who asks
  how far the work is gets an answer, and other tasks wait; a ClientApp that ends without a reply is answered for, and
  a round that nobody waits for any more is left off.

Whatever is refused is answered with a code. No process is started for it and no file of it is installed.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.run import Run, RunNotRunningException

from client.approval import Approvals
from client.border import Border, Entry
from client.handover import Handover, folder_in
from client.node_messages import Awaited, Beside, Contents, Stored, inflated, is_over, stored_contents
from client.node_queue import Kept, Link, Queue
from client.progress import forget_progress, leave_off, progress_of
from client.transfers import upload
from common import wire
from common.errors import ApprovalError, AuditError, FedgtvError, WorkerLostError, WorkError
from common.shortage import explained
from common.tasks import ProgressTask, SiteProgress

log = logging.getLogger("fedgtv.site")
CODE = "code"
POLL_S, RUN_POLL_S = 3.0, 15.0
"""Between two looks for messages while a ClientApp is at work, Flower's own between two tasks; and at its run."""
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
        self._ready: dict[str, Message] = {}
        """Replies that no process made, by the message's id. What is sent is this object: the store that Flower keeps a
        copy in is open to the training code."""
        self._queue = Queue(self._pass_over)
        self._link: Link | None = None
        self._looked = self._looked_at_run = self._began = 0.0
        self._happened = time.monotonic()
        """When a message came, or a reply went, last."""
        self._left_off = False
        """Whether nobody waits any more for what is worked on."""
        self._handover: Handover | None = None
        """Where a model goes to the process at work and comes from it; None: by calls."""
        self._error: tuple[str, str] | None = None
        """The last task's experiment and the code that it ended in."""
        with suppress(FedgtvError):
            self._open()

    def quiet_s(self) -> float:
        """Returns for how long no message has come and no reply has gone."""
        return time.monotonic() - self._happened

    def pull(self, *, state: Any, object_store: Any, receive: Any, get_run: Any, get_fab: Any, pull_object: Any,
             confirm_message_received: Any, **others: Any) -> int | None:  # fmt: skip
        """As Flower's step: returns the run of the message that was taken in, or None when there was none."""
        received = self._border.received if self._border else None
        self._clear_handover()
        self._link = Link(receive, pull_object, confirm_message_received, get_run, received, self._handover)
        try:
            kept = self._queue.next(self._link)
            if kept is None:
                return None
            self._happened = time.monotonic()
            message, tree = kept.message, kept.tree
            run_id, message_id = int(message.metadata.run_id), message.metadata.message_id
            if wire.is_progress(message):
                self._ready[message_id] = self._progress(message, self._link.contents(message, tree))
                self._insert(self._ready[message_id], state, object_store)
                return run_id
            known = state.get_run(run_id)
            run = known or get_run(run_id)
            fab = None if known else get_fab(run.fab_hash, run_id)
            contents = kept.contents or self._link.contents(message, tree)
        except RunNotRunningException:
            log.info("the run has ended; its message is left")
            return None
        except ObjectPullError as error:
            log.warning("a message could not be received whole; it is left: %s", error)
            return None
        refusal = self._judge(message, run, fab, contents)
        if refusal is not None:
            self._ready[message_id] = refusal
            self._insert(refusal, state, object_store)
            return run_id
        done: int | None = self._pull(
            state=state, object_store=Beside(object_store, contents.chunks), receive=lambda: (message, tree),
            get_run=lambda _: run, get_fab=lambda *_: fab, pull_object=lambda _, name: contents.objects[name],
            confirm_message_received=lambda *_: None, **others,
        )  # fmt: skip
        if done is None:
            self._asked.pop(message_id)
        return done

    def handed_over(self, object_id: str) -> bytes | None:
        """Returns a part of a model that is here for the process at work; None for none."""
        chunk = self._handover.find(object_id) if self._handover else None
        return chunk.deflate() if chunk else None

    @property
    def handover_folder(self) -> Path | None:
        """Where models go to the process at work and come from it; None where site.yaml cannot be read yet."""
        return folder_in(self._border.work) if self._border else None

    def _clear_handover(self) -> None:
        """Of the work before; where there can be no handover, models go by calls."""
        if self._border is None:
            return
        try:
            self._handover = Handover.of(self._border.work)
            self._handover.keep_only(self._queue.chunks)
        except OSError as error:
            self._handover = None
            log.warning("no handover of models, which go by calls: %s", error)

    def _progress(self, message: Message, contents: Contents) -> Message:
        """Returns the answer to whoever asks how far the site is; an unreadable site.yaml changes nothing of it."""
        try:
            task, _ = wire.read_task(inflated(message, contents), ProgressTask)
            border = self._border or self._open()
            return border.tell(message, self._how_far(border, task))
        except Exception as error:
            return _refusal(self._border, message, error)

    def _how_far(self, border: Border, asked: ProgressTask) -> SiteProgress:
        """Of the task of that experiment; the work for another one is a queue before it, and nothing more."""
        told = SiteProgress(state="queued" if self._asked or self._queue else "idle")
        for _, entry in self._asked.values():
            if entry.task.experiment == asked.experiment:
                told = progress_of(border.work, entry.task, time.monotonic() - self._began)
        of, error = self._error or (None, None)
        return told.model_copy(update={"error": error if of == asked.experiment else None})

    def _judge(self, message: Message, run: Run, fab: Fab | None, contents: Contents) -> Message | None:
        """Returns the reply to a message that may not be worked on, or None."""
        self._left_off = False
        try:
            border = self._received(message, contents.num_bytes)
            if fab is not None:
                self._check_code(border, run, fab)
            whole = inflated(message, contents)
            entry = border.enter(whole)
            self._asked[message.metadata.message_id] = (message, entry)
            forget_progress(border.work)
            self._began = time.monotonic()
            if self._error and self._error[0] != entry.task.experiment:
                self._error = None
            return None
        except Exception as error:
            return self._noted(_refusal(self._border, message, error), _experiment_of(message, contents))

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

        def send_off(leaving: Message, seconds: float) -> str:
            session = _send(leaving, seconds, send, push_object)
            self._happened = time.monotonic()
            return session

        def send_what_may_leave(reply: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
            leaving = self._leaving(reply, tree, object_store.get, lambda: is_over(state))
            return set(), "" if leaving is None else send_off(leaving, seconds)

        def meanwhile(over: bool) -> None:
            if over:
                self._answer_for_the_lost(state, object_store)
            elif time.monotonic() - self._looked >= POLL_S:
                self._look_round(send_off)

        self._push(
            state=Awaited(state, meanwhile), object_store=Stored(object_store), send=send_what_may_leave,
            push_object=push_object,
        )  # fmt: skip

    def _look_round(self, send_off: Callable[[Message, float], str]) -> None:
        """Answers whoever asks how far the work is; whatever else comes has to wait for its end.

        A network that is away ends no work: what could not be answered is asked again.
        """
        self._looked = time.monotonic()
        assert self._link is not None
        try:
            for kept in self._link.received():
                if wire.is_progress(kept.message):
                    send_off(self._progress(kept.message, self._link.contents(kept.message, kept.tree)), 0.0)
                else:
                    self._queue.add(kept)
            self._queue.settle(self._link)
            if self._queue.is_past_taken and not self._left_off:
                self._leave_off("the run is at another round by now")
        except RunNotRunningException:
            log.info("the run of a message that came while at work has ended")
        except Exception as error:
            log.warning("no look for messages while at work: %s", error)
        self._look_at_run()

    def _pass_over(self, kept: Kept) -> None:
        """Notes a round that came and will not be trained, for a later one of its run is here."""
        log.info("a round is passed over: its run asks for a later one")
        try:
            self._received(kept.message, (kept.contents or Contents()).num_bytes).pass_over(kept.message)
        except Exception as error:
            log.error("what is passed over cannot be noted: %s", error)

    def _look_at_run(self) -> None:
        """Leaves off what is worked on where its run has ended: stopped, or failed with the coordinator."""
        if self._left_off or time.monotonic() - self._looked_at_run < RUN_POLL_S or self._link is None:
            return
        self._looked_at_run = time.monotonic()
        try:
            for message, _ in self._asked.values():
                self._link.get_run(int(message.metadata.run_id))
        except RunNotRunningException:
            self._leave_off("its run has ended")
        except Exception as error:
            log.warning("no look at the run while at work: %s", error)

    def _leave_off(self, why: str) -> None:
        """Has the process at work end after the epoch that it is in, which is kept."""
        self._left_off = True
        log.info("%s: the work is left off after this epoch, and kept", why)
        if self._border is not None:
            leave_off(self._border.work)

    def _answer_for_the_lost(self, state: Any, object_store: Any) -> None:
        """Makes the reply to a message whose process has ended without one: killed, for want of memory or by hand."""
        for message_id, (message, entry) in self._asked.items():
            error = WorkerLostError(
                "the process at work ended without an answer; if nobody stopped it, look for the system's "
                "out-of-memory killer (dmesg); the coordinator asks again, and the work goes on where it was kept"
            )
            self._ready[message_id] = self._noted(_refusal(self._border, message, error), entry.task.experiment)
            object_store.delete(message_id)
            self._insert(self._ready[message_id], state, object_store)
        self._asked.clear()

    def _leaving(
        self, reply: Message, tree: Any, get: Callable[[str], bytes | None], over: Callable[[], bool]
    ) -> Message | None:
        """Returns what is sent for a reply that waits; None for one that answers nothing that is being worked on."""
        answered = reply.metadata.reply_to_message_id
        if answered in self._ready:
            return self._ready.pop(answered)
        if answered not in self._asked:
            self._hold_back(reply)
            return None
        message, entry = self._asked.pop(answered)
        try:
            border = self._open()
            forget_progress(border.work)
            if tree is None:
                raise WorkError("reply: stored under another id than its own")
            whole = reply if reply.has_error() else inflated(reply, stored_contents(tree, get, over, self._handover))
            leaving = border.leave(message, entry, whole)
        except Exception as error:
            leaving = _refusal(self._border, message, error)
        return self._noted(leaving, entry.task.experiment)

    def _noted(self, leaving: Message, experiment: str) -> Message:
        """The reply to a task, after noting the code that it ended in; what was left off is no fault."""
        if not self._left_off:
            code = wire.error_code(leaving.content)
            self._error = (experiment, code) if code else None
        return leaving

    def _hold_back(self, reply: Message) -> None:
        """Notes a reply that nobody asked for: the training code made it, for it alone can put one there."""
        log.warning("a reply to no message that is being worked on was held back")
        if self._border is not None:
            with suppress(AuditError):
                self._border.hold_back(reply)


def _experiment_of(message: Message, contents: Contents) -> str:
    """The experiment that a message is of, empty where it cannot be read."""
    with suppress(Exception):  # whatever a broken message sets off is told where it is judged
        return wire.experiment_of(inflated(message, contents))
    return ""


def _send(leaving: Message, seconds: float, send: Any, push_object: Any) -> str:
    """Sends a reply and its objects; returns the session that they were sent in."""
    with no_object_id_recompute():
        leaving.metadata.__dict__["_message_id"] = leaving.object_id  # as Flower's own step does
        objects, tree = get_all_nested_objects(leaving), get_object_tree(leaving)
    missing, session = send(leaving, tree, seconds)
    upload(sorted(missing), lambda name: push_object(leaving.metadata.run_id, session, name, objects[name].deflate()))
    return str(session)


def _refusal(border: Border | None, message: Message, error: Exception) -> Message:
    """Returns a reply with the code alone; where not even the audit log can be written, that is all that leaves."""
    if not isinstance(error, FedgtvError):
        log.error("unexpected", exc_info=error)
        error = explained(error)
    try:
        if border is not None and not isinstance(error, AuditError):
            return border.refuse(message, error)
    except AuditError as broken:
        error = broken
    log.error("%s refused: %s", message.metadata.message_type, error)
    return Message(content=wire.error_reply(error), reply_to=message)
