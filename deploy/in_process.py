"""A Grid that calls the ClientApp in this very process: the federation on one machine, and in fast tests."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

log = logging.getLogger("fedgtv.simulate")
COORDINATOR_ID = 1
CLIENT_APP_RAISED = 1


class InProcessGrid(Grid):
    """Delivers each message to its site's ClientApp when it is pushed, one site after another, and keeps the reply."""

    def __init__(
        self, client_app: Callable[[Message, Context], Message], site_configs: Mapping[str, Path], run_id: int = 1
    ) -> None:
        """`site_configs`: each site's `site.yaml`."""
        self._client_app = client_app
        self.node_ids = {site: 100 + number for number, site in enumerate(sorted(site_configs))}
        self._contexts = {
            node: Context(run_id, node, {"site": site, "config": str(site_configs[site])}, RecordDict(), {})
            for site, node in self.node_ids.items()
        }
        self._replies: dict[str, Message] = {}
        self._pushed = 0
        self._act_as(COORDINATOR_ID)

    def get_node_ids(self) -> Iterable[int]:
        """Every site is always connected."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Runs the ClientApp on each message and returns the messages' ids."""
        return [self._deliver(message) for message in messages]

    def _deliver(self, message: Message) -> str:
        self._pushed += 1
        message_id = f"message-{self._pushed}"
        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids do; read-only otherwise
        self._act_as(node)
        try:
            reply = self._client_app(message, self._contexts[node])
        except Exception:
            log.exception("the ClientApp raised")
            reply = Message(Error(CLIENT_APP_RAISED, "ClientApp raised"), reply_to=message)
        finally:
            self._act_as(COORDINATOR_ID)
        self._replies[message_id] = reply
        return message_id

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Returns the replies of these messages, each once."""
        return [self._replies.pop(message_id) for message_id in list(message_ids) if message_id in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Pushes and pulls; `timeout` has no meaning where nothing waits."""
        return self.pull_messages(self.push_messages(messages))

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, **_: Any) -> Message:  # type: ignore[override]
        """Returns a message for one node."""
        return Message(content, dst_node_id, message_type)

    def set_run(self, run: Any) -> None:
        """A run's information is not used in process."""

    @property
    def run(self) -> Any:
        """A run's information is not used in process."""
        return None

    @staticmethod
    def _act_as(node: int) -> None:
        """Flower stamps messages with the identity of the process's task."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = node, 1, node
