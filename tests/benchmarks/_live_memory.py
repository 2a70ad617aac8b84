"""Bytes of live tensors during a training step, without computing it and without a GPU."""

import weakref

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.losses import segmentation_loss
from common.recipe import TrainingConfig
from common.training import make_optimiser


class LiveBytes(TorchDispatchMode):
    """Adds up the storages that operations make, from when they are made until nothing refers to them."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = {}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Runs the operation and looks at what it made."""
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage):
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key):
        self.now -= self._known.pop(key)


def step_bytes(make_network, patch_size, bf16):
    """Returns the most bytes of live tensors in two updates of two batches of one patch each, by shapes alone.

    Weights, gradients, momentum, what forward keeps for backward and what backward makes. Not: the workspace of
    convolutions, what an allocator wastes, a GPU's context.
    """
    with FakeTensorMode(), LiveBytes() as live:
        network = make_network()
        optimiser = make_optimiser(network, TrainingConfig(), 0.01)
        for batch in range(4):
            image, label = (torch.zeros(1, 1, *patch_size) for _ in range(2))
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = network(image)
            (segmentation_loss(logits.float(), label) / 2).backward()
            if batch % 2:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
    return live.peak
