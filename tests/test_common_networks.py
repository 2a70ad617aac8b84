"""Networks: parameter counts and blocks of the paper, dilation rates by hand, determinism, gradients, bf16."""

import math
import time
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from common.device import bf16_pays
from common.networks import build_network, count_parameters, initialise
from common.networks.blocks import Aspp, ImagePooling, ResBlock, dilation_rates, normalisation
from common.networks.dropout import Dropout
from common.recipe import AsppConfig, NetworkConfig, Recipe, StageConfig

torch.set_num_threads(1)
FULL = Recipe().stages
TINY = NetworkConfig(
    widths=(4, 8, 16),
    strides=((1, 2, 2), (2, 2, 2)),
    aspp=AsppConfig(rates=(1, 2), image_pooling=True, dropout=0.5),
    encoder_dropout=0.5,
)
TINY_PATCH = (4, 8, 8)


def on_meta(stage: str) -> nn.Module:
    with torch.device("meta"):
        return build_network(FULL[stage].network, FULL[stage].patch_size)


def tiny(seed: int = 1, config: NetworkConfig = TINY) -> nn.Module:
    network = build_network(config, TINY_PATCH)
    initialise(network, seed)
    return network


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("stage", "parameters", "millions", "mib"),
    [("stage1", 93_399_361, 93.4, 356), ("stage2", 145_219_641, 145.2, 554)],
)
def test_full_size_parameters(stage: str, parameters: int, millions: float, mib: int) -> None:
    count = count_parameters(FULL[stage].network, FULL[stage].patch_size)
    assert count == parameters
    assert round(count / 1e6, 1) == millions
    assert round(count * 4 / 2**20) == mib


def level_by_hand(w: int, previous: int, kernel: int) -> int:
    """Conv-block and Res-block: three convolutions without bias, three norms."""
    return kernel * (previous * w + 2 * w * w) + 3 * 2 * w


def test_stage1_parameters_by_hand() -> None:
    widths = (32, 64, 128, 256, 512, 512)
    total = level_by_hand(32, 1, 9) + 32 + 1  # the head has a bias
    total += sum(level_by_hand(w, p, 27) for p, w in pairwise(widths))
    for i, w in enumerate(widths[:-1]):
        total += level_by_hand(w, 2 * w, 9 if i == 0 else 27)
        total += widths[i + 1] * w * (4 if i == 0 else 8)
        total += w * w // 4 * (1 + 3 * 27) + w * w + 2 * (w + w)  # ASPP: branches, projection, their norms
    assert count_parameters(FULL["stage1"].network, FULL["stage1"].patch_size) == total


def test_every_number_that_travels_is_counted() -> None:
    assert count_parameters(TINY, TINY_PATCH) == sum(tensor.numel() for tensor in tiny().state_dict().values())


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_block_counts_and_widths(stage: str) -> None:
    network = on_meta(stage)
    assert sum(isinstance(m, ResBlock) for m in network.modules()) == 11
    pyramids = [m for m in network.modules() if isinstance(m, Aspp)]
    assert [p.projection[0].out_channels for p in pyramids] == [32, 64, 128, 256, 512]
    widths = [m.outer[0].out_channels for m in network.encoder.modules() if isinstance(m, ResBlock)]  # type: ignore[union-attr,index]
    assert widths == [32, 64, 128, 256, 512, 512 if stage == "stage1" else 1024]
    assert sum(isinstance(m, ImagePooling) for m in network.modules()) == (0 if stage == "stage1" else 5)
    dropouts = sorted(m.p for m in network.modules() if isinstance(m, Dropout))
    assert dropouts == ([0.0] * 6 if stage == "stage1" else [0.1] * 5 + [0.5])


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_full_size_shape(stage: str) -> None:
    with torch.device("meta"):
        x = torch.empty(1, 1, *FULL[stage].patch_size)
    assert on_meta(stage).eval()(x).shape == x.shape


def dilations(stage: str) -> list[list[tuple[int, ...]]]:
    pyramids = [m for m in on_meta(stage).modules() if isinstance(m, Aspp)]
    return [[branch[0].dilation for branch in p.branches if isinstance(branch, nn.Sequential)][1:] for p in pyramids]


def test_dilations_by_hand() -> None:
    large, small = dilations("stage1"), dilations("stage2")
    assert large[0] == [(3, 6, 6), (6, 12, 12), (9, 18, 18)]  # maps 64 x 128 x 128; z is coarser by two here
    assert large[1] == [(6, 6, 6), (12, 12, 12), (18, 18, 18)]  # 64 x 64 x 64
    assert large[2] == [(6, 6, 6), (12, 12, 12), (15, 15, 15)]  # 32 x 32 x 32
    assert large[4] == [(3, 3, 3)] * 3  # 8 x 8 x 8
    assert small[0] == [(1, 2, 2), (2, 4, 4), (3, 6, 6)]  # 32 x 64 x 96
    assert small[4] == [(1, 1, 2)] * 3  # 4 x 4 x 6


