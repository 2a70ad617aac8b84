"""Windows: where they lie, by hand, and their mean against a plain loop over voxels."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from common.components import component_of_maximum, largest_component
from common.errors import OutOfMemoryError, WorkError
from common.windows import evaluating, mean_scores, tile

torch.set_num_threads(1)
CPU = torch.device("cpu")
Triple = tuple[int, int, int]


class Seen(nn.Module):
    """Logits: the first channel plus the voxel's place in the window; keeps what it was given."""

    def __init__(self, patch: Triple) -> None:
        super().__init__()
        self.ramp = torch.arange(float(np.prod(patch))).reshape(patch) / np.prod(patch)
        self.windows: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.windows.append(x.clone())
        return x[:, :1] + self.ramp.to(x.dtype)


def test_the_papers_stride_is_half_a_patch() -> None:
    starts = tile((0, 0, 0), (64, 200, 256), (64, 128, 128), 0.5)
    assert starts == tuple((0, y, x) for y in (0, 64, 72) for x in (0, 64, 128))


def test_no_overlap_and_an_offset() -> None:
    assert [z for z, _, _ in tile((-3, 0, 0), (9, 2, 2), (4, 2, 2), 0.0)] == [-3, 1, 2]


@given(st.integers(-5, 5), st.integers(1, 12), st.integers(0, 30), st.floats(0, 0.95))
def test_windows_cover_the_box_and_stay_in_it(start: int, patch: int, more: int, overlap: float) -> None:
    steps = [z for z, _, _ in tile((start, 0, 0), (patch + more, 1, 1), (patch, 1, 1), overlap)]
    covered = sorted({z + k for z in steps for k in range(patch)})
    assert covered == list(range(start, start + patch + more))
    assert steps == sorted(set(steps))


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.integers(1, 6)] * 3),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.tuples(*[st.lists(st.integers(-5, 7), max_size=3, unique=True)] * 3),
    st.integers(1, 3),
)
def test_mean_is_that_of_a_plain_loop(
    shape: Triple, patch: Triple, steps: tuple[list[int], ...], batch_size: int
) -> None:
    image = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    network, starts = Seen(patch), list(product(*steps))
    result = mean_scores(image, network, patch, starts, air=-7.0, device=CPU, batch_size=batch_size)
    ramp = network.ramp.numpy()
    for voxel in np.ndindex(*shape):
        places = [tuple(np.subtract(voxel, start)) for start in starts]
        inside = [place for place in places if all(0 <= p < q for p, q in zip(place, patch, strict=True))]
        scores = [1 / (1 + np.exp(-(image[(0, *voxel)] + ramp[place]))) for place in inside]
        assert result[voxel] == pytest.approx(np.mean(scores) if scores else 0, abs=1e-6)
    assert result.dtype == np.float32


def test_a_weighted_mean_is_added_in_place() -> None:
    """A logit of 0 is a score of 0.5 in both windows: 0.25 + 0.25 x 0.5 where one lies."""
    scores = np.full((1, 1, 4), 0.25, np.float32)
    image = np.zeros((1, 1, 1, 4), np.float32)
    starts = [(0, 0, 0), (0, 0, 1)]
    result = mean_scores(image, nn.Identity(), (1, 1, 2), starts, air=0.0, device=CPU, onto=scores, weight=0.25)
    assert result is scores
    assert scores.tolist() == [[[0.375, 0.375, 0.375, 0.25]]]


@pytest.mark.parametrize("overlap", [0.5, 0.67, 0.8, 0.9])
def test_the_mean_of_ones_is_one_whatever_the_number_of_windows(overlap: float) -> None:
    image = np.full((1, 11, 13, 17), 100, np.float32)
    starts = tile((0, 0, 0), (11, 13, 17), (8, 8, 8), overlap)
    result = mean_scores(image, nn.Identity(), (8, 8, 8), starts, air=0.0, device=CPU)
    assert result.max() <= 1
    assert result.min() > 1 - 5e-6


def test_outside_is_air_and_both_channels_go_in() -> None:
    network = Seen((1, 1, 4))
    mean_scores(np.array([[[[1.0, 2.0]]], [[[3.0, 4.0]]]]), network, (1, 1, 4), [(0, 0, -1)], air=-9.0, device=CPU)
    assert network.windows[0].tolist() == [[[[[-9, 1, 2, -9]]], [[[-9, 3, 4, -9]]]]]


