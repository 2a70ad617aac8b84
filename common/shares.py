"""Which patches of an update each of several devices trains, so that together they make the update of one.

An update's patches, those of `accumulation` batches, are dealt in order: of n patches the first of k devices takes the
first n / k, the second those that follow. A forward pass sees a part of one batch, and its loss is divided so that
the mean of all devices' gradients is the gradient of the whole update.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from common.recipe import TrainingConfig


@dataclass(frozen=True)
class Share:
    """One of `of` devices that train the same network; `rank` counts from 0."""

    rank: int = 0
    of: int = 1


WHOLE = Share()
"""Of a device that trains alone."""


@dataclass(frozen=True)
class Part:
    """What a share takes of a batch: nothing, or the patches from `start` to `stop` of `size`, in one forward pass."""

    size: int
    start: int
    stop: int
    weight: float
    """Of its mean loss in the batch's; 0: it is trained for nothing, or not at all."""
    divisor: float
    """Of its mean loss before the backward pass."""
    ends_update: bool
    """Whether it is the share's last one before the weights change."""


def most_devices(config: TrainingConfig, available: int) -> int:
    """Returns how many of `available` devices can train one network: the most that part an update's patches evenly."""
    num_patches = config.batch_size * config.accumulation
    return max(each for each in range(1, available + 1) if num_patches % each == 0)


def deal(num_patches: int, config: TrainingConfig, share: Share) -> Iterator[Part]:
    """Yields the share's part of every batch of an epoch, in order.

    An epoch's last update may have fewer patches than devices. A device that gets none trains the update's first patch
    for nothing, since all have to take part in the exchange of gradients.
    """
    whole_update = config.batch_size * config.accumulation
    for first in range(0, num_patches, whole_update):
        total = min(whole_update, num_patches - first)
        low, high = (total * rank // share.of for rank in (share.rank, share.rank + 1))
        for begin in range(0, total, config.batch_size):
            size = min(config.batch_size, total - begin)
            start, stop = (min(max(place - begin, 0), size) for place in (low, high))
            if low == high:
                yield Part(size, 0, int(begin == 0), 0.0, math.inf, ends_update=begin == 0)
            else:
                yield _part(size, start, stop, config.accumulation, share, ends_update=begin < high <= begin + size)


def _part(size: int, start: int, stop: int, accumulation: int, share: Share, ends_update: bool) -> Part:
    weight = (stop - start) / size
    return Part(size, start, stop, weight, accumulation / (weight * share.of) if weight else math.inf, ends_update)
