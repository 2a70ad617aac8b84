"""What a network's finest skip connection carries, before and after its ASPP (paper, figure 5); taken by forward hooks.

Nothing is asked of a network but that it goes down from the patch's own size: the finest skip connection carries the
last map of that size before the first smaller one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.networks.blocks import Aspp
from common.windows import evaluating

Maps = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SkipMaps:
    """Maps (c, z, y, x) of one patch's size."""

    before: Maps
    """As the encoder gives them."""
    after: Maps | None
    """As they come out of the ASPP; None for a network without one."""


@dataclass
class _Seen:
    """What hooks have seen of one forward pass."""

    size: torch.Size
    last: Tensor | None = None
    before: Tensor | None = None
    after: Tensor | None = None

    def note(self, module: nn.Module, _: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or output.ndim != 5:
            return
        if output.shape[2:] == self.size:
            self.last = output
            if isinstance(module, Aspp):
                self.after = output.clone()
        elif self.before is None and self.last is not None:
            self.before = self.last.clone()  # later modules may write into it


def skip_maps(network: nn.Module, patch: Maps, device: torch.device) -> SkipMaps | None:
    """Returns the maps of the finest skip connection; None for a network that never gets smaller.

    Args:
        network: on `device`; runs in evaluation mode, and leaves in the mode it came in.
        patch: (C, z, y, x), normalised, of the network's patch size.
        device: where the network computes.
    """
    seen = _Seen(torch.Size(patch.shape[1:]))
    with _hooked(network, seen), evaluating(network), torch.inference_mode():
        network(torch.from_numpy(patch[None]).to(device))
    if seen.before is None:
        return None
    return SkipMaps(_array(seen.before), None if seen.after is None else _array(seen.after))


@contextmanager
def _hooked(network: nn.Module, seen: _Seen) -> Iterator[None]:
    handles = [module.register_forward_hook(seen.note) for module in network.modules() if module is not network]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _array(maps: Tensor) -> Maps:
    return maps[0].float().cpu().numpy()
