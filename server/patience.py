"""How long replies are waited for: with the quorum in, as long as rounds have taken."""

import math
import time
from collections.abc import Sequence
from statistics import median

from common.experiment import RoundConfig

NUM_EARLIER = 5
"""So many of the last rounds say how long one takes."""


class Patience:
    """How long replies are waited for: once there are enough, by how long that took or took before."""

    def __init__(self, config: RoundConfig, earlier_s: Sequence[float] = (), begun_s: float = 0.0) -> None:
        """`earlier_s`: how long the same took before, the latest last; `begun_s`: how long ago this was begun."""
        self._config = config
        self._earlier_s = tuple(earlier_s[-NUM_EARLIER:])
        self._started = time.monotonic() - begun_s
        self._enough_after_s: float | None = None
        self._hopeless = False

    def note(self, enough: bool, hopeless: bool) -> None:
        """Whether there are enough good replies now, and whether there can no longer be."""
        self._hopeless = hopeless
        if enough and self._enough_after_s is None:
            self._enough_after_s = time.monotonic() - self._started

    @property
    def deadline(self) -> float:
        """By the monotonic clock."""
        if self._hopeless:
            return -math.inf
        longest = self._started + self._config.timeout_s
        if self._enough_after_s is None:
            return longest
        typical_s = median(self._earlier_s) if self._earlier_s else self._enough_after_s
        least_s = self._enough_after_s + self._config.grace_s
        return min(longest, self._started + max(least_s, self._config.patience * typical_s))
