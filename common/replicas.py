"""Processes that train one network together, each on a device of its own, by torch's DistributedDataParallel.

Each holds the whole network and trains its share of every update (`common/shares.py`). The gradients of all are
averaged before the weights change, so that all change them alike.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from common.shares import Part, Share

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""All processes are on one machine, and no other machine may reach them."""


def meet(share: Share, meeting: Path, device: torch.device) -> None:
    """Returns when all processes of the group are there: by NCCL for GPUs, by gloo for CPUs; alone, at once.

    Args:
        share: this process's, in the group.
        meeting: a file that is not there yet, the same for all; its folder may be nobody else's.
        device: this process's.
    """
    if share.of == 1:
        return
    os.environ.update(LOOPBACK)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, f"file://{meeting}", rank=share.rank, world_size=share.of)


def replicated(network: nn.Module, share: Share) -> nn.Module:
    """Returns what runs `network` forward so that a backward pass leaves the mean of all processes' gradients in it.

    A device that trains alone gets the network itself.
    """
    if share.of == 1:
        return network
    device = next(network.parameters()).device
    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids, gradient_as_bucket_view=True)


def exchange(replica: nn.Module, part: Part) -> AbstractContextManager[None]:
    """Gradients are exchanged in passes within it if the part ends an update; else they add up in this process."""
    if isinstance(replica, DistributedDataParallel) and not part.ends_update:
        return replica.no_sync()
    return nullcontext()


def summed(values: Sequence[float], share: Share, device: torch.device) -> list[float]:
    """Returns the sums over all processes; of a device that trains alone, the values."""
    if share.of == 1:
        return [*values]
    total = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return [*total.tolist()]
