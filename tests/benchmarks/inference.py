"""What sliding windows cost beside the bare forward passes, in time and memory, against MONAI's; and both fusions.

Same volume, network, windows and order for all, fp32. The seconds inside the network are taken by hooks in the same
run, so that the rest is what the product or MONAI adds; they are the processor's.
Run by hand: OMP_NUM_THREADS=1 .venv-bench/bin/python tests/benchmarks/inference.py
"""

import argparse
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _peers import peer
from torch import nn

from common.cascade import predict
from common.metrics import case_metrics
from common.networks import build_network, initialise
from common.phantom import make_phantom
from common.preprocess import prepare, restore
from common.recipe import Recipe
from common.sampling import inside
from common.settings import load_yaml
from common.volume import Volume
from common.windows import mean_scores, tile

monai = peer("monai.inferers")

CPU, AIR = torch.device("cpu"), -3.0
RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
VOLUMES = {
    "cmdr_unet": ((64, 128, 192), 2),  # two windows: a forward pass takes ten seconds
    "small_cmdr_unet": ((37, 70, 60), 7),
    "demo": ((28, 35, 30), 7),
}
"""Region of interest (the paper's mean one on the small recipes' grids) and repeats, by recipe."""
SMALL = [(20, 70, 60), (37, 30, 60), (37, 70, 30), (3, 5, 7)]
"""Volumes shorter than the small recipe's patch of 32 x 48 x 48 along each axis, and all."""
MEMORY_VOLUME, MEMORY_PATCH = (128, 256, 256), (64, 128, 128)


def noise(shape):
    """A normalised image."""
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)


def places(shape, patch):
    """Where windows begin, at half a patch's steps."""
    return tile(inside((0, 0, 0), patch, shape), tuple(map(max, shape, patch)), patch, 0.5)


def by_product(image, network, patch, batch_size):
    """The mean scores of all windows."""
    return mean_scores(
        image, network, patch, places(image.shape[1:], patch), air=AIR, device=CPU, batch_size=batch_size
    )


def by_monai(image, network, patch, batch_size):
    """The same by MONAI."""
    with torch.inference_mode():
        scores = monai.sliding_window_inference(
            torch.from_numpy(image)[None], patch, batch_size, lambda x: network(x).sigmoid(), 0.5, "constant",
            padding_mode="constant", cval=AIR,
        )  # fmt: skip
    return scores[0, 0].numpy()


def bare(image, network, patch, batch_size):
    """The forward passes alone, on windows that lie inside; nothing is kept."""
    starts = places(image.shape[1:], patch)
    boxes = [tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True)) for start in starts]
    for first in range(0, len(boxes), batch_size):
        with torch.inference_mode():
            network(torch.from_numpy(np.stack([image[:, *box] for box in boxes[first : first + batch_size]])))


class Inside:
    """Seconds spent in a network's forward passes."""

    def __init__(self, network):
        self.seconds = 0.0
        network.register_forward_pre_hook(lambda *_: self._add(-time.process_time()))
        network.register_forward_hook(lambda *_: self._add(time.process_time()))

    def _add(self, seconds):
        self.seconds += seconds


def run(function, network, inside_network, *arguments):
    """Returns the seconds inside the network's forward passes, those beside them, and the result."""
    inside_network.seconds, start = 0.0, time.process_time()
    result = function(*arguments)
    total = time.process_time() - start
    return inside_network.seconds, total - inside_network.seconds, result


def network_of(stage, seed=0):
    """A stage's network with fresh weights, ready to infer."""
    network = build_network(stage.network, stage.patch_size)
    initialise(network, seed)
    return network.eval()


def compare(name, shape, repeats):
    """Prints a line: times of product and MONAI, what each adds to the forward passes, and their difference."""
    recipe = load_yaml(RECIPES / f"{name}.yaml", Recipe)
    stage, batch_size, image = recipe.stage1, recipe.inference.windows_per_batch, noise(shape)
    network = network_of(stage)
    inside_network = Inside(network)
    runs = {function: [] for function in (bare, by_product, by_monai)}
    bare(noise(stage.patch_size), network, stage.patch_size, 1)  # the first pass prepares
    for _ in range(repeats):
        for function, done in runs.items():
            arguments = (image, network, stage.patch_size, batch_size)
            done.append(run(function, network, inside_network, *arguments))
    (forward, _), ours, theirs = ([min(one[k] for one in done) for k in (0, 1)] for done in runs.values())
    scores, by_peer = (runs[function][-1][2] for function in (by_product, by_monai))
    where = f"{name}, {text(shape)}, {len(places(shape, stage.patch_size))} windows"
    added = " | ".join(f"{beside * 1e3:.2f} ms, {beside / within:.2%}" for within, beside in (theirs, ours))
    print(
        f"| {where} | {sum(theirs):.3g} s | {sum(ours):.3g} s | {sum(theirs) / sum(ours):.3f} | {forward:.3g} s "
        f"| {added} | {np.abs(scores - by_peer).max():.1e} |",
        flush=True,
    )


