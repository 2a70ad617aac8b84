"""One round of one model: replies are judged and put on disk as they come; in the end the good ones make the model."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from common.checkpoint import Weights
from common.errors import WorkError
from common.experiment import RoundConfig
from common.layers import Layers
from common.tasks import TrainResult, TrainTask
from server.acceptance import accept, judge
from server.combine import products
from server.patience import Patience
from server.spool import Spool, Update
from server.strategy import Strategy
from server.watch import Watch

log = logging.getLogger("fedgtv.coordinator")


@dataclass(frozen=True)
class Outcome:
    """What a round made: the new weights, each accepted site's result, each refused site's reason."""

    weights: Weights
    results: dict[str, TrainResult]
    dropped: dict[str, str]
    norms: dict[str, float]
    """L2 norm of each accepted update."""
    answered_s: float
    """From the round's start until the last reply that could be used; who was waited for in vain does not count."""


@dataclass(frozen=True)
class Late:
    """A site that was still at work when a round closed: what it had been sent."""

    message_ids: tuple[str, ...]
    """Of the task, and of its copies where the site was asked again."""
    task: TrainTask
    sent: Weights


@dataclass
class Round:
    """A round under way.

    Args:
        task: of the round; its replies must be of its model and round.
        sent: the weights that were sent out.
        sites: who takes part.
        quorum: how many replies must be good.
        config: of the rounds.
        spool: where the replies go; what lies there already counts as having come.
        watch: hears of sites that are left out.
        most_cases: each site's training cases as it counted them for the statistics; a reply may not claim more.
        earlier_s: how long the replies of the model's last rounds took (`Outcome.answered_s`).
        earlier_norms: of the updates that the last round accepted.
        late: sites that finish an earlier round first.
    """

    task: TrainTask
    sent: Weights
    sites: Sequence[str]
    quorum: int
    config: RoundConfig
    spool: Spool
    watch: Watch
    most_cases: Mapping[str, int] = field(default_factory=dict)
    earlier_s: Sequence[float] = ()
    earlier_norms: Sequence[float] = ()
    late: Mapping[str, Late] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dropped: dict[str, str] = {}
        found = {site: self.spool.find(site) for site in self.sites}
        self._updates: dict[str, Update] = {site: update for site, update in found.items() if update is not None}
        begun_s = max((update.result.seconds for update in self._updates.values()), default=0.0)
        self._started = time.monotonic() - begun_s  # by a coordinator that was killed since
        self._answered_s = begun_s
        self._patience = Patience(self.config, self.earlier_s, begun_s)
        self._has_enough = False
        self._note_quorum()

    @property
    def open_sites(self) -> list[str]:
        """Who has neither answered well nor been left out."""
        return [site for site in self.sites if site not in self._updates and site not in self.dropped]

    @property
    def deadline(self) -> float:
        """By the monotonic clock: once the quorum is in, as the times of earlier rounds have it."""
        return self._patience.deadline

    def take(self, site: str, reply: Message) -> None:
        """Puts a good reply on disk; of another the reason is kept.

        Raises:
            OSError: the disk is full.
        """
        late = self.late.get(site)
        task, sent = (late.task, late.sent) if late else (self.task, self.sent)
        told = accept(reply, sent, task, self._most_cases(site))
        if isinstance(told, str):
            self.leave_out(site, told)
            self._note_quorum()
            return
        layers, result = told
        if late:
            self.watch.event(site, "late", f"round-{late.task.round}")
            layers = _moved(layers, sent, self.sent)
        self._updates[site] = self.spool.put(site, layers, result)
        self._answered_s = time.monotonic() - self._started
        self._note_quorum()

    @property
    def _hopeless(self) -> bool:
        """Whether there can no longer be enough good replies."""
        return len(self.sites) - len(self.dropped) < self.quorum

    def _most_cases(self, site: str) -> float:
        """As the site counted; one that was away then can weigh no more than all others together."""
        return self.most_cases.get(site) or sum(self.most_cases.values()) or math.inf

    def _note_quorum(self) -> None:
        """Enough is enough once no check beside the others takes one away again; with all in, `close` finds out."""
        if not self._has_enough and len(self._updates) >= self.quorum:
            self._has_enough = not self.open_sites or len(self._judged()[0]) >= self.quorum
        self._patience.note(self._has_enough, self._hopeless)

    def leave_out(self, site: str, reason: str) -> None:
        """Counts no longer on a site's reply."""
        self.dropped[site] = reason
        self.watch.event(site, "left-out", reason)

    def close(self, strategy: Strategy) -> Outcome:
        """Returns what the strategy makes of the good replies.

        Raises:
            WorkError: fewer than the quorum are; every site at fault is named with its reason.
        """
        if self._hopeless:  # nobody else was waited for
            raise self._too_few(len(self._updates))
        for site in self.open_sites:
            self.leave_out(site, "no-answer")
        updates, gram, reasons = self._judged()
        for site, reason in reasons.items():
            self.leave_out(site, reason)
            self.spool.remove(site)
        if len(updates) < self.quorum:
            raise self._too_few(len(updates))
        weights = strategy.combine(self.task.round, updates, self.sent, lambda: gram)
        norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
        return Outcome(
            weights,
            {update.site: update.result for update in updates},
            dict(self.dropped),
            {update.site: float(norm) for update, norm in zip(updates, norms, strict=True)},
            self._answered_s,
        )

    def _judged(self) -> tuple[list[Update], NDArray[np.float64], dict[str, str]]:
        """The updates that may be used beside the others, their scalar products, and why the rest may not."""
        updates = [self._updates[site] for site in sorted(self._updates)]
        gram = products(updates, self.sent)
        sites = [update.site for update in updates]
        config = self.config
        reasons = judge(sites, gram, self.earlier_norms, config.max_norm_ratio, config.min_cosine)
        kept = [index for index, site in enumerate(sites) if site not in reasons]
        return [updates[index] for index in kept], gram[np.ix_(kept, kept)], reasons

    def _too_few(self, num_good: int) -> WorkError:
        told = ", ".join(f"{site} ({reason})" for site, reason in sorted(self.dropped.items()))
        return WorkError(
            f"round {self.task.round}: {num_good} good replies of {len(self.sites)}, {self.quorum} needed; at fault: "
            f"{told}; each site's own log says why; run again to go on from the last round"
        )


def _moved(layers: Layers, sent_then: Weights, sent_now: Weights) -> Layers:
    """What the site learnt from an earlier model, added to the present one."""
    then, now = Layers.of(sent_then), Layers.of(sent_now)

    def moved(name: str, part: slice) -> NDArray[np.float32]:
        learnt: NDArray[np.float32] = layers.part(name, part).astype(np.float32) - then.part(name, part)
        return np.asarray(learnt + now.part(name, part), np.float32)

    return Layers(layers.shapes, np.dtype(np.float32), moved)
