"""Processes that train one network together: what they exchange, and that all networks let them.

With two processes and gloo; training itself is compared in tests/test_client_stage_team.py.
"""

import math
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from common.networks import build_network
from common.recipe import NetworkConfig
from common.replicas import exchange, meet, replicated, summed
from common.shares import WHOLE, Part, Share

torch.set_num_threads(1)
CPU = torch.device("cpu")
LAST = Part(1, 0, 1, 1.0, 1.0, ends_update=True)
NOT_LAST = Part(1, 0, 1, 1.0, 1.0, ends_update=False)


def both_sides(share: Share, meeting: Path, pipe: Connection) -> None:
    """Sends the gradient after each of two passes, whose losses are the weight times 1 and 10, or 2 and 20."""
    meet(share, meeting, CPU)
    network = nn.Linear(1, 1, bias=False)
    replica = replicated(network, share)
    nn.init.constant_(network.weight, 1.0 + share.rank)
    told = []
    for part, factor in ((NOT_LAST, 1.0), (LAST, 10.0)):
        with exchange(replica, part):
            replica(torch.full((1, 1), factor * (1 + share.rank))).sum().backward()
        assert network.weight.grad is not None
        told.append(network.weight.grad.item())
    pipe.send((told, summed([1.0 + share.rank, 0.5], share, CPU)))


def test_gradients_add_up_here_and_are_averaged_over_all_at_the_end_of_an_update(tmp_path: Path) -> None:
    """11 in one process and 22 in the other."""
    context, pipes, processes = get_context("spawn"), [], []
    for rank in range(2):
        ours, theirs = context.Pipe(duplex=False)
        processes.append(context.Process(target=both_sides, args=(Share(rank, 2), tmp_path / "meeting", theirs)))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    told = [pipe.recv() for pipe in pipes]
    for process, pipe in zip(processes, pipes, strict=True):
        process.join()
        pipe.close()
    assert told == [([1.0, 16.5], [3.0, 1.0]), ([2.0, 16.5], [3.0, 1.0])]


def test_a_device_alone_meets_nobody_and_exchanges_nothing(tmp_path: Path) -> None:
    meet(WHOLE, tmp_path / "meeting", CPU)
    assert [*tmp_path.iterdir()] == []
    assert not distributed.is_initialized()
    network = nn.Linear(1, 1)
    assert replicated(network, WHOLE) is network
    with exchange(network, NOT_LAST):
        network(torch.ones(1, 1)).sum().backward()
    assert network.weight.grad is not None
    assert summed([0.1, math.inf], WHOLE, CPU) == [0.1, math.inf]


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("kind", ["mdr-unet", "voxresnet", "attention-unet", "unet++"])
def test_every_parameter_of_every_network_has_a_part_in_the_exchange(kind: str) -> None:
    """One without a gradient would be waited for; and what all would have to agree on beside parameters is none."""
    widths = {"widths": (4,) * 5} if kind == "unet++" else {"widths": (4, 4), "strides": ((2, 2, 2),)}
    network = build_network(NetworkConfig.model_validate({"kind": kind} | widths), (16, 16, 32))
    replica = replicated(network, Share(0, 2))
    for _ in range(2):
        replica(torch.randn(1, 1, 16, 16, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert [*network.buffers()] == []
