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

from common.augment import augment, draw_change
from common.cache import CachedCase
from common.device import autocast
from common.errors import WorkError
from common.losses import segmentation_loss
from common.networks import draw_whole_batches, seed_dropout
from common.prefetch import prefetched
from common.recipe import Recipe, TrainingConfig
from common.replicas import exchange, replicated, summed
from common.sampling import Patch, centred_patch, jittered_centre, random_patch
from common.shares import WHOLE, Part, Share, deal
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


@dataclass(frozen=True)
class Batch:
    """What a device sees in a forward pass, all of a batch or its part of it."""

    images: Tensor
    """bczyx."""
    labels: Tensor
    """b1zyx."""
    part: Part
    others: tuple[int, ...] = ()
    """Patches of the batches since the device's last one, which others see."""


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
    share: Share = WHOLE,
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
        share: what this device trains of every update, where several train the network in processes that have met.

    Raises:
        WorkError: an epoch's loss is not a finite number.
    """
    network.train()
    on_gpu = next(network.parameters()).device.type == "cuda"
    if received is None:
        received = anchor(network, span)
    replica = replicated(network, share)
    losses = []
    for epoch in range(span.first_epoch, span.first_epoch + span.num_epochs):
        rng = np.random.default_rng([span.seed, zlib.crc32(stage.encode()), epoch])
        for group in optimiser.param_groups:
            group["lr"] = poly_lr(span.lr0, epoch, span.epochs_total, recipe.training.power)
        seed_dropout(network, int(rng.integers(2**62)))
        batches = prefetched(_batches(stage, cases, recipe, normalisation, rng, on_gpu, share))
        losses.append(_train_epoch(network, replica, batches, recipe, optimiser, received, span, share))
        if not math.isfinite(losses[-1]):
            raise WorkError(f"{stage}: loss of epoch {epoch} is {losses[-1]}; lower lr0 or set gradient_clip")
        on_epoch(epoch, losses[-1])
    return losses


def _train_epoch(
    network: nn.Module,
    replica: nn.Module,
    batches: Iterator[Batch],
    recipe: Recipe,
    optimiser: torch.optim.SGD,
    received: Sequence[Tensor],
    span: Span,
    share: Share,
) -> float:
    """One epoch; the loss is divided by the accumulation, and an odd last batch is flushed."""
    device = next(network.parameters()).device
    losses: list[Tensor] = []  # read at the end: to read one, a GPU's whole step has to be waited for
    weights: list[float] = []
    optimiser.zero_grad(set_to_none=True)
    for batch in batches:
        if share != WHOLE:
            draw_whole_batches(network, (*batch.others, batch.part.size), batch.part.start)
        with exchange(replica, batch.part):
            with autocast(device, recipe.training.autocast):
                logits = replica(batch.images.to(device, non_blocking=True))
            loss = segmentation_loss(logits.float(), batch.labels.to(device, non_blocking=True))
            (loss / batch.part.divisor).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        weights.append(batch.part.weight)
        if batch.part.ends_update:
            _update(network, recipe.training, optimiser, received, span.proximal_mu)
    whole = sum(float(loss) * weight for loss, weight in zip(losses, weights, strict=True))
    total, num_batches = summed([whole, sum(weights)], share, device)
    return total / num_batches


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
    share: Share = WHOLE,
) -> Iterator[Batch]:
    """Yields the share's part of every batch, every case `patches_per_case` times, in random order.

    All patches are drawn, so that those of the share are the same as on one device; the others are not made. From
    `pinned` memory a GPU copies while it computes.
    """
    order = rng.permutation(len(cases) * recipe.training.patches_per_case) % len(cases)
    first, others = 0, []
    for part in deal(len(order), recipe.training, share):
        pairs = []
        for place, index in enumerate(order[first : first + part.size]):
            make = _drawn_patch(stage, cases[index], recipe, normalisation, rng)
            if part.start <= place < part.stop:
                pairs.append(make())
        first += part.size
        if not pairs:
            others.append(part.size)
            continue
        images, labels = (torch.stack(each) for each in zip(*pairs, strict=True))
        both = (images.pin_memory(), labels.pin_memory()) if pinned else (images, labels)
        yield Batch(*both, part, tuple(others))
        others = []


def _drawn_patch(
    stage: str, case: CachedCase, recipe: Recipe, normalisation: Normalisation, rng: np.random.Generator
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Returns what makes a patch that is drawn now; its resampling takes most of the time."""
    spacing_mm = recipe.preprocess.spacing_mm
    image, label = _random_patch(stage, case, recipe, normalisation, rng)
    change = draw_change(image.shape, spacing_mm, recipe.training.augmentation, rng)
    return lambda: augment(torch.from_numpy(image), torch.from_numpy(label), change, spacing_mm, normalisation.air)


def _random_patch(
    stage: str, case: CachedCase, recipe: Recipe, normalisation: Normalisation, rng: np.random.Generator
) -> Patch:
    config, patch_size = recipe.training, recipe.stages[stage].patch_size
    if stage == "stage2":
        return centred_patch(case, patch_size, jittered_centre(case, config.jitter_voxels, rng), normalisation)
    foreground = bool(rng.random() < config.foreground_fraction)
    return random_patch(case, patch_size, rng, foreground, normalisation)
