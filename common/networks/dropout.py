"""Dropout with a random stream of its own, so that several sites can train in one process and repeat themselves."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes single values with probability `p` while training and scales the rest by 1 / (1 - p).

    torch's own draws from one generator for the whole process: two sites that train at once would disturb each other.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self._seed = 0
        self._generator: torch.Generator | None = None
        self._sizes: tuple[int, ...] = ()
        self._start = 0

    def seed(self, seed: int) -> None:
        """Starts the stream anew."""
        self._seed = seed
        self._generator = None

    def draw_for(self, sizes: Sequence[int], start: int) -> None:
        """As `draw_whole_batches`."""
        self._sizes, self._start = tuple(sizes), start

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; unchanged in evaluation mode."""
        if not self.training or self.p == 0.0:
            return x
        if self._generator is None or self._generator.device != x.device:
            self._generator = torch.Generator(x.device).manual_seed(self._seed)
        return x * self._kept(x) / max(1.0 - self.p, torch.finfo(x.dtype).tiny)

    def _kept(self, x: Tensor) -> Tensor:
        """1 where a value stays."""
        kept = torch.empty_like(x)
        if not self._sizes:
            return kept.bernoulli_(1.0 - self.p, generator=self._generator)
        for size in self._sizes:
            kept = x.new_empty((size, *x.shape[1:])).bernoulli_(1.0 - self.p, generator=self._generator)
        return kept[self._start : self._start + len(x)]


def seed_dropout(network: nn.Module, seed: int) -> None:
    """Starts the stream of every dropout in `network` anew, each with a seed of its own."""
    for number, layer in enumerate(_layers(network)):
        layer.seed((seed + number) % 2**63)


def draw_whole_batches(network: nn.Module, sizes: Sequence[int], start: int) -> None:
    """Has each dropout in `network` draw, in the next forward pass, what a device draws that sees whole batches.

    Args:
        network: its next input is a part of a batch.
        sizes: patches of the batches since its last input, which other devices see, and of that batch.
        start: the input's first patch in that batch.
    """
    for layer in _layers(network):
        layer.draw_for(sizes, start)


def _layers(network: nn.Module) -> list[Dropout]:
    return [module for module in network.modules() if isinstance(module, Dropout)]
