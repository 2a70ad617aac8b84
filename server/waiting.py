"""One wait for the replies of named sites: who is lost is named and asked again, and no reply counts twice.

Flower answers in a site's stead when its node has not been heard of for its lease, or its process has died. Such a site
is asked again as soon as its node is back; it keeps what it has trained, so it loses little.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from common import wire
from common.errors import WorkerLostError, WorkError
from common.tasks import ProgressTask, SiteProgress
from server.watch import Watch

log = logging.getLogger("fedgtv.coordinator")
LOOK_S = 5.0
"""How often it is asked who is connected."""
PROGRESS_S, PROGRESS_SITE_S = 15.0, 1.5
"""How often a site that is at work is asked how far it is; where there are many, the latter for each. A question with
its answer costs the SuperLink 0.14 s of a processor, so that no more than a tenth of one goes into them."""
FORGET = 4
"""A question that is so many times as old went to a node that is no more."""
RETRY_S = 10.0
"""After a failure a site has so long before it is asked again."""
MAX_CRASHES = 5
"""So often is a site asked again whose process died over the task, after twice as long each time: 5 min in all."""
MAX_IDLE = 3
"""So often in a row may a site say that it has nothing to do, before the task is held to be lost."""
NODE_LOST = "flower-5"
MESSAGE_LOST = frozenset({"flower-3", "flower-4"})
PROCESS_DIED = frozenset({"flower-8", WorkerLostError.code})
"""What is no answer of the site: its node was not heard of, the message was lost, its process died."""


class Waiting:
    """Messages that were sent to sites, until all are answered or the caller gives up."""

    def __init__(
        self,
        grid: Grid,
        node_ids: Mapping[str, int],
        messages: Mapping[str, Message],
        watch: Watch,
        earlier: Mapping[str, str] | None = None,
        closed: dict[str, str] | None = None,
    ) -> None:
        """Sends the messages.

        Args:
            grid: Flower's.
            node_ids: of the sites.
            messages: by site.
            watch: hears of all that happens.
            earlier: ids of messages that other sites have not answered yet, and their sites.
            closed: the same of messages that nobody waits for any more; what answers them is fetched, so that it does
                not lie with the SuperLink, and goes.
        """
        self._grid = grid
        self._node_ids = node_ids
        self._messages = dict(messages)
        self._watch = watch
        self._ids: dict[str, str] = dict(earlier or {})
        self._closed = {} if closed is None else closed
        self._all_ids = dict(self._ids)
        self._owed = set(messages) | set(self._ids.values())
        self._lost: set[str] = set()
        self._retry_at: dict[str, float] = {}
        self._crashes: Counter[str] = Counter()
        self._idle: Counter[str] = Counter()
        self._progress: dict[str, tuple[str, float]] = {}
        self._progress_s = max(PROGRESS_S, PROGRESS_SITE_S * len(self._owed))
        self._look_at, self._progress_at = 0.0, time.monotonic() + self._progress_s
        watch.ask(sorted(self._owed))
        self._push(sorted(messages))

    @property
    def owed(self) -> frozenset[str]:
        """The sites whose answer is still waited for."""
        return frozenset(self._owed)

    def outstanding(self) -> dict[str, str]:
        """Returns the ids of unanswered messages and their sites."""
        return {name: site for name, site in self._ids.items() if site in self._owed}

    def poll(self) -> Iterator[tuple[str, Message]]:
        """Yields what has come since, each site once, and looks after those that keep silent.

        An error that is no answer of the site's is not yielded: the site is asked again.
        """
        for reply in self._replies(self._ids):
            site = self._take(reply)
            if site is not None:
                yield site, reply
            del reply  # before the next one comes
            if not self._owed:
                return
        if self._owed and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            self._look()
            self._fetch_closed()

    def _replies(self, names: Mapping[str, str]) -> Iterator[Message]:
        """What has come for these messages: the SuperLink gives one reply a call, so that memory holds one model."""
        for _ in range(len(names)):
            replies = list(self._grid.pull_messages(list(names))) if names else []
            if not replies:
                return
            while replies:
                yield replies.pop()

    def _fetch_closed(self) -> None:
        for reply in self._replies(self._closed):
            site = self._closed.pop(reply.metadata.reply_to_message_id)
            if wire.read_error(reply) is None:
                self._watch.event(site, "late", "not-counted")

    def _take(self, reply: Message) -> str | None:
        """Returns the site whose answer this is, or None where it is none."""
        name = reply.metadata.reply_to_message_id
        site = self._all_ids[name]
        if self._ids.pop(name, None) is None or site not in self._owed:
            self._watch.event(site, "duplicate", "answered-before")
            return None
        error = wire.read_error(reply)
        if error is not None and site in self._messages and self._may_ask_again(site, error):
            return None
        self._owed.discard(site)
        self._watch.answered(site)
        return site

    def _may_ask_again(self, site: str, error: str) -> bool:
        if error in PROCESS_DIED | MESSAGE_LOST:
            self._crashes[site] += 1
            if self._crashes[site] > MAX_CRASHES:
                return False
        elif error != NODE_LOST:
            return False
        self._lose(site, error)
        return True

    def _lose(self, site: str, why: str) -> None:
        if site not in self._lost:
            self._lost.add(site)
            self._retry_at[site] = time.monotonic() + RETRY_S * 2 ** max(0, self._crashes[site] - 1)
            self._watch.event(site, "lost", why)

    def _look(self) -> None:
        """Who is connected? Who is not is named; who was lost and is there again is asked again."""
        online = set(self._grid.get_node_ids())
        asked = set(self._ids.values())
        for site in sorted(self._owed):
            connected = self._node_ids[site] in online
            self._watch.connected(site, connected)
            if not connected:
                self._lose(site, NODE_LOST)
            elif site in self._lost and time.monotonic() >= self._retry_at[site]:
                self._lost.discard(site)
                self._watch.event(site, "back", "connected")
                if site not in asked and site in self._messages:
                    self._push([site])
        self._ask_progress([site for site in sorted(self._owed - self._lost) if self._node_ids[site] in online])

    def _ask_progress(self, sites: Sequence[str]) -> None:
        if self._progress:
            for reply in self._grid.pull_messages(list(self._progress)):
                site, _ = self._progress.pop(reply.metadata.reply_to_message_id, ("", 0.0))
                if site in self._owed and wire.read_error(reply) is None:
                    self._note_progress(site, reply)
        now = time.monotonic()
        if now >= self._progress_at and sites:
            self._progress_at = now + self._progress_s
            forget = now - FORGET * self._progress_s
            self._progress = {name: asked for name, asked in self._progress.items() if asked[1] > forget}
            silent = {site for site, _ in self._progress.values()}
            asked = [site for site in sites if site in self._messages and site not in silent]
            names = self._grid.push_messages([self._progress_message(site) for site in asked]) if asked else []
            self._progress |= {name: (site, now) for name, site in zip(names, asked, strict=True) if name is not None}

    def _progress_message(self, site: str) -> Message:
        task = ProgressTask(experiment=wire.experiment_of(self._messages[site]))
        return Message(wire.task_record(task), self._node_ids[site], wire.PROGRESS)

    def _note_progress(self, site: str, reply: Message) -> None:
        try:
            progress = wire.read_result(reply, SiteProgress)
        except WorkError:
            return  # it is worth no run
        self._watch.progress(site, progress)
        self._idle[site] = self._idle[site] + 1 if progress.state == "idle" else 0
        if self._idle[site] >= MAX_IDLE and site in self._messages:
            self._idle[site] = 0
            self._watch.event(site, "asked-again", "idle")
            self._push([site])

    def _push(self, sites: Sequence[str]) -> None:
        """Sends the sites their messages, as new ones where they had them before."""
        copies = [_copy(self._messages[site], self._node_ids[site]) for site in sites]
        names = list(self._grid.push_messages(copies)) if copies else []
        for site, name in zip(sites, names, strict=True):
            if name is None:  # Flower takes no message for a node that it does not know now
                self._lose(site, NODE_LOST)
            else:
                self._ids[name] = self._all_ids[name] = site


def _copy(message: Message, node_id: int) -> Message:
    return Message(message.content, node_id, message.metadata.message_type)
