"""A site's SGD momentum between rounds, for recipes that keep it (`momentum_across_rounds: keep`).

FOLDER/<stage>-<epochs done>.safetensors; the last two stay, so that a round which is asked for again, because the
coordinator stopped before its reply was recorded, finds what it started from.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from common.checkpoint import Array, Weights, load_weights, save_weights
from common.errors import CheckpointError


def save_momentum(folder: Path, stage: str, momentum: Mapping[str, Array | Tensor], before: int, after: int) -> None:
    """Writes the momentum of every parameter, by its name, and forgets all but the epochs `before` and `after`."""
    save_weights(_path(folder, stage, after), momentum, {})
    for path in folder.glob(f"{stage}-*.safetensors"):
        if path not in (_path(folder, stage, before), _path(folder, stage, after)):
            path.unlink()


def load_momentum(folder: Path, stage: str, epochs_done: int) -> Weights:
    """Returns the momentum after `epochs_done` epochs, by its parameter's name.

    Raises:
        CheckpointError: there is none, for instance because the site missed a round.
    """
    path = _path(folder, stage, epochs_done)
    if not path.exists():
        raise CheckpointError(
            f"{path}: no momentum of {stage} after {epochs_done} epochs here, a round was missed; "
            "start the step again, or use momentum_across_rounds: reset"
        )
    return load_weights(path)[0]


def momentum_of(optimiser: torch.optim.SGD, network: nn.Module) -> dict[str, Tensor]:
    """Returns the momentum of every parameter that has one, by its name."""
    return {
        name: optimiser.state[parameter]["momentum_buffer"]
        for name, parameter in network.named_parameters()
        if parameter in optimiser.state
    }


def put_momentum(optimiser: torch.optim.SGD, network: nn.Module, momentum: Mapping[str, Array]) -> None:
    """Puts momentum, by its parameter's name, into `optimiser`."""
    for name, parameter in network.named_parameters():
        if name in momentum:
            value = torch.from_numpy(momentum[name]).to(parameter.device)
            optimiser.state[parameter]["momentum_buffer"] = value


def _path(folder: Path, stage: str, epochs_done: int) -> Path:
    return folder / f"{stage}-{epochs_done}.safetensors"
