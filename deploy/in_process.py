"""A Grid that calls the ClientApp in this very process: the federation on one machine, and in fast tests."""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from common import wire

log = logging.getLogger("fedgtv.simulate")
COORDINATOR_ID = 1
CLIENT_APP_RAISED = 1


class InProcessGrid(Grid):
    """Runs each message's ClientApp on one of a few threads and keeps the reply until it is pulled.

    Sites do not share state, and each has its own random streams, so results do not depend on the threads' timing. A
    thread takes up its next task when its last reply has been pulled, so no more replies than threads are in memory.
    """

    def __init__(
        self,
        client_app: Callable[[Message, Context], Message],
        site_configs: Mapping[str, Path],
        num_workers: int | None = None,
    ) -> None:
        """`site_configs`: each site's `site.yaml`; `num_workers`: sites at work at once, by default one a core."""
        self._client_app = client_app
        self.node_ids = {site: 100 + number for number, site in enumerate(sorted(site_configs))}
        self._contexts = {
            node: Context(1, node, {"site": site, "config": str(site_configs[site])}, RecordDict(), {})
            for site, node in self.node_ids.items()
        }
        num_workers = num_workers or os.cpu_count() or 1
        self._workers = ThreadPoolExecutor(num_workers, thread_name_prefix="site")
        self._room = threading.Semaphore(num_workers)
        self._replies: dict[str, Future[Message]] = {}
        self._asked: dict[int, str] = {}
        """By node, the last message that has a reply to come, or one that nobody has pulled."""
        self._pushed = 0
        self._closed = False
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, COORDINATOR_ID

    def close(self, wait: bool = True) -> None:
        """Drops what is waiting; returns when the sites at work have finished their task, or at once."""
        self._closed = True
        self._room.release(len(self._contexts) + 1)  # those who wait for room go, without doing anything
        self._workers.shutdown(wait=wait, cancel_futures=True)

    def get_node_ids(self) -> Iterable[int]:
        """Every site is always connected."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Starts the ClientApp on each message and returns the messages' ids."""
        return [self._start(message) for message in messages]

    def _start(self, message: Message) -> str:
        self._pushed += 1
        message_id = f"message-{self._pushed}"
        message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids do; read-only otherwise
        if message.metadata.message_type == wire.PROGRESS:
            self._replies[message_id] = self._workers.submit(self._call, message)
            return message_id
        self._forget(message.metadata.dst_node_id)
        self._asked[message.metadata.dst_node_id] = message_id
        self._replies[message_id] = self._workers.submit(self._answer, message)
        return message_id

    def _forget(self, node: int) -> None:
        """What a node was asked before it is asked anew, nobody waits for any more."""
        reply = self._replies.pop(self._asked.pop(node, ""), None)
        if reply is not None:
            reply.add_done_callback(lambda _: self._room.release())

    def _answer(self, message: Message) -> Message:
        self._room.acquire()
        if self._closed:
            return Message(Error(CLIENT_APP_RAISED, "closed"), reply_to=message)
        return self._call(message)

    def _call(self, message: Message) -> Message:
        try:
            return self._client_app(message, self._contexts[message.metadata.dst_node_id])
        except Exception:
            log.exception("the ClientApp raised")
            return Message(Error(CLIENT_APP_RAISED, "ClientApp raised"), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Returns the replies of these messages that are there, each once."""
        ready = [each for each in message_ids if each in self._replies and self._replies[each].done()]
        return [self._pull(each) for each in ready]

    def _pull(self, message_id: str, timeout_s: float | None = None) -> Message:
        reply = self._replies[message_id].result(timeout_s)
        del self._replies[message_id]
        for node, asked in list(self._asked.items()):
            if asked == message_id:
                del self._asked[node]
                self._room.release()
        return reply

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Pushes the messages and waits for all replies, at most `timeout` seconds for each."""
        return [self._pull(each, timeout) for each in list(self.push_messages(messages))]

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, *_: Any) -> Message:
        """Returns a message for one node."""
        return Message(content, dst_node_id, message_type)

    def set_run(self, run: Any) -> None:
        """A run's information is not used in process."""

    @property
    def run(self) -> Any:
        """A run's information is not used in process."""
        return None
