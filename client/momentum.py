"""A site's SGD momentum between rounds, for recipes that keep it (`momentum_across_rounds: keep`)."""

from pathlib import Path

import torch
from common.checkpoint import load_weights, save_weights
from torch import nn

from common.errors import CheckpointError

_EPOCHS = "epochs_done"


def save_momentum(path: Path, optimiser: torch.optim.SGD, network: nn.Module, epochs_done: int) -> None:
    """Writes the momentum of every parameter, by its name, with the global epoch it belongs to."""
    buffers = {
        name: optimiser.state[parameter]["momentum_buffer"]
        for name, parameter in network.named_parameters()
        if parameter in optimiser.state
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, buffers, {_EPOCHS: str(epochs_done)})


def load_momentum(path: Path, optimiser: torch.optim.SGD, network: nn.Module, epochs_done: int) -> None:
    """Puts the momentum at `path` into `optimiser`.

    Raises:
        CheckpointError: it belongs to another epoch, for instance because a round was missed.
    """
    buffers, metadata = load_weights(path)
    if metadata.get(_EPOCHS) != str(epochs_done):
        raise CheckpointError(
            f"{path.name}: momentum of epoch {metadata.get(_EPOCHS)}, expected {epochs_done}; start the step again"
        )
    for name, parameter in network.named_parameters():
        if name in buffers:
            momentum = torch.from_numpy(buffers[name]).to(parameter.device)
            optimiser.state[parameter]["momentum_buffer"] = momentum
