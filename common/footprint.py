"""How much memory a recipe needs, counted without using it: networks are laid out on torch's `meta` device.

Counted are weights, gradients, momentum and the tensors that the backward pass keeps, in fp32. Not counted is what the
convolutions' own workspaces take, for which `WORKSPACE` stands; autocast needs less.
"""

from functools import cache

import torch
from torch import nn

from common.networks import build_network
from common.recipe import Recipe, StageConfig

WORKSPACE = 1.25
"""[C] On top of what is counted; not measured on a GPU."""
WEIGHT_COPIES_ON_HOST = 4
"""Of all stages: as received, as networks, as returned, and the reply on its way."""
FP32 = 4


@cache
def training_bytes(recipe: Recipe) -> int:
    """Returns the bytes that training takes on its device: all stages' weights, and the needs of the larger stage."""
    largest = max(_step_bytes(stage, recipe.training.batch_size) for stage in recipe.stages.values())
    return int(WORKSPACE * (weight_bytes(recipe) + largest))


@cache
def stage_bytes(recipe: Recipe, stage: str, num_devices: int) -> int:
    """Returns the bytes that one stage takes on each of the devices that train it and nothing else."""
    config = recipe.training
    patches = min(config.batch_size, config.batch_size * config.accumulation // num_devices)
    weights = _weight_bytes(_laid_out(recipe.stages[stage]))
    return int(WORKSPACE * (weights + _step_bytes(recipe.stages[stage], patches)))


def host_bytes(recipe: Recipe, on_cpu: bool) -> int:
    """Returns the bytes of main memory that a training task takes besides the cases."""
    return WEIGHT_COPIES_ON_HOST * weight_bytes(recipe) + (training_bytes(recipe) if on_cpu else 0)


@cache
def weight_bytes(recipe: Recipe) -> int:
    """Returns the bytes of all stages' weights."""
    return sum(_weight_bytes(_laid_out(stage)) for stage in recipe.stages.values())


def _step_bytes(stage: StageConfig, batch_size: int) -> int:
    """Gradient and momentum, and what the backward pass keeps."""
    network = _laid_out(stage)
    return 2 * _weight_bytes(network) + kept_bytes(network, stage, batch_size)


def kept_bytes(network: nn.Module, stage: StageConfig, batch_size: int) -> int:
    """Returns the bytes of the tensors that a forward pass keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}
    weights = {id(parameter) for parameter in network.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in weights:
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor

    patch = torch.empty((batch_size, stage.network.in_channels, *stage.patch_size), device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(patch)
    return sum(kept.values())


def _laid_out(stage: StageConfig) -> nn.Module:
    """Returns the network without its dropout, which draws numbers, as `meta` cannot, and keeps next to nothing."""
    aspp = stage.network.aspp and stage.network.aspp.model_copy(update={"dropout": 0.0})
    config = stage.network.model_copy(update={"encoder_dropout": 0.0, "aspp": aspp})
    with torch.device("meta"):
        return build_network(config, stage.patch_size)


def _weight_bytes(network: nn.Module) -> int:
    return FP32 * sum(parameter.numel() for parameter in network.parameters())