def text(shape):
    """As in the tables."""
    return " x ".join(map(str, shape))


def small_volumes():
    """Prints the difference to MONAI on volumes smaller than a patch."""
    stage = load_yaml(RECIPES / "small_cmdr_unet.yaml", Recipe).stage1
    network = network_of(stage)
    for shape in SMALL:
        image = noise(shape)
        scores, by_peer = (function(image, network, stage.patch_size, 1) for function in (by_product, by_monai))
        print(f"| {text(shape)} | {np.ptp(scores):.2f} | {np.abs(scores - by_peer).max():.1e} |")


def resident(key):
    """Bytes in this process's memory: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def peak_of(who, kind):
    """Prints what a run adds to this process's memory at most, in bytes; the stub allocates nothing."""
    torch.set_num_threads(1)
    function = {"product": by_product, "monai": by_monai, "bare": bare}[who]
    network = nn.Identity() if kind == "stub" else network_of(Recipe().stage1)
    shape = MEMORY_VOLUME if kind == "stub" else VOLUMES["cmdr_unet"][0]
    image = noise(shape)
    function(noise(MEMORY_PATCH), nn.Identity(), MEMORY_PATCH, 1)  # libraries load what they need
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = resident("VmRSS")
    function(image, network, MEMORY_PATCH, 1)
    print(resident("VmHWM") - before)


def peaks(kind):
    """Returns bytes by who ran, each in a fresh process whose large blocks return to the system."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    results = {}
    for who in ("bare", "product", "monai"):
        command = [sys.executable, __file__, "--peak", who, kind]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        results[who] = int(done.stdout.split()[-1])
    return results


def memory():
    """Prints the peaks beside those of the bare forward passes, as volumes and windows."""
    for kind, shape in (("stub", MEMORY_VOLUME), ("cmdr_unet", VOLUMES["cmdr_unet"][0])):
        found = peaks(kind)
        volume, window = 4 * np.prod(shape), 4 * np.prod(MEMORY_PATCH)
        for who in ("product", "monai"):
            added = found[who] - found["bare"]
            beyond = (added - volume) / window
            print(
                f"| {kind}, {text(shape)} | {found['bare'] / 2**20:.1f} MiB | {who} "
                f"| {found[who] / 2**20:.1f} MiB | {added / 2**20:.1f} MiB | {beyond:+.2f} windows |",
                flush=True,
            )


class Truth(nn.Module):
    """Gives its input as logits: on an image of the truth, a network that never errs."""

    def forward(self, x):
        """Logits."""
        return x


def fusions(institution, seed):
    """Prints what each fusion makes of a full-size phantom's tumour that is larger than stage 2's crop."""
    recipe = Recipe()
    phantom = make_phantom(institution, seed)
    truth = Volume(phantom.truth.astype(np.uint8), phantom.image.geometry)
    case = prepare([phantom.image], truth, recipe.preprocess)
    extent = np.ptp(np.argwhere(case.label), axis=0) + 1
    image = np.where(case.label, 8.0, -8.0).astype(np.float32)[None]
    networks = {"stage1": Truth(), "stage2": Truth()}
    for fusion in ("paper", "safe"):
        chosen = recipe.model_copy(update={"inference": recipe.inference.model_copy(update={"fusion": fusion})})
        result = predict(image, networks, chosen, -8.0, CPU, "off")
        mask = restore(result.scores, case.record) >= recipe.inference.threshold
        metrics = case_metrics(mask, phantom.truth, phantom.image.geometry.spacing_mm)
        print(
            f"| {institution}, seed {seed}: {text(extent)} | {fusion} | {metrics.dsc:.4f} "
            f"| {metrics.sen:.4f} | {metrics.hd95_mm:.1f} mm | {', '.join(result.flags)} |",
            flush=True,
        )


def main():
    """Prints the tables of docs/performance.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak", nargs=2, metavar=("WHO", "KIND"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # MONAI's own
    if arguments.peak:
        peak_of(*arguments.peak)
        return
    print(f"{torch.get_num_threads()} thread(s), torch {torch.__version__}\n")
    print("| recipe's stage 1 | MONAI | product | ratio | bare forwards | MONAI adds | product adds | difference |")
    for name, (shape, repeats) in reversed(VOLUMES.items()):
        compare(name, shape, repeats)
    print("\n| volume, patch 32 x 48 x 48 | range of scores | difference |")
    small_volumes()
    print("\n| network, volume | bare | who | peak | beside the forwards | beyond a volume of fp32 scores |")
    memory()
    print("\n| tumour | fusion | DSC | SEN | HD95 | flags |")
    fusions("A", 15)
    fusions("C", 49)


if __name__ == "__main__":
    main()
