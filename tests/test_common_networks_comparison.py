"""The networks of the paper's Table 2: parameters by hand, one logit, gradients, determinism, what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.model import build_model, load_model, model_weights
from common.networks import NETWORKS, build_network, count_parameters, initialise
from common.networks.initialisation import _fan_in
from common.recipe import NetworkConfig, Recipe, StageConfig
from common.settings import Frozen, validate

torch.set_num_threads(1)
SMALL: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "voxresnet": ({"widths": (4, 6, 6), "strides": ((1, 2, 2), (2, 2, 2))}, (8, 8, 8)),
    "attention-unet": ({"widths": (4, 8, 8), "strides": ((1, 2, 2), (2, 2, 2))}, (8, 8, 8)),
    "unet++": ({"widths": (4, 4, 8, 8, 8)}, (16, 32, 32)),
}


def small(kind: str) -> NetworkConfig:
    return NetworkConfig.model_validate({"kind": kind, **SMALL[kind][0]})


def made(kind: str, seed: int = 1) -> nn.Module:
    network = build_network(small(kind), SMALL[kind][1])
    initialise(network, seed)
    return network


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def two(inputs: int, outputs: int) -> int:
    """Two 3 x 3 x 3 convolutions without bias, a norm after each."""
    return 27 * outputs * (inputs + outputs) + 4 * outputs


def up(inputs: int, skips: int, outputs: int, halves: bool = True) -> int:
    """Of UNet++: a transposed convolution of kernel 2 with bias, and two convolutions of it and the skips."""
    width = inputs // 2 if halves else inputs
    return 8 * inputs * width + width + two(skips + width, outputs)


def vox_res(width: int) -> int:
    """A flat and a cubic kernel, a norm before each."""
    return (9 + 27) * width**2 + 4 * width


def attention(width: int, below: int) -> int:
    """Gate of half the width with a norm on each of three 1 x 1 x 1, a transposed convolution, a merge with PReLU."""
    half = width // 2
    gate = 2 * (width * half + 2 * half) + half + 2
    return gate + 27 * below * width + 2 * width + 27 * 2 * width * width + 2 * width + 1


BY_HAND = {
    "voxresnet": (27 * 4 + 8 + 9 * 16 + 8)
    + (27 * 4 * 6 + 2 * vox_res(6) + 12)
    + (27 * 6 * 6 + 2 * vox_res(6) + 12)
    + 6 * 4 * (4 + 32)  # transposed kernels 1 x 2 x 2 and 2 x 4 x 4
    + 3 * (4 + 1),
    "attention-unet": two(1, 4) + two(4, 8) + two(8, 8) + attention(4, 8) + attention(8, 8) + 4 + 1,
    "unet++": sum(two(*pair) for pair in ((1, 4), (4, 4), (4, 8), (8, 8), (8, 8)))
    + sum(up(4, k * 4, 4, halves=False) for k in (1, 2, 3, 4))
    + sum(up(8, k * 4, 4) for k in (1, 2, 3))
    + sum(up(8, k * 8, 8) for k in (1, 2))
    + up(8, 8, 8)
    + 4 * (4 + 1),
}


@pytest.mark.parametrize("kind", SMALL)
def test_parameters_by_hand(kind: str) -> None:
    assert count_parameters(small(kind), SMALL[kind][1]) == BY_HAND[kind]


@pytest.mark.parametrize(
    ("kind", "parameters"), [("voxresnet", 2_369_508), ("attention-unet", 23_623_485), ("unet++", 26_378_276)]
)
def test_full_size_parameters(kind: str, parameters: int) -> None:
    assert count_parameters(NetworkConfig.model_validate({"kind": kind}), (64, 128, 128)) == parameters


@pytest.mark.parametrize("kind", SMALL)
def test_one_logit_a_voxel_and_a_gradient_for_every_parameter(kind: str) -> None:
    network, patch = made(kind), SMALL[kind][1]
    logits = network(noise(2, 1, *patch))
    assert logits.shape == (2, 1, *patch)
    (logits * noise(2, 1, *patch, seed=1)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-7, name


@pytest.mark.parametrize("kind", SMALL)
def test_a_seed_gives_the_same_weights_and_no_patch_knows_its_neighbour(kind: str) -> None:
    """Instance norm: a patch alone and beside another gives the same; no running averages are kept."""
    torch.manual_seed(7)
    first = made(kind)
    torch.manual_seed(8)
    second, other = made(kind), made(kind, seed=2)
    batch = noise(2, 1, *SMALL[kind][1])
    with torch.no_grad():
        assert torch.equal(first(batch), second(batch))
        assert not torch.allclose(first(batch), other(batch))
        assert torch.allclose(first(batch)[1:], first(batch[1:]), atol=1e-5)
        trained = first(batch)
        assert torch.equal(first.eval()(batch), trained)
    assert not list(first.buffers())


@pytest.mark.parametrize("kind", SMALL)
def test_weights_go_out_and_come_back(kind: str) -> None:
    recipe = Recipe(stage1=StageConfig(network=small(kind), patch_size=SMALL[kind][1]), stage2=None)
    networks = build_model(recipe, 3)
    loaded = load_model(recipe, model_weights(networks), torch.device("cpu"))
    image = noise(1, 1, *SMALL[kind][1])
    with torch.no_grad():
        assert torch.equal(loaded["stage1"](image), networks["stage1"](image))


def test_a_transposed_kernel_wider_than_its_stride_counts_the_inputs_that_a_voxel_has_on_average() -> None:
    """Kernel 3 at stride 2: along each axis every other voxel has two inputs, the others one."""
    assert _fan_in(nn.ConvTranspose3d(4, 2, 3, 2)) == 4 * 1.5**3
    assert _fan_in(nn.ConvTranspose3d(4, 2, (1, 2, 2), (1, 2, 2))) == 4


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (NetworkConfig, {"kind": "resnet"}, "'mdr-unet', 'voxresnet', 'attention-unet' or 'unet++'"),
        (NetworkConfig, {"kind": "unet++", "widths": [4, 8], "strides": [[2, 2, 2]]}, "a UNet++ has five levels"),
        (NetworkConfig, {"kind": "voxresnet", "aspp": {}}, "aspp: voxresnet has none to choose"),
        (NetworkConfig, {"kind": "attention-unet", "encoder_dropout": 0.5}, "encoder_dropout: attention-unet has none"),
        (StageConfig, {"network": {"kind": "unet++"}, "patch_size": [16, 16, 16]}, "one voxel at the deepest level"),
        (StageConfig, {"network": {"kind": "unet++"}, "patch_size": [16, 24, 32]}, "use a multiple of 16"),
    ],
)
def test_what_a_network_does_not_have_is_refused(model: type[Frozen], data: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(data, model, "file.yaml")
    assert words in str(caught.value)


def test_every_kind_can_be_built_and_older_files_mean_the_mdr_unet() -> None:
    assert set(NETWORKS) == {"mdr-unet", *SMALL}
    assert NetworkConfig().kind == "mdr-unet"
    assert NetworkConfig.model_validate(small("unet++").model_dump(mode="json")) == small("unet++")
