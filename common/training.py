"""Training of one stage over a span of global epochs (paper, section 3.A.1).

The random stream of an epoch depends on the seed, the stage and the epoch's global number alone, so a round that starts
at epoch 40 draws what an unbroken run draws there.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.augment import augment
from common.cache import CachedCase
from common.device import autocast
from common.errors import WorkError
from common.losses import segmentation_loss
from common.networks import seed_dropout
from common.prefetch import prefetched
from common.recipe import Recipe, TrainingConfig
from common.sampling import centred_patch, jittered_centre, random_patch
from common.statistics import Normalisation


@dataclass(frozen=True)
class Span:
    """Which global epochs to train, and the schedule that they are part of."""

    first_epoch: int
    num_epochs: int
    epochs_total: int
    lr0: float
    seed: int
    proximal_mu: float = 0.0


def poly_lr(lr0: float, epoch: int, epochs_total: int, power: float) -> float:
    """Returns lr0 (1 - epoch / epochs_total) ** power for a global epoch counted from 0 (paper, section 3.A.1)."""
    return float(lr0 * (1.0 - epoch / epochs_total) ** power)


def make_optimiser(network: nn.Module, config: TrainingConfig, lr: float) -> torch.optim.SGD:
    """Returns SGD as the recipe has it (paper: momentum 0.99, no Nesterov, no weight decay)."""
    return torch.optim.SGD(
        network.parameters(),
        lr=lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def anchor(network: nn.Module, span: Span) -> list[Tensor]:
    """Returns what FedProx holds on to, copies of the parameters as they are now; none without FedProx."""
    return [parameter.detach().clone() for parameter in network.parameters()] if span.proximal_mu else []


def train_stage(
    network: nn.Module,
    stage: str,
    cases: Sequence[CachedCase],
    recipe: Recipe,
    span: Span,
    normalisation: Normalisation,
    optimiser: torch.optim.SGD,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    received: Sequence[Tensor] | None = None,
) -> list[float]:
    """Trains `network` in place and returns the mean loss of each epoch.

    Args:
        network: on its device, in any mode.
        stage: "stage1" (random patches, a share forced onto foreground) or "stage2" (crops round the true centroid).
        cases: the site's training cases; one patch (`patches_per_case`) of each an epoch.
        recipe: gives patch sizes, augmentation and optimisation.
        span: the global epochs to train.
        normalisation: of the federation.
        optimiser: made by `make_optimiser`; its momentum is used and updated.
        on_epoch: called with the global epoch and its mean loss.
        received: the parameters that FedProx holds on to, where the network has gone on from them; None: as they are.

    Raises:
        WorkError: an epoch's loss is not a finite number.
    """
    network.train()
    on_gpu = next(network.parameters()).device.type == "cuda"
    if received is None:
        received = anchor(network, span)
    losses = []
    for epoch in range(span.first_epoch, span.first_epoch + span.num_epochs):
        rng = np.random.default_rng([span.seed, zlib.crc32(stage.encode()), epoch])
        for group in optimiser.param_groups:
            group["lr"] = poly_lr(span.lr0, epoch, span.epochs_total, recipe.training.power)
        seed_dropout(network, int(rng.integers(2**62)))
        batches = prefetched(_batches(stage, cases, recipe, normalisation, rng, on_gpu))
        losses.append(_train_epoch(network, batches, recipe, optimiser, received, span))
        if not math.isfinite(losses[-1]):
            raise WorkError(f"{stage}: loss of epoch {epoch} is {losses[-1]}; lower lr0 or set gradient_clip")
        on_epoch(epoch, losses[-1])
    return losses


def _train_epoch(
    network: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    recipe: Recipe,
    optimiser: torch.optim.SGD,
    received: Sequence[Tensor],
    span: Span,
) -> float:
    """One epoch; the loss is divided by the accumulation, and an odd last batch is flushed."""
    device = next(network.parameters()).device
    losses: list[Tensor] = []  # read at the end: to read one, a GPU's whole step has to be waited for
    optimiser.zero_grad(set_to_none=True)
    for images, labels in batches:
        with autocast(device, recipe.training.autocast):
            logits = network(images.to(device, non_blocking=True))
        loss = segmentation_loss(logits.float(), labels.to(device, non_blocking=True))
        (loss / recipe.training.accumulation).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        if len(losses) % recipe.training.accumulation == 0:
            _update(network, recipe.training, optimiser, received, span.proximal_mu)
    if len(losses) % recipe.training.accumulation:
        _update(network, recipe.training, optimiser, received, span.proximal_mu)
    return sum(map(float, losses)) / len(losses)


def _update(
    network: nn.Module,
    config: TrainingConfig,
    optimiser: torch.optim.SGD,
    received: Sequence[Tensor],
    proximal_mu: float,
) -> None:
    for parameter, start in zip(network.parameters() if received else (), received, strict=True):
        if parameter.grad is not None:  # FedProx, arXiv 1812.06127: the gradient of mu / 2 |w - w_t|^2
            parameter.grad.add_(parameter.detach() - start, alpha=proximal_mu)
    if config.gradient_clip:
        nn.utils.clip_grad_norm_(network.parameters(), config.gradient_clip)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def _batches(
    stage: str,
    cases: Sequence[CachedCase],
    recipe: Recipe,
    normalisation: Normalisation,
    rng: np.random.Generator,
    pinned: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (images bczyx, labels b1zyx), every case `patches_per_case` times, in random order.

    From `pinned` memory a GPU copies while it computes.
    """
    config = recipe.training
    order = rng.permutation(len(cases) * config.patches_per_case) % len(cases)
    for start in range(0, len(order), config.batch_size):
        pairs = [
            _patch(stage, cases[index], recipe, normalisation, rng)
            for index in order[start : start + config.batch_size]
        ]
        images, labels = (torch.stack(each) for each in zip(*pairs, strict=True))
        yield (images.pin_memory(), labels.pin_memory()) if pinned else (images, labels)


def _patch(
    stage: str, case: CachedCase, recipe: Recipe, normalisation: Normalisation, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    config, stage_config = recipe.training, recipe.stages[stage]
    if stage == "stage2":
        centre = jittered_centre(case, config.jitter_voxels, rng)
        image, label = centred_patch(case, stage_config.patch_size, centre, normalisation)
    else:
        foreground = bool(rng.random() < config.foreground_fraction)
        image, label = random_patch(case, stage_config.patch_size, rng, foreground, normalisation)
    return augment(
        torch.from_numpy(image),
        torch.from_numpy(label),
        recipe.preprocess.spacing_mm,
        config.augmentation,
        rng,
        normalisation.air,
    )
