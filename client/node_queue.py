"""The messages that wait at a node for the work at hand to end, and Flower's calls that bring them.

A site slower than the others gets more rounds than it can train. Of a run's rounds of one model the latest alone waits:
nobody waits for the others any more, and each holds a whole model. Flower promises no order, so the latest is the one
that was sent last and has the highest number. Where the two differ both stay, for a coordinator that lost a round asks
for an earlier one, and its clock may jump.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.run import Run, RunNotRunningException

from client.handover import Handover
from client.node_messages import Contents, inflated, pulled
from client.received_objects import ReceivedObjects
from common import wire
from common.tasks import TrainTask

log = logging.getLogger("fedgtv.site")
MANY = 100
"""Messages that are taken in at one go."""


@dataclass(eq=False)
class Kept:
    """A message that waits, with the tree of its objects; where it was looked at, these and the round it asks for."""

    message: Message
    tree: Any
    contents: Contents | None = None
    task: TrainTask | None = None

    @property
    def is_training(self) -> bool:
        """Whether it asks for a round of training, readable or not."""
        return self.message.metadata.message_type == wire.TRAIN

    def overtakes(self, other: "Kept") -> bool:
        """Whether nobody waits for `other` any more: its round has passed, or was asked for again by this message."""
        return self._is_of_run_and_model(other) and self._number >= other._number and self._sent > other._sent

    def follows(self, other: "Kept") -> bool:
        """Whether the run is at this round by now, and no longer at that of `other`."""
        if not self._is_of_run_and_model(other) or self._number == other._number:
            return False
        return self._number > other._number or self._sent > other._sent

    def _is_of_run_and_model(self, other: "Kept") -> bool:
        if self.task is None or other.task is None:
            return False
        same_run = self.message.metadata.run_id == other.message.metadata.run_id
        return same_run and self.task.model == other.task.model

    @property
    def _number(self) -> tuple[int, int]:
        assert self.task is not None
        return self.task.step, self.task.round

    @property
    def _sent(self) -> float:
        return float(self.message.metadata.created_at)


@dataclass(frozen=True)
class Link:
    """Flower's calls to the coordinator, as its loop gave them last."""

    receive: Callable[[], tuple[Message, Any] | None]
    pull_object: Callable[[int, str], bytes]
    confirm: Callable[[int, str], None]
    get_run: Callable[[int], Run]
    kept: ReceivedObjects | None = None
    """What was received before; None: nothing is known of it."""
    handover: Handover | None = None
    """Where a model goes; None: it stays in memory."""

    def received(self, at_most: int = MANY) -> Iterator[Kept]:
        """Gives the messages that wait at the coordinator."""
        for _ in range(at_most):
            if (received := self.receive()) is None:
                return
            yield Kept(*received)

    def contents(self, message: Message, tree: Any) -> Contents:
        """Returns a message's objects, and says that it was received."""
        run_id = int(message.metadata.run_id)
        pull = partial(self.pull_object, run_id)
        contents = pulled(tree, self.kept.before(pull) if self.kept else pull, self.handover)
        self.confirm(run_id, message.metadata.message_id)
        if self.kept:
            self.kept.trim()
        return contents


class Queue:
    """The messages that wait, in the order in which they came."""

    def __init__(self, passed_over: Callable[[Kept], None]) -> None:
        """`passed_over` is called with each round that a later one has taken the place of."""
        self._kept: list[Kept] = []
        self._taken: Kept | None = None
        """The task that was taken out last, without its objects."""
        self._passed_over = passed_over

    def __bool__(self) -> bool:
        return bool(self._kept)

    @property
    def chunks(self) -> set[str]:
        """The ids of what waits in the handover."""
        return {name for kept in self._kept if kept.contents for name in kept.contents.chunks}

    def add(self, kept: Kept) -> None:
        """Puts a message last."""
        self._kept.append(kept)

    def next(self, link: Link) -> Kept | None:
        """Takes out the message to be done next: first whoever asks how far the site is, so all is taken in for it.

        So it is for a round of training, which another may wait behind.
        """
        if not self._kept:
            self._kept.extend(link.received(1))
        if any(kept.is_training or wire.is_progress(kept.message) for kept in self._kept):
            self._kept.extend(link.received())
        for kept in self._kept:
            if wire.is_progress(kept.message):
                self._kept.remove(kept)
                return kept
        self.settle(link)
        if not self._kept:
            return None
        kept = self._kept.pop(0)
        self._taken = replace(kept, tree=None, contents=None)
        return kept

    def settle(self, link: Link) -> None:
        """Looks at the rounds that came since, and keeps of each run and model the latest.

        One model after another is received, and let go of before the next. A message that cannot be received whole, or
        whose run has ended, is dropped.
        """
        for kept in [each for each in self._kept if each.is_training and each.contents is None]:
            try:
                self._look_at(kept, link)
            except RunNotRunningException:
                log.info("the run of a message that waited has ended; it is left")
                self._kept.remove(kept)
            except ObjectPullError as error:
                log.warning("a message could not be received whole; it is left: %s", error)
                self._kept.remove(kept)
            self._pass_over()

    @property
    def is_past_taken(self) -> bool:
        """Whether the round that was taken out last is one that its run is no longer at."""
        return self._taken is not None and any(kept.follows(self._taken) for kept in self._kept)

    def _look_at(self, kept: Kept, link: Link) -> None:
        """Whatever a broken message sets off is told when its turn comes."""
        kept.contents = link.contents(kept.message, kept.tree)
        with suppress(Exception):
            kept.task = wire.read_train_task(inflated(kept.message, kept.contents))

    def _pass_over(self) -> None:
        later = [*self._kept, *([self._taken] if self._taken else [])]
        for kept in [each for each in self._kept if any(other.overtakes(each) for other in later)]:
            self._kept.remove(kept)
            self._passed_over(kept)
