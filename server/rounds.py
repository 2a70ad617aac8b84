"""One round over named sites: send, wait, check, aggregate. Flower's sampling of anonymous nodes is not used."""

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from common import wire
from common.checkpoint import Weights
from common.config import Frozen, RoundConfig
from common.errors import SiteError, WorkError
from common.tasks import TrainResult, TrainTask
from server.aggregation import aggregate, refuse

log = logging.getLogger("fedgtv.coordinator")
POLL_S = 0.25
POLL_MAX_S = 2.0
"""Polling slows down as a wait grows: every poll costs the SuperLink a TLS request and a database transaction."""


class Sites:
    """The named sites over Flower's grid: site name to node id comes from enrolment, never from a message."""

    def __init__(self, grid: Grid, node_ids: Mapping[str, int], config: RoundConfig) -> None:
        """`node_ids`: of every enrolled site."""
        self._grid = grid
        self._node_ids = dict(node_ids)
        self._config = config

    def wait_until_joined(self, sites: Sequence[str]) -> None:
        """Returns once every site is connected.

        Raises:
            SiteError: a site is not enrolled, or not connected within `join_timeout_s`.
        """
        unknown = sorted(set(sites) - set(self._node_ids))
        if unknown:
            known = ", ".join(sorted(self._node_ids)) or "none"
            raise SiteError(f"site {unknown[0]!r} is not enrolled (enrolled: {known}); enrol it, or leave it out")
        deadline = time.monotonic() + self._config.join_timeout_s
        while missing := self._missing(sites):
            if time.monotonic() > deadline:
                raise SiteError(
                    f"site {', '.join(missing)} did not connect within {self._config.join_timeout_s:.0f} s; start "
                    "`fedgtv-site join` there, or leave it out of the experiment"
                )
            time.sleep(POLL_S)

    def _missing(self, sites: Sequence[str]) -> list[str]:
        online = set(self._grid.get_node_ids())
        return [site for site in sites if self._node_ids[site] not in online]

    def message(self, site: str, kind: str, task: Frozen, models: Mapping[str, ArrayRecord] | None = None) -> Message:
        """Returns a message with a task and models for one site."""
        return Message(wire.task_record(task, models), self._node_ids[site], kind)

    def train_messages(
        self, strategy: FedAvg, task: TrainTask, weights: Weights, sites: Sequence[str]
    ) -> dict[str, Message]:
        """Returns the strategy's own training messages, one for each named site."""
        names = {self._node_ids[site]: site for site in sites}
        arrays = wire.weights_to_record(weights)
        messages = strategy.configure_train(task.round, arrays, wire.task_config(task), _NamedNodes(self._grid, names))
        packed = wire.pack_weights(weights, task.transport)
        by_site = {names[message.metadata.dst_node_id]: message for message in messages}
        for message in by_site.values():
            message.content[wire.ARRAYS] = packed
        return by_site

    def ask(self, messages: Mapping[str, Message]) -> dict[str, Message]:
        """Sends each site its message and returns the replies that came within `timeout_s`, by site."""
        order = sorted(messages)
        ids = dict(zip(self._grid.push_messages([messages[site] for site in order]), order, strict=True))
        replies: dict[str, Message] = {}
        deadline, pause_s = time.monotonic() + self._config.timeout_s, POLL_S
        while ids and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(list(ids)):
                site = ids.pop(reply.metadata.reply_to_message_id)
                log.info("site %s answered", site)
                replies[site] = reply
            if ids:
                pause_s = min(pause_s * 1.5, POLL_MAX_S)
                time.sleep(pause_s)
        return replies

    def ask_all(self, messages: Mapping[str, Message]) -> dict[str, Message]:
        """As `ask`, but every site must answer without error; the replies are ordered by site.

        Raises:
            WorkError: a site failed or kept silent; every one is named with its reason.
        """
        replies = self.ask(messages)
        faults = {site: wire.read_error(replies[site]) if site in replies else "no-answer" for site in messages}
        at_fault = [f"{site} ({reason})" for site, reason in sorted(faults.items()) if reason]
        if at_fault:
            raise WorkError(f"no result from site {', '.join(at_fault)}; its own log says why; run again to go on")
        return {site: replies[site] for site in sorted(replies)}


def read_results(replies: Mapping[str, Message], model: type[wire.TaskModel]) -> dict[str, wire.TaskModel]:
    """Returns the result that each site's reply carries (WorkError: one is not a `model`; its site is named)."""
    results = {}
    for site, reply in replies.items():
        try:
            results[site] = wire.read_result(reply, model)
        except WorkError as error:
            raise WorkError(f"site {site}: {error}") from error
    return results


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


@dataclass(frozen=True)
class Outcome:
    """What a round made: the new weights, each accepted site's result, each refused site's reason."""

    weights: Weights
    results: dict[str, TrainResult]
    dropped: dict[str, str]


def conclude(
    strategy: FedAvg,
    number: int,
    replies: Mapping[str, Message | None],
    sent: Weights,
    quorum: int,
    most_cases: Mapping[str, int] | None = None,
) -> Outcome:
    """Checks the replies of one model's sites and aggregates the good ones.

    Args:
        strategy: Flower's.
        number: the round, from 1.
        replies: by site; None for a site that did not answer in time.
        sent: the weights that were sent out.
        quorum: how many replies must be good.
        most_cases: each site's training cases as it counted them for the statistics; a reply may not claim more.

    Raises:
        WorkError: fewer than `quorum` are; every site at fault is named with its reason.
    """
    most = most_cases or {}
    reasons = {
        site: "no-answer" if reply is None else refuse(reply, sent, most.get(site, math.inf))
        for site, reply in replies.items()
    }
    dropped = {site: reason for site, reason in reasons.items() if reason is not None}
    accepted = {site: reply for site, reply in replies.items() if reply is not None and site not in dropped}
    if len(accepted) < quorum:
        told = ", ".join(f"{site} ({reason})" for site, reason in sorted(dropped.items()))
        raise WorkError(
            f"round {number}: {len(accepted)} good replies of {len(replies)}, {quorum} needed; at fault: {told}; each "
            "site's own log says why; run again to go on from the last round"
        )
    results = {site: wire.read_result(reply, TrainResult) for site, reply in accepted.items()}
    return Outcome(aggregate(strategy, number, accepted, sent), results, dropped)
