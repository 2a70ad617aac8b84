"""Dropout's own random stream: repeatable, scaled, and apart from torch's global generator."""

import pytest
import torch
from torch import nn

from common.networks import draw_whole_batches, seed_dropout
from common.networks.dropout import Dropout

torch.set_num_threads(1)
ONES = torch.ones(2, 3, 8, 8, 8)


def layer(p: float = 0.3, seed: int = 7) -> Dropout:
    made = Dropout(p)
    made.seed(seed)
    return made


def test_the_stream_repeats_for_a_seed() -> None:
    one, two = layer(), layer()
    first, second = one(ONES), one(ONES)
    assert not torch.equal(first, second)
    assert torch.equal(two(ONES), first)
    assert torch.equal(two(ONES), second)
    one.seed(7)
    assert torch.equal(one(ONES), first)
    assert not torch.equal(layer(seed=8)(ONES), first)


def test_the_stream_and_torchs_own_do_not_touch() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = layer()(ONES)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(layer()(ONES), first)


def test_values_are_zero_or_scaled_and_the_mean_is_kept() -> None:
    kept = layer(0.25)(torch.ones(200_000))
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    share = float((kept == 0).float().mean())
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 200_000) ** 0.5  # four standard errors
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.01)


def test_gradients_pass_where_values_do() -> None:
    x = torch.ones(64, requires_grad=True)
    made = layer(0.5)(x)
    made.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, made.detach())  # of ones


def test_evaluation_and_p_0_change_nothing_and_draw_nothing() -> None:
    made = layer()
    first = made(ONES)
    made.seed(7)
    made.eval()
    assert made(ONES) is ONES
    made.train()
    assert torch.equal(made(ONES), first)
    assert layer(0.0)(ONES) is ONES


def test_p_1_keeps_nothing() -> None:
    assert layer(1.0)(ONES).count_nonzero() == 0


def test_half_precision_stays_half() -> None:
    made = layer()(ONES.bfloat16())
    assert made.dtype == torch.bfloat16
    assert torch.equal(made == 0, layer()(ONES) == 0)


def test_every_dropout_of_a_network_has_its_own_stream() -> None:
    network = nn.Sequential(Dropout(0.5), nn.Identity(), nn.Sequential(Dropout(0.5)))
    seed_dropout(network, 2**63 - 1)  # the sum wraps round, for torch takes no larger seed
    first, second = (module(ONES) for module in network.modules() if isinstance(module, Dropout))
    assert not torch.equal(first, second)
    seed_dropout(network, 2**63 - 1)
    again = [module(ONES) for module in network.modules() if isinstance(module, Dropout)]
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])


def test_an_instance_has_no_weights() -> None:
    assert layer().state_dict() == {}


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (1, 3), (0, 3)])
def test_a_part_of_a_batch_is_treated_as_in_the_whole(start: int, stop: int) -> None:
    """Of batches of 2, 1 and 3 patches a device sees a part of the first and of the last."""
    alone, network = layer(), nn.Sequential(layer())
    whole = [alone(torch.ones(size, 3, 4, 4, 4)) for size in (2, 1, 3)]
    draw_whole_batches(network, (2,), 1)
    assert torch.equal(network(torch.ones(1, 3, 4, 4, 4)), whole[0][1:])
    draw_whole_batches(network, (1, 3), start)
    assert torch.equal(network(torch.ones(stop - start, 3, 4, 4, 4)), whole[2][start:stop])
