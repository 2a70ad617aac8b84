"""Flower's messages in a node: their objects, and the stores that the training code can reach, seen by the gate."""

import time
from collections.abc import Callable
from copy import copy
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.constant import Status
from flwr.supercore.inflatable.inflatable_object import get_object_id, iterate_object_tree
from flwr.supercore.object_store import NoObjectInStoreError

from client.transfers import downloaded
from common import objects
from common.errors import TaskError, WorkerLostError

OBJECTS_S, OBJECT_POLL_S = 600.0, 0.05
"""How long a ClientApp may take to store what it replies, and how often it is looked for."""
UNFINISHED = (Status.PENDING, Status.STARTING, Status.RUNNING)


class Stored:
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


class Awaited:
    """The state that replies come to, for Flower's step, which waits for one: meanwhile something else is done."""

    def __init__(self, state: Any, meanwhile: Callable[[bool], None]) -> None:
        """`meanwhile` is called with whether the work is over, whenever no reply is there."""
        self._state = state
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    def get_messages_legacy(self, **which: Any) -> Any:
        """Returns the replies that wait; those that a process left before it ended are among them."""
        over = is_over(self._state)
        found = self._state.get_messages_legacy(**which)
        if found:
            return found
        self._meanwhile(over)
        return self._state.get_messages_legacy(**which)


def is_over(state: Any) -> bool:
    """Whether no process is at work, nor will be: each ends its task last, or its launcher does if it was killed."""
    return not state.get_tasks(statuses=UNFINISHED)


def pulled(tree: Any, pull: Callable[[str], bytes]) -> dict[str, bytes]:
    """Returns a message's objects by id; no bytes for one that is not what its id says, which `inflated` refuses.

    Raises:
        ObjectPullError: one cannot be had.
    """

    def pull_checked(name: str) -> bytes:
        content = pull(name)
        return content if get_object_id(content) == name else b""

    return downloaded([each.object_id for each in iterate_object_tree(tree)], pull_checked)


def stored_contents(tree: Any, get: Callable[[str], bytes | None], over: Callable[[], bool]) -> dict[str, bytes]:
    """Returns the objects of a reply; its ClientApp stores them one by one after announcing all.

    Raises:
        WorkerLostError: they are not there in time, or the ClientApp has died over it (`over`).
    """
    contents = {}
    deadline = time.monotonic() + OBJECTS_S
    for name in [each.object_id for each in iterate_object_tree(tree)]:
        ended = over()
        while not (content := get(name)):
            if content is None or ended or time.monotonic() > deadline:
                raise WorkerLostError("reply: not stored whole by the process at work; see the lines before this")
            time.sleep(OBJECT_POLL_S)
            ended = over()
        contents[name] = content
    return contents


def inflated(message: Message, contents: dict[str, bytes]) -> Message:
    """Returns the message with its content; its metadata stay those under which Flower knows it.

    Raises:
        TaskError: the objects are not what they say.
    """
    try:
        whole = objects.inflated(message.metadata.message_id, contents)
        content = whole.content if isinstance(whole, Message) else None
    except Exception as error:  # Flower's own and Python's, whatever a broken object sets off
        raise TaskError(f"message: cannot be read ({type(error).__name__}); update one side") from error
    if not isinstance(content, RecordDict):
        raise TaskError("message: holds no records; update one side")
    known = copy(message)
    known.content = content
    return known
