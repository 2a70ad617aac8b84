"""Flower's messages in a node: their objects, and the stores that the training code can reach, seen by the gate."""

import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, RecordDict
from flwr.common.constant import Status
from flwr.supercore.inflatable.inflatable_object import get_object_id, iterate_object_tree
from flwr.supercore.object_store import NoObjectInStoreError

from client.handover import Handover
from client.transfers import downloaded
from common import objects
from common.errors import TaskError, WorkerLostError
from common.objects import CHUNK, Chunk, RemoteChunk

OBJECTS_S, OBJECT_POLL_S = 600.0, 0.05
"""How long a ClientApp may take to store what it replies, and how often it is looked for."""
UNFINISHED = (Status.PENDING, Status.STARTING, Status.RUNNING)


@dataclass(frozen=True)
class Contents:
    """A message's objects by id."""

    objects: dict[str, bytes] = field(default_factory=dict)
    """In memory."""
    chunks: dict[str, Chunk] = field(default_factory=dict)
    """Those of a model, which lie in the handover."""

    @property
    def num_bytes(self) -> int:
        """Of all of them."""
        return sum(map(len, self.objects.values())) + sum(each.num_bytes for each in self.chunks.values())


class Beside:
    """The store that a message's objects go to, for Flower's step; chunks in the handover need not go there."""

    def __init__(self, store: Any, chunks: dict[str, Chunk]) -> None:
        self._store, self._chunks = store, chunks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def preregister(self, run_id: int, tree: Any) -> list[str]:
        """As Flower's: returns the objects that are to be put here."""
        return [name for name in self._store.preregister(run_id, tree) if name not in self._chunks]


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


def pulled(tree: Any, pull: Callable[[str], bytes], handover: Handover | None = None) -> Contents:
    """Returns a message's objects; no bytes for one that is not what its id says, which `inflated` refuses.

    Those of a model are put into `handover`; where it has no room, they stay in memory.

    Raises:
        ObjectPullError: one cannot be had.
    """
    chunks: dict[str, Chunk] = {}

    def pull_checked(name: str) -> bytes:
        content = pull(name)
        if get_object_id(content) != name:
            return b""
        if handover is not None and content.startswith(CHUNK):
            with suppress(ValueError):  # it is none, whatever it begins with
                chunk = handover.put(Chunk(content, name))
                if isinstance(chunk, RemoteChunk):
                    chunks[name] = chunk
        return b"" if name in chunks else content

    came = downloaded([each.object_id for each in iterate_object_tree(tree)], pull_checked)
    return Contents({name: content for name, content in came.items() if name not in chunks}, chunks)


def stored_contents(
    tree: Any, get: Callable[[str], bytes | None], over: Callable[[], bool], handover: Handover | None = None
) -> Contents:
    """Returns the objects of a reply; its ClientApp stores them one by one after announcing all.

    Raises:
        WorkerLostError: they are not there in time, or the ClientApp has died over it (`over`).
    """
    contents = Contents()
    deadline = time.monotonic() + OBJECTS_S
    for name in [each.object_id for each in iterate_object_tree(tree)]:
        ended = over()
        while not (content := get(name)):
            if content is not None and handover is not None and (chunk := handover.find(name)):
                contents.chunks[name] = chunk
                break
            if content is None or ended or time.monotonic() > deadline:
                raise WorkerLostError("reply: not stored whole by the process at work; see the lines before this")
            time.sleep(OBJECT_POLL_S)
            ended = over()
        else:
            contents.objects[name] = content
    return contents


def inflated(message: Message, contents: Contents) -> Message:
    """Returns the message with its content; its metadata stay those under which Flower knows it.

    Raises:
        TaskError: the objects are not what they say.
    """
    try:
        whole = objects.inflated(message.metadata.message_id, contents.objects, contents.chunks)
        content = whole.content if isinstance(whole, Message) else None
    except Exception as error:  # Flower's own and Python's, whatever a broken object sets off
        raise TaskError(f"message: cannot be read ({type(error).__name__}); update one side") from error
    if not isinstance(content, RecordDict):
        raise TaskError("message: holds no records; update one side")
    known = copy(message)
    known.content = content
    return known
