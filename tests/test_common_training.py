"""Training: the schedule, momentum, accumulation, FedProx and clipping by hand; spans that join without a seam."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from common import training
from common.cache import CachedCase
from common.errors import WorkError
from common.networks import build_network, initialise
from common.recipe import AugmentationConfig, NetworkConfig, Recipe, StageConfig, TrainingConfig
from common.shares import WHOLE, Share
from common.statistics import Normalisation
from common.training import Span, make_optimiser, poly_lr, train_stage

torch.set_num_threads(1)
UNIT = Normalisation(0.0, 1.0)
PLAIN = AugmentationConfig(enabled=False)
TINY = NetworkConfig(widths=(2, 4), strides=((2, 2, 2),), aspp=None, encoder_dropout=0.3)


@dataclass
class Case:
    """A cube of one HU value with a block of target."""

    hu: int
    size: int = 10

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.size, self.size, self.size

    @property
    def image(self) -> NDArray[np.int16]:
        return np.full((1, *self.shape), self.hu, np.int16)

    @property
    def label(self) -> NDArray[np.uint8]:
        label = np.zeros(self.shape, np.uint8)
        label[3:6, 2:7, 4:8] = 1
        return label

    @property
    def foreground_voxels(self) -> NDArray[np.int32]:
        return np.argwhere(self.label).astype(np.int32)

    @property
    def centroid(self) -> tuple[float, ...]:
        return tuple(self.foreground_voxels.mean(axis=0).tolist())


class Gain(nn.Module):
    """One weight; it notes the mean intensity of each batch that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.seen: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(float(x.mean()))
        return self.weight * x


def cases(*values: int) -> list[CachedCase]:
    return [Case(hu) for hu in values]  # type: ignore[misc]


def recipe(**fields: object) -> Recipe:
    config = TrainingConfig.model_validate({"autocast": "off", "augmentation": PLAIN} | fields)
    stage = StageConfig(network=TINY, patch_size=(8, 8, 8))
    return Recipe(stage1=stage, stage2=stage, training=config)


def span(first: int = 0, num: int = 1, total: int = 4, **fields: float) -> Span:
    return replace(Span(first, num, total, lr0=0.1, seed=5), **fields)  # type: ignore[arg-type]


