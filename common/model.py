"""A model is its recipe's networks, one a stage, and their weights under names like `stage1.encoder.0.weight`."""

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from common.checkpoint import Weights, load_into
from common.errors import CheckpointError
from common.networks import build_network, initialise
from common.recipe import Recipe


def build_model(recipe: Recipe, seed: int = 0) -> dict[str, nn.Module]:
    """Returns freshly initialised networks by stage (Kaiming normal); the same seed gives the same weights."""
    networks = {}
    for number, (stage, config) in enumerate(recipe.stages.items()):
        networks[stage] = build_network(config.network, config.patch_size)
        initialise(networks[stage], seed * 2 + number)
    return networks


def model_weights(networks: Mapping[str, nn.Module]) -> Weights:
    """Returns every weight as fp32 on the CPU, copied, under `<stage>.<name>`."""
    return {
        f"{stage}.{name}": tensor.detach().to("cpu", torch.float32).numpy().copy()
        for stage, network in networks.items()
        for name, tensor in network.state_dict().items()
    }


def load_model(recipe: Recipe, weights: Mapping[str, NDArray[Any]], device: torch.device) -> dict[str, nn.Module]:
    """Returns the recipe's networks on `device` with `weights`.

    Raises:
        CheckpointError: the weights belong to another network; the first name or shape that differs is named.
    """
    networks = _laid_out(recipe)
    foreign = [name for name in weights if name.split(".")[0] not in networks]
    if foreign:
        raise CheckpointError(
            f"checkpoint of another network: {foreign[0]} is not part of this model, which has {', '.join(networks)}; "
            "use the recipe it was trained with"
        )
    for stage, network in networks.items():
        load_into(network, weights, prefix=f"{stage}.")
    return {stage: network.to(device) for stage, network in networks.items()}


def _laid_out(recipe: Recipe) -> dict[str, nn.Module]:
    """Networks by stage whose weights are memory and no numbers yet: to draw some takes longer than to copy others."""
    with torch.device("meta"):
        laid_out = {stage: build_network(each.network, each.patch_size) for stage, each in recipe.stages.items()}
    return {stage: network.to_empty(device="cpu") for stage, network in laid_out.items()}
