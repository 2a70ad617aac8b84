"""The whole cascade against a plain loop, on a phantom's tumour with networks that know it, and its memory."""

import os
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from common.cascade import EXCEEDS_CROP, TILING_MARGIN, predict
from common.metrics import case_metrics
from common.networks import build_network, initialise
from common.phantom import make_phantom
from common.recipe import AsppConfig, InferenceConfig, NetworkConfig, Recipe, StageConfig

torch.set_num_threads(1)
CPU = torch.device("cpu")
AIR = -2.0
NETWORK = NetworkConfig(widths=(4, 8), strides=((2, 2, 2),), aspp=AsppConfig(rates=(1, 2)))
Image = NDArray[np.float32]
Triple = tuple[int, int, int]


def recipe(patch1: Triple, patch2: Triple, **inference: object) -> Recipe:
    return Recipe(
        stage1=StageConfig(network=NETWORK, patch_size=patch1),
        stage2=StageConfig(network=NETWORK, patch_size=patch2),
        inference=InferenceConfig(**inference),
    )


def plain_mean(image: Image, network: nn.Module, patch: Triple, low: list[int], high: list[int]) -> NDArray[np.float64]:
    """One window after the other, at half a patch's steps from `low` to `high`, summed in fp64."""
    margin = 64
    padded = np.pad(image[0], margin, constant_values=AIR)
    total, count = np.zeros(padded.shape), np.zeros(padded.shape)
    steps = [
        sorted({min(step, stop - size) for step in range(start, stop, size // 2)})
        for start, stop, size in zip(low, high, patch, strict=True)
    ]
    for start in product(*steps):
        window = tuple(slice(s + margin, s + margin + size) for s, size in zip(start, patch, strict=True))
        with torch.no_grad():
            logits = network.eval()(torch.from_numpy(padded[window][None, None].copy()))
        total[window] += torch.sigmoid(logits)[0, 0].double().numpy()
        count[window] += 1
    volume = (slice(margin, -margin),) * 3
    return total[volume] / np.maximum(count[volume], 1)


def plain_cascade(image: Image, networks: dict[str, nn.Module], patches: list[Triple], fusion: str) -> Image:
    """The paper's section 2.E in the order of its sentences; a patch lies round the middle of a shorter axis."""
    shape = image.shape[1:]
    low = [min(0, -((p - n) // 2)) for p, n in zip(patches[0], shape, strict=True)]
    high = [max(start + p, n) for start, p, n in zip(low, patches[0], shape, strict=True)]
    first = plain_mean(image, networks["stage1"], patches[0], low, high)
    labels, _ = ndimage.label(first >= 0.5)
    component = np.argwhere(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))
    low, high = [], []
    for centre, p, n in zip(component.mean(axis=0), patches[1], shape, strict=True):
        start = min(max(round(centre) - p // 2, 0), n - p) if n >= p else -((p - n) // 2)
        low.append(start)
        high.append(start + p)
    exceeds = (component.min(axis=0) < low).any() or (component.max(axis=0) >= high).any()
    if fusion == "safe" and exceeds:
        low = [min(start, max(a - TILING_MARGIN, 0)) for start, a in zip(low, component.min(0), strict=True)]
        grown = [min(b + 1 + TILING_MARGIN, n) for b, n in zip(component.max(0), shape, strict=True)]
        high = [max(stop, b) for stop, b in zip(high, grown, strict=True)]
    return 0.5 * first + 0.5 * plain_mean(image, networks["stage2"], patches[1], low, high)


@pytest.mark.parametrize("fusion", ["paper", "safe"])
@pytest.mark.parametrize("shape", [(20, 30, 41), (5, 30, 20), (20, 9, 30), (20, 30, 7), (6, 5, 30), (3, 3, 3)])
def test_scores_are_those_of_a_plain_loop(shape: Triple, fusion: str) -> None:
    """Real networks in fp32; volumes larger than both patches, and smaller along each axis and all."""
    patches: list[Triple] = [(8, 16, 16), (8, 8, 12)]
    networks = {
        stage: build_network(NETWORK, patch) for stage, patch in zip(("stage1", "stage2"), patches, strict=True)
    }
    for seed, network in enumerate(networks.values()):
        initialise(network, seed)
    image = np.random.default_rng(5).normal(size=(1, *shape)).astype(np.float32)
    result = predict(image, networks, recipe(*patches, fusion=fusion), AIR, CPU, "off")
    expected = plain_cascade(image, networks, patches, fusion)
    assert result.scores.shape == shape
    assert np.ptp(expected) > 0.1
    assert np.abs(result.scores - expected).max() < 1e-5


class Truth(nn.Module):
    """Gives its input as logits: on an image of the truth, a network that never errs."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_phantoms_tumour_larger_than_the_crop_is_cut_by_the_papers_fusion_alone() -> None:
    """14 x 16 x 18 voxels for a crop of 8 x 10 x 12: networks that never err, and yet S is 0.5 outside the crop."""
    truth = np.asarray(make_phantom("A", 2, scale=0.25).truth)
    voxels = np.argwhere(truth)
    assert (np.ptp(voxels, axis=0) + 1).tolist() == [14, 16, 18]
    crop: Triple = (8, 10, 12)
    start = [round(centre) - p // 2 for centre, p in zip(voxels.mean(axis=0), crop, strict=True)]
    cut = np.zeros_like(truth)
    box = tuple(slice(s, s + p) for s, p in zip(start, crop, strict=True))
    cut[box] = truth[box]
    image = np.where(truth, 8.0, -8.0).astype(np.float32)[None]
    masks = {}
    for fusion in ("paper", "safe"):
        small = recipe((16, 32, 32), crop, fusion=fusion)
        result = predict(image, {"stage1": Truth(), "stage2": Truth()}, small, AIR, CPU)
        assert result.flags == (EXCEEDS_CROP,)
        masks[fusion] = result.scores >= small.inference.threshold
    assert np.array_equal(masks["paper"], cut)
    assert np.array_equal(masks["safe"], truth)
    assert case_metrics(masks["paper"], truth, (1, 1, 1)).dsc == pytest.approx(0.767, abs=1e-3)


PEAK_OF_ONE_CASE = """
import numpy as np, torch
from common.cascade import predict
from common.recipe import InferenceConfig, NetworkConfig, Recipe, StageConfig

def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024

class Truth(torch.nn.Module):
    def forward(self, x):
        return x

torch.set_num_threads(1)
network = NetworkConfig(widths=(2, 2), strides=((2, 2, 2),), aspp=None)
stages = {name: StageConfig(network=network, patch_size=(32, 64, 64)) for name in ("stage1", "stage2")}
recipe = Recipe(**stages, inference=InferenceConfig(fusion="safe"))

def run(shape):
    image = np.full((1, *shape), -8, np.float32)
    image[0, 40:80, 20:100, 20:120] = image[0, 0, 0, 0] = image[0, -1, -1, -1] = 8  # and a stray voxel in two corners
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark begins anew
    before = resident("VmRSS")
    predict(image, {name: Truth() for name in stages}, recipe, -8.0, torch.device("cpu"), "off")
    return resident("VmHWM") - before, image.nbytes

run((96, 128, 128))  # libraries load what they need
print(*run((160, 256, 256)))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the high-water mark is Linux's")
def test_memory_is_one_volume_of_scores_and_some_windows() -> None:
    """The resident peak of a process whose large blocks return to the system, with a stub that allocates nothing."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK_OF_ONE_CASE], env=environment, capture_output=True, text=True, check=True
    )
    peak, volume = map(int, done.stdout.split())
    window = 4 * 32 * 64 * 64
    assert volume == 4 * 160 * 256 * 256
    assert 0.95 * volume < peak < volume + 4 * window  # one goes in, one comes out, two number the tumour's voxels