@pytest.fixture
def mean_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss whose gradient by `Gain`'s weight is the batch's mean intensity."""
    monkeypatch.setattr(training, "segmentation_loss", lambda logits, target: logits.mean())


def run_gain(made: Recipe, what: Span, *values: int) -> tuple[Gain, list[float]]:
    network = Gain()
    optimiser = make_optimiser(network, made.training, what.lr0)
    losses = train_stage(network, "stage1", cases(*values), made, what, UNIT, optimiser)
    return network, losses


def test_poly_schedule_by_hand() -> None:
    assert [poly_lr(0.01, epoch, 4, 1.0) for epoch in range(4)] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
    assert poly_lr(0.01, 50, 100, 0.9) == pytest.approx(0.01 * 0.535887, rel=1e-5)  # 0.5 ** 0.9


@settings(deadline=None, max_examples=25)  # torch's first step takes seconds
@given(st.integers(1, 6), st.integers(1, 6))
def test_the_schedule_over_rounds_is_that_of_an_unbroken_run(rounds: int, local_epochs: int) -> None:
    """Each optimiser step is asked for its rate: rounds of few epochs, and all epochs at once."""
    total = rounds * local_epochs

    def rates(spans: list[Span]) -> list[float]:
        network, used = nn.Conv3d(1, 1, 1), []
        optimiser = make_optimiser(network, recipe().training, 1.0)
        for each in spans:
            train_stage(
                network, "stage1", cases(1), tiny, each, UNIT, optimiser, lambda *_: used.append(_rate(optimiser))
            )
        return used

    tiny = recipe().model_copy(update={"stage1": StageConfig(network=TINY, patch_size=(2, 2, 2))})
    broken = rates([span(done, local_epochs, total) for done in range(0, total, local_epochs)])
    assert broken == rates([span(0, total, total)])
    assert broken == [poly_lr(0.1, epoch, total, 0.9) for epoch in range(total)]


def _rate(optimiser: torch.optim.SGD) -> float:
    return float(optimiser.param_groups[0]["lr"])


def test_the_optimiser_is_the_papers() -> None:
    group = make_optimiser(Gain(), TrainingConfig(), 0.01).param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.01, 0.99, False, 0.0)


@pytest.mark.usefixtures("mean_loss")
def test_accumulation_by_hand_and_the_odd_last_batch_is_flushed() -> None:
    """Two batches make the first update, the third alone the second; the loss is halved in both."""
    network, losses = run_gain(recipe(accumulation=2, momentum=0.5), span(), 1, 2, 4)
    first, second, third = network.seen
    assert {first, second, third} == {1.0, 2.0, 4.0}
    momentum = (first + second) / 2
    after_first = 1.0 - 0.1 * momentum
    after_second = after_first - 0.1 * (0.5 * momentum + third / 2)
    assert float(network.weight.detach()) == pytest.approx(after_second, rel=1e-6)
    assert losses == pytest.approx([(first + second + after_first * third) / 3])


class Voxelwise(nn.Module):
    """logit = w x + b."""

    def __init__(self, weight: float, bias: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x + self.bias


class Noise(Case):
    """A cube of random HU as large as the patch, so that every patch is the whole of it."""

    @property
    def image(self) -> NDArray[np.int16]:
        return np.random.default_rng(self.hu).integers(-100, 200, (1, *self.shape), np.int16)


def loss_and_gradient(x: NDArray[np.float64], t: NDArray[np.float64], w: float, b: float) -> tuple[float, ...]:
    """Returns the loss of `Voxelwise` and its derivatives by w and b, as differentiated on paper.

    L = mean(log(1 + e^l) - t l) + 1 - (2 O + 1) / S with l = w x + b, p = 1 / (1 + e^-l), O = sum(p t) and
    S = sum(p) + sum(t) + 1; dL/dl = (p - t) / n + ((2 O + 1) / S - 2 t) / S p (1 - p).
    """
    logits = w * x + b
    p = 1 / (1 + np.exp(-logits))
    ratio, total = 2 * (p * t).sum() + 1, p.sum() + t.sum() + 1
    loss = np.log1p(np.exp(logits)).mean() - (t * logits).mean() + 1 - ratio / total
    by_logit = (p - t) / p.size + (ratio / total - 2 * t) / total * p * (1 - p)
    return float(loss), float((by_logit * x).sum()), float(by_logit.sum())


def test_two_steps_of_the_real_loss_by_hand() -> None:
    """Two epochs of two batches, each epoch one update: loss, accumulation, momentum and schedule at once.

    Independent of the order of the cases, since both batches of an update see the same weights.
    """
    made = recipe(accumulation=2, momentum=0.9, power=0.9)
    both = [Noise(seed, size=8) for seed in (1, 2)]
    pairs = [(case.image[0] / 100.0, case.label.astype(np.float64)) for case in both]
    parameters, velocity, expected = np.array([0.3, -0.2]), np.zeros(2), []
    for rate in (0.5, 0.5 * (1 / 2) ** 0.9):
        results = np.array([loss_and_gradient(x, t, *parameters) for x, t in pairs])
        expected.append(results[:, 0].mean())
        velocity = 0.9 * velocity + results[:, 1:].sum(axis=0) / 2
        parameters = parameters - rate * velocity
    network = Voxelwise(0.3, -0.2)
    optimiser = make_optimiser(network, made.training, 0.5)
    what, scale = Span(0, 2, 2, lr0=0.5, seed=3), Normalisation(0.0, 100.0)
    losses = train_stage(network, "stage1", both, made, what, scale, optimiser)  # type: ignore[arg-type]
    assert losses == pytest.approx(expected, rel=1e-6)
    assert [network.weight.item(), network.bias.item()] == pytest.approx(parameters.tolist(), rel=1e-5)
    assert abs(parameters[0] - 0.3) > 0.01


@pytest.mark.usefixtures("mean_loss")
def test_nothing_is_left_over_when_the_batches_come_out_even() -> None:
    network, _ = run_gain(recipe(accumulation=2, momentum=0.0), span(), 1, 2, 4, 8)
    assert float(network.weight.detach()) == pytest.approx(1 - 0.1 * 15 / 2)


@pytest.mark.usefixtures("mean_loss")
def test_a_batch_is_the_mean_of_its_patches_and_cases_come_as_often_as_asked() -> None:
    network, _ = run_gain(recipe(accumulation=1, batch_size=2, patches_per_case=2, momentum=0.0), span(), 1, 2, 4)
    assert len(network.seen) == 3
    assert sum(network.seen) * 2 == 2 * (1 + 2 + 4)
    assert float(network.weight.detach()) == pytest.approx(1 - 0.1 * 7)


@pytest.mark.usefixtures("mean_loss")
def test_fedprox_by_hand() -> None:
    """The pull mu (w - w_received) is 0 at the first update; it counts whole however many batches are accumulated."""
    made = recipe(accumulation=1, momentum=0.0)
    network, _ = run_gain(made, span(proximal_mu=2.0), 3, 3)
    after_first = 1 - 0.1 * 3
    after_second = after_first - 0.1 * (3 + 2.0 * (after_first - 1))
    assert float(network.weight.detach()) == pytest.approx(after_second)
    plain, _ = run_gain(made, span(), 3, 3)
    assert float(plain.weight.detach()) == pytest.approx(1 - 0.1 * 6)


@pytest.mark.usefixtures("mean_loss")
def test_fedprox_pulls_to_what_was_received_over_all_epochs_of_a_round() -> None:
    made = recipe(accumulation=1, momentum=0.0, power=0.0)
    network, _ = run_gain(made, span(num=3, proximal_mu=1.0), 1)
    weight = 1.0
    for _ in range(3):
        weight -= 0.1 * (1 + (weight - 1.0))
    assert float(network.weight.detach()) == pytest.approx(weight)


@pytest.mark.usefixtures("mean_loss")
def test_the_gradient_is_clipped_after_the_pull() -> None:
    network, _ = run_gain(recipe(accumulation=1, momentum=0.0, gradient_clip=0.5), span(), 3, 3)
    assert float(network.weight.detach()) == pytest.approx(1 - 2 * 0.1 * 0.5, rel=1e-5)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_loss_is_that_of_the_network_that_was_given(stage: str) -> None:
    """The oracle: the network's own loss on its single patch, for an 8-voxel patch is the whole of an 8-voxel case."""
    network = tiny_network(dropout=0.0)
    whole = Case(20, size=8)
    image, label = torch.from_numpy(whole.image).float()[None], torch.from_numpy(whole.label).float()[None, None]
    with torch.no_grad():
        expected = float(training.segmentation_loss(network(image), label))
    optimiser = make_optimiser(network, recipe().training, 0.1)
    losses = train_stage(network, stage, [whole], recipe(), span(), UNIT, optimiser)  # type: ignore[list-item]
    assert losses == pytest.approx([expected], rel=1e-5)


