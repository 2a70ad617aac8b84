"""Momentum between rounds: there and back, the two last kept, a missed round told."""

from pathlib import Path

import pytest
import torch
from torch import nn

from client.momentum import load_momentum, momentum_of, put_momentum, save_momentum
from common.errors import CheckpointError
from common.recipe import TrainingConfig
from common.training import make_optimiser

torch.set_num_threads(1)


def trained(steps: int, network: nn.Module, momentum: float = 0.5) -> torch.optim.SGD:
    """SGD after steps whose gradients are 1: the buffer is the sum of the momentum's powers."""
    optimiser = make_optimiser(network, TrainingConfig(momentum=momentum), 0.1)
    for _ in range(steps):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
    return optimiser


def buffers(optimiser: torch.optim.SGD, network: nn.Module) -> list[float]:
    return [float(optimiser.state[p]["momentum_buffer"].mean()) for p in network.parameters()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_there_and_back(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    optimiser = trained(3, network)
    assert buffers(optimiser, network) == [1.75] * 4
    save_momentum(tmp_path, "stage1", momentum_of(optimiser, network), 0, 2)
    fresh = make_optimiser(network, TrainingConfig(momentum=0.5), 0.1)
    put_momentum(fresh, network, load_momentum(tmp_path, "stage1", 2))
    assert buffers(fresh, network) == [1.75] * 4


def test_a_loaded_buffer_goes_on_as_the_old_one_would(tmp_path: Path) -> None:
    """1.75 after three steps, 0.5 x 1.75 + 1 = 1.875 after the fourth."""
    network = nn.Linear(2, 1)
    save_momentum(tmp_path, "stage1", momentum_of(trained(3, network), network), 0, 1)
    fresh = make_optimiser(network, TrainingConfig(momentum=0.5), 0.1)
    put_momentum(fresh, network, load_momentum(tmp_path, "stage1", 1))
    before = network.weight.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    fresh.step()
    assert buffers(fresh, network) == [1.875, 1.875]
    assert torch.allclose(before - network.weight, torch.full((1, 2), 0.1875))


def test_the_round_before_stays_so_that_a_round_can_be_asked_for_again(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    for before, after in ((0, 2), (2, 4), (4, 6)):
        for stage in ("stage1", "stage2"):
            save_momentum(tmp_path, stage, momentum_of(trained(after, network), network), before, after)
    assert names(tmp_path) == [f"stage{stage}-{epochs}.safetensors" for stage in (1, 2) for epochs in (4, 6)]


def test_a_step_that_starts_again_forgets_what_an_earlier_run_left(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    for before, after in ((6, 8), (0, 2)):
        save_momentum(tmp_path, "stage1", momentum_of(trained(1, network), network), before, after)
    assert names(tmp_path) == ["stage1-2.safetensors"]


def test_a_missed_round_is_told(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    save_momentum(tmp_path, "stage1", momentum_of(trained(1, network), network), 0, 2)
    words = r"stage1-4\.safetensors: no momentum of stage1 after 4 epochs here, .* start the step again"
    with pytest.raises(CheckpointError, match=words) as error:
        load_momentum(tmp_path, "stage1", 4)
    assert str(error.value).startswith(str(tmp_path))


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "stage1-2.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_momentum(tmp_path, "stage1", 2)


def test_without_momentum_there_is_nothing_to_keep(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    save_momentum(tmp_path, "stage1", momentum_of(trained(2, network, momentum=0.0), network), 0, 2)
    fresh = make_optimiser(network, TrainingConfig(momentum=0.0), 0.1)
    put_momentum(fresh, network, load_momentum(tmp_path, "stage1", 2))
    assert not fresh.state
