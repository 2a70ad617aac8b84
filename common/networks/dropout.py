"""Dropout with a random stream of its own, so that several sites can train in one process and repeat themselves."""

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

    def seed(self, seed: int) -> None:
        """Starts the stream anew."""
        self._seed = seed
        self._generator = None

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; unchanged in evaluation mode."""
        if not self.training or self.p == 0.0:
            return x
        if self._generator is None or self._generator.device != x.device:
            self._generator = torch.Generator(x.device).manual_seed(self._seed)
        kept = torch.empty_like(x).bernoulli_(1.0 - self.p, generator=self._generator)
        return x * kept / max(1.0 - self.p, torch.finfo(x.dtype).tiny)


def seed_dropout(network: nn.Module, seed: int) -> None:
    """Starts the stream of every dropout in `network` anew, each with a seed of its own."""
    layers = [module for module in network.modules() if isinstance(module, Dropout)]
    for number, layer in enumerate(layers):
        layer.seed((seed + number) % 2**63)