def tiny_network(seed: int = 1, dropout: float = 0.3) -> nn.Module:
    network = build_network(TINY.model_copy(update={"encoder_dropout": dropout}), (8, 8, 8))
    initialise(network, seed)
    return network


VALUES = (-50, 0, 30, 80)


def train_rounds(keep: bool, *spans: Span, stage: str = "stage2") -> tuple[dict[str, Tensor], list[float]]:
    """Weights after the spans, each trained by a new network, as a site does; momentum goes along if it is kept."""
    made = recipe(batch_size=2, momentum=0.9, augmentation=AugmentationConfig(elastic_grid_mm=4.0))
    network, losses = tiny_network(), []
    optimiser = make_optimiser(network, made.training, 0.1)
    for each in spans:
        weights, momentum = network.state_dict(), optimiser.state_dict()
        network = tiny_network(seed=2)
        network.load_state_dict(weights)
        optimiser = make_optimiser(network, made.training, 0.1)
        if keep:
            optimiser.load_state_dict(momentum)
        losses += train_stage(network, stage, cases(*VALUES), made, each, Normalisation(0, 100), optimiser)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}, losses


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_two_rounds_with_momentum_kept_are_an_unbroken_run_bit_for_bit(stage: str) -> None:
    """Patches, augmentation, dropout, learning rate and momentum: a seam in any of them would show."""
    unbroken, losses = train_rounds(True, span(0, 2), stage=stage)
    rounds, round_losses = train_rounds(True, span(0, 1), span(1, 1), stage=stage)
    assert same(unbroken, rounds)
    assert losses == round_losses


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_patches_made_ahead_are_those_made_in_between(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, losses = train_rounds(True, span(0, 2), stage=stage)
    monkeypatch.setattr(training, "prefetched", lambda batches: batches)
    between, plain_losses = train_rounds(True, span(0, 2), stage=stage)
    assert same(ahead, between)
    assert losses == plain_losses


def test_patches_for_a_gpu_lie_in_pinned_memory_and_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU nothing can be pinned; a copy stands for it."""
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(Tensor, "pin_memory", pin)

    def made(for_gpu: bool) -> list[Tensor]:
        batches = training._batches(
            "stage1", cases(*VALUES), recipe(batch_size=2), UNIT, np.random.default_rng(0), for_gpu
        )
        return [tensor for batch in batches for tensor in (batch.images, batch.labels)]

    ours, theirs = made(False), made(True)
    assert len(ours) == 4
    assert all(tensor is copy for tensor, copy in zip(theirs, pinned, strict=True))
    assert all(torch.equal(one, two) for one, two in zip(ours, theirs, strict=True))
    train_rounds(True, span())  # on a CPU
    assert len(pinned) == 4


MOVED = AugmentationConfig(elastic_grid_mm=4.0, probability=0.7)


@pytest.mark.parametrize("num_devices", [2, 3, 6])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_several_devices_see_the_patches_of_one(stage: str, num_devices: int) -> None:
    made = recipe(batch_size=3, accumulation=2, augmentation=MOVED)

    def seen(share: Share) -> list[training.Batch]:
        rng = np.random.default_rng(0)
        return list(training._batches(stage, cases(*range(10)), made, Normalisation(0, 100), rng, False, share))

    whole = seen(WHOLE)
    assert [len(batch.images) for batch in whole] == [3, 3, 3, 1]
    for rank in range(num_devices):
        number = 0
        for batch in seen(Share(rank, num_devices)):
            number += len(batch.others)
            mine = slice(batch.part.start, batch.part.stop)
            assert torch.equal(batch.images, whole[number].images[mine])
            assert torch.equal(batch.labels, whole[number].labels[mine])
            number += 1


@pytest.mark.parametrize(("batch_size", "accumulation", "num_devices"), [(1, 2, 2), (4, 1, 2), (3, 2, 2), (2, 3, 6)])
def test_the_mean_of_the_gradients_of_several_devices_is_that_of_one(
    monkeypatch: pytest.MonkeyPatch, batch_size: int, accumulation: int, num_devices: int
) -> None:
    """One after another in this process, without changing the weights; dropout is on, and last updates are odd."""
    made = recipe(batch_size=batch_size, accumulation=accumulation, augmentation=MOVED)
    found: list[list[Tensor]] = []
    told: list[list[float]] = []

    def note(network: nn.Module, *_: object) -> None:
        found.append([parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None])
        network.zero_grad()

    monkeypatch.setattr(training, "_update", note)
    monkeypatch.setattr(training, "replicated", lambda network, share: network)
    monkeypatch.setattr(training, "summed", lambda values, *_: told.append(values) or values)

    def gradients(share: Share) -> list[list[Tensor]]:
        network, normalisation = tiny_network(), Normalisation(0, 100)
        found.clear()
        optimiser = make_optimiser(network, made.training, 0.1)
        train_stage(network, "stage2", cases(*range(7)), made, span(), normalisation, optimiser, share=share)
        return [*found]

    one = gradients(WHOLE)
    several = [gradients(Share(rank, num_devices)) for rank in range(num_devices)]
    assert len(one) == -(-7 // (batch_size * accumulation))
    for update, alone in enumerate(one):
        for number, gradient in enumerate(alone):
            mean = torch.stack([device[update][number] for device in several]).mean(dim=0)
            torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6)
    assert np.sum(told[1:], axis=0) == pytest.approx(told[0])  # of the losses, and of the batches


def test_momentum_that_is_reset_makes_another_model() -> None:
    unbroken, losses = train_rounds(True, span(0, 2))
    reset, reset_losses = train_rounds(False, span(0, 1), span(1, 1))
    assert not same(unbroken, reset)
    assert losses[0] == reset_losses[0]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, _ = train_rounds(True, span())
    torch.manual_seed(99)
    np.random.seed(99)
    again, _ = train_rounds(True, span())
    assert same(first, again)
    assert not same(first, train_rounds(True, span(seed=6))[0])
    assert not same(first, train_rounds(True, span(first=1))[0])
    assert not same(first, train_rounds(True, span(), stage="stage1")[0])


@pytest.mark.usefixtures("mean_loss")
def test_every_epoch_draws_anew() -> None:
    """At a constant rate, so that the draws alone tell epochs apart: the order of eight cases (one of 40320)."""
    made = recipe(power=0.0)
    orders = [run_gain(made, span(first), *range(8))[0].seen for first in (0, 1, 0)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(8))
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]


def test_training_leaves_the_global_generators_alone() -> None:
    """What builds the network draws from them (torch's own initialisation), so that stands outside."""
    network, made = tiny_network(), recipe(batch_size=2)
    optimiser = make_optimiser(network, made.training, 0.1)
    before = torch.get_rng_state()
    train_stage(network, "stage1", cases(*VALUES), made, span(), UNIT, optimiser)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.usefixtures("mean_loss")
def test_epochs_are_told_by_their_global_number() -> None:
    told: list[tuple[int, float]] = []
    network = Gain()
    optimiser = make_optimiser(network, recipe().training, 0.1)
    network.eval()
    losses = train_stage(
        network, "stage1", cases(1), recipe(), span(2, 2), UNIT, optimiser, lambda *line: told.append(line)
    )
    assert told == [(2, losses[0]), (3, losses[1])]
    assert network.training


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_stops_the_training(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(training, "segmentation_loss", lambda logits, target: logits.mean() * float(value))
    with pytest.raises(WorkError, match=f"stage1: loss of epoch 3 is {value}; lower lr0 or set gradient_clip"):
        run_gain(recipe(), span(3, 1), 1)


def test_stage_2_crops_lie_round_the_centroid_within_the_jitter(tmp_path: Path) -> None:
    """A ramp along x: the first voxel of each patch tells where it lies. Centroid x 19.5, half a patch 4."""

    class Ramp(Case):
        @property
        def image(self) -> NDArray[np.int16]:
            return np.broadcast_to(np.arange(self.size, dtype=np.int16), (1, *self.shape))

        @property
        def label(self) -> NDArray[np.uint8]:
            label = np.zeros(self.shape, np.uint8)
            label[18:22, 18:22, 18:22] = 1
            return label

    starts: list[int] = []

    class Watch(Gain):
        def forward(self, x: Tensor) -> Tensor:
            starts.extend(x[:, 0, 0, 0, 0].int().tolist())
            return super().forward(x)

    network, made = Watch(), recipe(jitter_voxels=2, patches_per_case=60, lr0=1e-9)
    optimiser = make_optimiser(network, made.training, 1e-9)
    case = Ramp(0, size=40)
    train_stage(network, "stage2", [case], made, span(lr0=1e-9), UNIT, optimiser)  # type: ignore[list-item]
    assert sorted(set(starts)) == [14, 15, 16, 17, 18]  # round(19.5) is 20
    starts.clear()
    train_stage(network, "stage1", [case], made, span(lr0=1e-9), UNIT, optimiser)  # type: ignore[list-item]
    assert min(starts) < 10
    assert max(starts) > 22