@given(st.integers(1, 30), st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.sampled_from([1, 2, 4, 8])] * 3))
def test_outer_taps_stay_in_the_map(rate: int, size: tuple[int, int, int], remaining: tuple[int, int, int]) -> None:
    (result,) = dilation_rates((rate,), remaining, size)
    for d, n in zip(result, size, strict=True):
        assert 1 <= d <= max(1, rate)
        assert d == 1 or 2 * d + 1 <= n


def test_res_unet_has_plain_skips() -> None:
    plain = build_network(TINY.model_copy(update={"aspp": None}), TINY_PATCH)
    assert not any(isinstance(m, Aspp) for m in plain.modules())
    assert plain(noise(1, 1, *TINY_PATCH)).shape == (1, 1, *TINY_PATCH)


def test_two_channels_in() -> None:
    network = build_network(TINY.model_copy(update={"in_channels": 2}), TINY_PATCH)
    assert network(noise(1, 2, *TINY_PATCH)).shape == (1, 1, *TINY_PATCH)


def test_image_pooling_is_the_mean_spread_out() -> None:
    pooling = ImagePooling(2, 1)
    with torch.no_grad():
        pooling.convolution.weight.copy_(torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1, 1))
        pooling.convolution.bias.fill_(-0.5)  # type: ignore[union-attr]
    x = torch.stack([torch.full((2, 3, 4), 1.0), torch.arange(24.0).reshape(2, 3, 4)])[None]
    result = pooling(x)
    assert result.shape == (1, 1, 2, 3, 4)
    assert torch.allclose(result, torch.tensor(1.0 + 2 * 11.5 - 0.5))


def test_res_block_adds_the_identity() -> None:
    block = ResBlock(2, (3, 3, 3), (4, 4, 4))
    with torch.no_grad():
        for parameter in block.outer.parameters():
            parameter.zero_()
    x = noise(1, 2, 4, 4, 4)
    assert torch.equal(block(x), nn.functional.leaky_relu(x, 0.01))


def test_a_single_voxel_map_trains() -> None:
    config = NetworkConfig(widths=(4, 8), strides=((2, 4, 4),), first_kernel=(3, 3, 3), aspp=TINY.aspp)
    network = build_network(config, (2, 4, 4)).train()
    initialise(network, 0)
    network(noise(1, 1, 2, 4, 4)).sum().backward()
    assert isinstance(normalisation(4, (1, 1, 1)), nn.GroupNorm)
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("autocast", [False, True])
def test_every_parameter_learns_and_runs_repeat(autocast: bool) -> None:
    if autocast and not bf16_pays(torch.device("cpu")):
        pytest.skip("torch 2.13's bf16 gradients repeat on CPUs with AMX alone; elsewhere `auto` trains in fp32")

    def run() -> list[Tensor]:
        network = tiny().train()
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = network(noise(2, 1, *TINY_PATCH))
        logits.float().square().mean().backward()
        return [logits.detach(), *[p.grad for p in network.parameters() if p.grad is not None]]

    first, second = run(), run()
    assert len(first) == 1 + len(list(tiny().parameters()))
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(first, second, strict=True))
    assert all(g.abs().max() > 0 for g in first[1:])


def test_bf16_is_near_fp32() -> None:
    network = tiny().eval()
    x = noise(1, 1, *TINY_PATCH)
    with torch.inference_mode():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert (network(x).float() - exact).square().mean().sqrt() < 0.05 * exact.std()  # 8 bits, 20 layers


def test_initialisation_is_kaiming_normal() -> None:
    convolution, up = nn.Conv3d(16, 64, 3), nn.ConvTranspose3d(64, 32, 2, 2)
    initialise(nn.ModuleList([convolution, up]), 1)
    assert float(convolution.weight.detach().std()) == pytest.approx(math.sqrt(2 / 1.0001 / (16 * 27)), rel=0.02)
    assert float(up.weight.detach().std()) == pytest.approx(math.sqrt(2 / 1.0001 / 64), rel=0.02)
    assert float(convolution.bias.detach().abs().max()) == 0  # type: ignore[union-attr]


def test_initialisation_depends_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = tiny(seed=5).state_dict()
    before = torch.get_rng_state()
    network = build_network(TINY, TINY_PATCH)
    torch.set_rng_state(before)
    initialise(network, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.values(), network.state_dict().values(), strict=True))
    assert not torch.equal(next(tiny(seed=6).parameters()), next(network.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_full_size_forward_and_backward(stage: str) -> None:
    config: StageConfig = FULL[stage]
    network = build_network(config.network, config.patch_size).train()
    initialise(network, 1)
    started = time.perf_counter()
    logits = network(noise(1, 1, *config.patch_size))
    logits.square().mean().backward()
    print(f"{stage}: {time.perf_counter() - started:.0f} s")
    assert logits.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