def test_dropout_is_off_and_the_mode_comes_back() -> None:
    network = nn.Dropout(0.5).train()
    image = np.ones((1, 2, 2, 2), np.float32)
    result = mean_scores(image, network, (2, 2, 2), [(0, 0, 0)], air=0.0, device=CPU)
    assert np.allclose(result, 1 / (1 + np.exp(-1)))
    assert network.training
    mean_scores(image, network.eval(), (2, 2, 2), [(0, 0, 0)], air=0.0, device=CPU)
    assert not network.training


def test_each_module_leaves_in_the_mode_it_came_in() -> None:
    """A network whose encoder is frozen in evaluation mode while the rest trains."""
    network = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    network[0].eval()
    with evaluating(network):
        assert [module.training for module in network.modules()] == [False] * 3
    assert [module.training for module in network.modules()] == [True, False, True]
    with pytest.raises(KeyError), evaluating(network):
        raise KeyError
    assert network.training


def test_bf16_forward_gives_fp32_sums() -> None:
    network = nn.Conv3d(1, 1, 1)
    seen: list[torch.dtype] = []
    network.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    image = np.ones((1, 2, 2, 2), np.float32)
    result = mean_scores(image, network, (2, 2, 2), [(0, 0, 0)], air=0.0, device=CPU, precision="bf16")
    assert seen == [torch.bfloat16]
    assert result.dtype == np.float32


def test_scores_that_are_no_numbers_are_an_error() -> None:
    image = np.full((1, 2, 2, 2), np.nan, np.float32)
    with pytest.raises(WorkError, match="not numbers"):
        mean_scores(image, nn.Identity(), (2, 2, 2), [(0, 0, 0)], air=0.0, device=CPU)


class Cramped(nn.Module):
    """Logits as they came; memory for so many windows at a time."""

    def __init__(self, num_windows: int) -> None:
        super().__init__()
        self.num_windows = num_windows
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.num_windows:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    image = np.random.default_rng(0).normal(size=(1, 4, 4, 12)).astype(np.float32)
    starts = tile((0, 0, 0), (4, 4, 12), (4, 4, 2), 0.0)
    network, roomy = Cramped(1), Cramped(99)
    scores = [
        mean_scores(image, each, (4, 4, 2), starts, air=0.0, device=CPU, batch_size=5) for each in (network, roomy)
    ]
    assert network.sizes == [5, 2, 1, 1, 1, 1, 1, 1]
    assert roomy.sizes == [5, 1]
    assert np.array_equal(*scores)


def test_that_a_batch_is_halved_is_said_in_nobody_s_name(caplog: pytest.LogCaptureFixture) -> None:
    """A coordinator's simulation computes here too."""
    image = np.zeros((1, 4, 4, 8), np.float32)
    starts = tile((0, 0, 0), (4, 4, 8), (4, 4, 4), 0.0)
    mean_scores(image, Cramped(1), (4, 4, 4), starts, air=0.0, device=CPU, batch_size=2)
    said = [(each.name, each.getMessage()) for each in caplog.records]
    assert said == [("fedgtv", "memory is too small for 2 windows at a time; going on with 1")]


def test_a_window_that_does_not_fit_alone_is_told() -> None:
    image = np.zeros((1, 4, 4, 4), np.float32)
    with pytest.raises(OutOfMemoryError, match="cpu: has no memory for one window of 4 x 4 x 4 voxels; end what"):
        mean_scores(image, Cramped(0), (4, 4, 4), [(0, 0, 0)], air=0.0, device=CPU, batch_size=4)


def test_another_error_of_a_network_is_no_want_of_memory() -> None:
    image = np.zeros((2, 4, 4, 4), np.float32)
    with pytest.raises(RuntimeError, match="channels"):
        mean_scores(image, nn.Conv3d(1, 1, 1), (4, 4, 4), [(0, 0, 0)], air=0.0, device=CPU)


def test_largest_component_by_hand() -> None:
    mask = np.zeros((3, 4, 5), bool)
    mask[0, 0, :2] = True
    mask[1, 1, 2:5] = True  # three in a row; touches the two only by a corner
    component = largest_component(mask.astype(np.float32), 0.5)
    assert component is not None
    assert component.centroid == (1, 1, 3)
    assert (component.low, component.high) == ((1, 1, 2), (2, 2, 5))
    assert largest_component(np.zeros((2, 2, 2), np.float32), 0.5) is None


def test_component_of_maximum_by_hand() -> None:
    scores = np.zeros((1, 1, 9), np.float32)
    scores[0, 0] = [0.3, 0.3, 0.3, 0.1, 0.2, 0.4, 0.19, 0, 0]
    assert component_of_maximum(scores).centroid == (0, 0, 4.5)
    assert component_of_maximum(np.zeros((1, 1, 5), np.float32)).centroid == (0, 0, 2)
