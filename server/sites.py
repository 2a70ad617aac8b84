"""The named sites over Flower's grid: who they are, what they are sent. Flower's sampling is not used."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from common import wire
from common.checkpoint import Weights
from common.errors import SiteError, WorkError
from common.experiment import RoundConfig
from common.pauses import pause_s
from common.settings import Frozen
from common.tasks import TrainTask
from server.patience import Patience
from server.waiting import Waiting
from server.watch import Watch

log = logging.getLogger("fedgtv.coordinator")
Answer = TypeVar("Answer")
POLL_MAX_S = 2.0
"""Between two looks, at last; every look costs the SuperLink a TLS request and a database transaction."""
NAMED_S = 30.0
"""A site that is not connected by then is named."""


class Sites:
    """The named sites: site name to node id comes from enrolment, never from a message."""

    def __init__(
        self, grid: Grid, node_ids: Mapping[str, int], config: RoundConfig, watch: Watch | None = None
    ) -> None:
        """`node_ids`: of every enrolled site; `watch`: hears what happens at the sites."""
        self._grid = grid
        self._node_ids = dict(node_ids)
        self._config = config
        self.watch = watch or Watch()
        self._waiting: Waiting | None = None
        self._closed: dict[str, str] = {}
        """Messages that nobody waits for any more, and their sites."""

    def wait_until_joined(self, sites: Sequence[str], quorum: int, timeout_s: float, quorum_timeout_s: float) -> None:
        """Returns once every site is connected, or after `timeout_s` the quorum; who is missing then is named.

        Raises:
            SiteError: a site is not enrolled, or fewer than `quorum` are connected after both times.
        """
        unknown = sorted(set(sites) - set(self._node_ids))
        if unknown:
            known = ", ".join(sorted(self._node_ids)) or "none"
            raise SiteError(f"site {unknown[0]!r} is not enrolled (enrolled: {known}); enrol it, or leave it out")
        self.watch.ask(sites)
        started, named = time.monotonic(), set[str]()
        while missing := self._missing(sites):
            waited_s = time.monotonic() - started
            named = self._name_missing(missing, named, waited_s)
            if waited_s > timeout_s and len(sites) - len(missing) >= quorum:
                self._name_missing(missing, named, NAMED_S)
                return
            if waited_s > max(timeout_s, quorum_timeout_s):
                raise SiteError(
                    f"site {', '.join(missing)} did not connect within {waited_s:.0f} s; start `fedgtv-site join` "
                    "there, or leave it out of the experiment"
                )
            time.sleep(pause_s(POLL_MAX_S, waited_s))
        for site in sorted(named):
            self.watch.event(site, "back", "connected")

    def _name_missing(self, missing: Sequence[str], named: set[str], waited_s: float) -> set[str]:
        """Tells of who is not connected after some time, once, and of who is after all; returns who is told of."""
        if waited_s < NAMED_S:
            return named
        for site in sorted(set(missing) - named):
            self.watch.event(site, "lost", "not-joined")
        for site in sorted(named - set(missing)):
            self.watch.event(site, "back", "connected")
        return set(missing)

    def _missing(self, sites: Sequence[str]) -> list[str]:
        online = set(self._grid.get_node_ids())
        for site in sites:
            self.watch.connected(site, self._node_ids[site] in online)
        return [site for site in sites if self._node_ids[site] not in online]

    def message(self, site: str, kind: str, task: Frozen, models: Mapping[str, ArrayRecord] | None = None) -> Message:
        """Returns a message with a task and models for one site."""
        return Message(wire.task_record(task, models), self._node_ids[site], kind)

    def train_messages(
        self, strategy: FedAvg, task: TrainTask, weights: Weights, sites: Sequence[str]
    ) -> dict[str, Message]:
        """Returns a training message for each named site, with what the strategy tells it.

        The strategy sees no weights: Flower looks at messages in a way that keeps what they hold in memory for long.
        """
        names = {self._node_ids[site]: site for site in sites}
        nodes = _NamedNodes(self._grid, names)
        packed = wire.pack_weights(weights, task.transport)
        return {
            names[told.metadata.dst_node_id]: Message(
                RecordDict({wire.ARRAYS: packed, wire.CONFIG: told.content[wire.CONFIG]}),
                told.metadata.dst_node_id,
                told.metadata.message_type,
            )
            for told in strategy.configure_train(task.round, ArrayRecord(), wire.task_config(task), nodes)
        }

    def send(self, messages: Mapping[str, Message], earlier: Mapping[str, str] | None = None) -> Waiting:
        """Sends each site its message and returns the wait for the replies; `earlier`: see `Waiting`."""
        self._closed |= self._waiting.outstanding() if self._waiting else {}
        for name in earlier or {}:
            self._closed.pop(name, None)
        self._waiting = Waiting(self._grid, self._node_ids, messages, self.watch, earlier, self._closed)
        return self._waiting

    def ask(self, messages: Mapping[str, Message], read: Callable[[str, Message], Answer]) -> dict[str, Answer]:
        """Sends each site its message and returns what `read` makes of the replies without error, ordered by site.

        All must answer well, or the quorum where the configuration has one: the others then have as long again as
        `patience` and `grace_s` say.

        Raises:
            WorkError: too few did; every one that did not is named with its reason. Or `read` could not read a reply
                without which there are too few.
        """
        answers, faults = self._gather(messages, read, is_optional=False)
        if len(answers) < self._quorum(messages):
            at_fault = ", ".join(f"{site} ({reason})" for site, reason in sorted(faults.items()))
            raise WorkError(f"no result from site {at_fault}; its own log says why; run again to go on")
        self._leave_out(faults)
        return answers

    def hear(
        self, messages: Mapping[str, Message], read: Callable[[str, Message], Answer]
    ) -> tuple[dict[str, Answer], dict[str, str]]:
        """As `ask`, of what a run can do without: returns the good answers, and why each other site gave none.

        Nothing is raised. Once the quorum has answered, well or not, the others have as long as in `ask`.
        """
        answers, faults = self._gather(messages, read, is_optional=True)
        self._leave_out(faults)
        return answers, faults

    def _gather(
        self, messages: Mapping[str, Message], read: Callable[[str, Message], Answer], is_optional: bool
    ) -> tuple[dict[str, Answer], dict[str, str]]:
        """Returns the good answers, ordered by site, and why the other sites that were waited for gave none.

        Without `is_optional` the wait ends when the quorum cannot be reached, with what `read` raised if it did.
        """
        quorum, patience = self._quorum(messages), Patience(self._config)
        answers: dict[str, Answer] = {}
        faults: dict[str, str] = {}
        for site, reply in arrivals(self.send(messages), lambda: patience.deadline):
            error = wire.read_error(reply)
            try:
                if error is None:
                    answers[site] = read(site, reply)
            except WorkError as fault:
                if not is_optional and len(messages) - len(faults) <= quorum:
                    raise
                log.warning("%s", fault)
                error = "other-result"
            if error is not None:
                faults[site] = error
            is_lost = not is_optional and len(messages) - len(faults) < quorum
            patience.note(len(answers) + is_optional * len(faults) >= quorum, is_lost)
        if is_optional or len(messages) - len(faults) >= quorum:
            faults |= {site: "no-answer" for site in messages if site not in answers and site not in faults}
        return {site: answers[site] for site in sorted(answers)}, faults

    def _leave_out(self, faults: Mapping[str, str]) -> None:
        for site, reason in sorted(faults.items()):
            self.watch.event(site, "left-out", reason)

    def _quorum(self, messages: Mapping[str, Message]) -> int:
        return min(self._config.quorum or len(messages), len(messages))


def arrivals(waiting: Waiting, deadline: Callable[[], float]) -> Iterator[tuple[str, Message]]:
    """Yields the replies as they come, until all are here or `deadline()` (of the monotonic clock) is over."""
    happened = time.monotonic()
    while waiting.owed and time.monotonic() < deadline():
        for site, reply in waiting.poll():
            yield site, reply
            del reply  # before the next one comes
            happened = time.monotonic()
        if waiting.owed:
            time.sleep(pause_s(POLL_MAX_S, time.monotonic() - happened))
    if waiting.owed:
        yield from waiting.poll()  # what came during the last pause


def read_result(site: str, reply: Message, model: type[wire.TaskModel]) -> wire.TaskModel:
    """Returns the result that a site's reply carries (WorkError: it is not a `model`; the site is named)."""
    try:
        return wire.read_result(reply, model)
    except WorkError as error:
        raise WorkError(f"site {site}: {error}") from error


class _NamedNodes(Grid):
    """The grid as a strategy sees it: only the nodes of the sites that a step names."""

    def __init__(self, grid: Grid, names: Mapping[int, str]) -> None:
        self._grid = grid
        self._names = names

    def get_node_ids(self) -> Iterable[int]:
        return list(self._names)

    def set_run(self, run: Any) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)
