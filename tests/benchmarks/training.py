"""Where a training step's time goes, what making patches costs, and a step beside nnU-Net's PlainConvUNet.

A recipe's own training loop runs over cached phantoms: with patches made ahead as always, made in between, and made
before the clock starts. With one thread on a CPU the clock is the processor's, else the wall's. On a GPU follow steps
in bf16 with and without channels_last and torch.compile, and the memory that they took.
Run by hand: OMP_NUM_THREADS=1 .venv-bench/bin/python tests/benchmarks/training.py
"""

import argparse
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from _cached_phantoms import PHANTOMS, cached_cases
from _live_memory import step_bytes
from _peers import peer
from torch import nn

from common import training
from common.device import bf16_pays, choose_device
from common.networks import build_network, initialise
from common.prefetch import prefetched
from common.recipe import Recipe
from common.settings import load_yaml
from common.shares import WHOLE, deal
from common.statistics import Normalisation, body_histogram
from common.training import Batch, Span, make_optimiser, train_stage

unet = peer("dynamic_network_architectures.architectures.unet")

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
PARTS = ("load", "augment", "forward", "loss", "backward", "update")
GIB = 2**30


class Clock:
    """Seconds since some moment, when the device has done all it was asked to."""

    def __init__(self, device):
        self.device = device
        self.read = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def __call__(self):
        """Seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.read()


class Parts:
    """Adds up the seconds of a step's parts while it is entered; patches must then be made in the same thread."""

    def __init__(self, network, clock):
        self.network, self.clock, self.seconds = network, clock, defaultdict(float)
        self._stack = ExitStack()

    def __enter__(self):
        """Wraps what the training loop calls."""
        for name in ("random_patch", "centred_patch", "jittered_centre"):
            self._watch(training, name, "load")
        for name in ("draw_change", "augment"):
            self._watch(training, name, "augment")
        self._watch(training, "segmentation_loss", "loss")
        self._watch(training, "_update", "update")
        self._watch(torch.Tensor, "backward", "backward")
        self._watch(self.network, "forward", "forward")
        return self

    def __exit__(self, *_):
        """Puts everything back."""
        self._stack.close()

    def _watch(self, owner, name, part):
        function = getattr(owner, name)

        def timed(*arguments, **options):
            start = self.clock()
            result = function(*arguments, **options)
            self.seconds[part] += self.clock() - start
            return result

        self._stack.enter_context(patch.object(owner, name, timed))


class Job:
    """A stage's network on a device, with all that `train_stage` wants."""

    def __init__(self, recipe, stage, network, device, cases=(), normalisation=None):
        self.recipe, self.stage, self.cases, self.normalisation = recipe, stage, cases, normalisation
        self.network = network.to(device)
        self.optimiser = make_optimiser(self.network, recipe.training, 1e-4)
        self.clock = Clock(device)

    def epoch(self, source):
        """Trains one epoch on what `source` makes of the epoch's batches, always the same; returns its seconds."""
        with patch.object(training, "prefetched", source):
            start = self.clock()
            span = Span(0, 1, 120, 1e-4, seed=1)
            train_stage(self.network, self.stage, self.cases, self.recipe, span, self.normalisation, self.optimiser)
            return self.clock() - start


class Ready:
    """Makes all batches before the first is asked for; how long that took is not the epoch's."""

    def __init__(self, clock):
        self.clock, self.seconds = clock, 0.0

    def __call__(self, batches):
        """The batches, in a list."""
        start = self.clock()
        made = list(batches)
        self.seconds = self.clock() - start
        return iter(made)


class Waited:
    """Batches made ahead, as always, and the seconds of the wall's clock that device and loop wait for them."""

    def __init__(self, clock):
        self.clock, self.seconds = clock, 0.0

    def __call__(self, batches):
        """The batches."""
        ahead = prefetched(batches)
        while True:
            self.clock()  # a GPU has to be done with the batch before
            start = time.perf_counter()
            batch = next(ahead, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def profile(name, recipe, stage, cases, device, repeats):
    """Prints a line: the parts of a step, then an epoch with patches made ahead beside the same with ready ones."""
    network = build_network(recipe.stages[stage].network, recipe.stages[stage].patch_size)
    initialise(network, 1)
    job = Job(recipe, stage, network, device, cases, Normalisation.from_histogram(body_histogram(cases)))
    job.epoch(lambda batches: islice(batches, 1))  # the first step prepares
    with Parts(network, job.clock) as parts:
        whole = sum(job.epoch(iter) for _ in range(repeats))
    shares = [parts.seconds[part] / whole for part in PARTS]
    ready, ahead, waited = zip(*(paired(job) for _ in range(repeats)), strict=True)
    steps = -(-len(cases) * recipe.training.patches_per_case // recipe.training.batch_size)
    more = median(a / r for a, r in zip(ahead, ready, strict=True)) - 1
    step, parts_text = whole / repeats / steps, " | ".join(map("{:.2%}".format, shares))
    print(
        f"| {name}, {stage} | {steps} | {step * 1e3:.4g} ms | {parts_text} | {shares[0] + shares[1]:.2%} "
        f"| {median(waited):.2%} | {median(ahead) / steps * 1e3:.4g} ms "
        f"| {median(ready) / steps * 1e3:.4g} ms | {more:+.1%} |",
        flush=True,
    )


def paired(job):
    """Returns an epoch's seconds with ready patches and with those made ahead, and the latter's share of waiting."""
    source, waited = Ready(job.clock), Waited(job.clock)
    ready = job.epoch(source) - source.seconds
    start = time.perf_counter()
    ahead = job.epoch(waited)
    return ready, ahead, waited.seconds / (time.perf_counter() - start)


def plain_conv_unet(stage):
    """nnU-Net's own network as it plans one for such a patch, with the same downsampling and one logit."""
    config = stage.network
    levels = len(config.widths)
    return unet.PlainConvUNet(
        1, levels, [min(width, 320) for width in config.widths], nn.Conv3d,
        [config.first_kernel, *[(3, 3, 3)] * (levels - 1)], [(1, 1, 1), *config.strides], [2] * levels, 1,
        [2] * (levels - 1), conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip


def networks_of(stage):
    """How to make the product's and nnU-Net's network of a stage."""
    return {
        "product": lambda: build_network(stage.network, stage.patch_size),
        "nnU-Net": lambda: plain_conv_unet(stage),
    }


def timed_steps(recipe, stage, network, device, num_steps):
    """Returns the seconds a step on a patch that is there, the update of every second one included."""
    job = Job(recipe, stage, network, device)
    shape = (recipe.training.batch_size, 1, *recipe.stages[stage].patch_size)
    batch = torch.randn(shape), (torch.rand(shape) > 0.99).float()
    if device.type == "cuda":
        batch = tuple(each.pin_memory() for each in batch)

    def batches(number):
        return iter([Batch(*batch, part) for part in deal(number * len(batch[0]), recipe.training, WHOLE)])

    job.epoch(lambda _: batches(1))  # the first step and update prepare
    return job.epoch(lambda _: batches(num_steps)) / num_steps


def parameters(network):
    """Millions."""
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def against_plain_conv_unet(recipe, device, num_steps):
    """Prints a line a stage and network: parameters and seconds a step."""
    for stage, config in recipe.stages.items():
        seconds = {}
        for who, make in networks_of(config).items():
            network = make()
            seconds[who] = timed_steps(recipe, stage, network, device, num_steps)
            print(
                f"| {stage}, {' x '.join(map(str, config.patch_size))} | {who} | {parameters(network):.1f} "
                f"| {seconds[who]:.4g} s | {seconds['product'] / seconds[who]:.2f} |",
                flush=True,
            )


def estimated_memory(recipe):
    """Prints the most bytes of live tensors in a step, found from shapes alone."""
    for stage, config in recipe.stages.items():
        for who, make in networks_of(config).items():
            found = [step_bytes(make, config.patch_size, bf16) / GIB for bf16 in (True, False)]
            print(f"| {stage} | {who} | {found[0]:.2f} GiB | {found[1]:.2f} GiB |", flush=True)


def variants(recipe, device, num_steps):
    """Prints a line for each stage, network, memory format and compilation, in bf16; what fails says so and is left."""
    bf16 = recipe.model_copy(update={"training": recipe.training.model_copy(update={"autocast": "bf16"})})
    for stage, config in recipe.stages.items():
        for who, make in networks_of(config).items():
            for layout in (torch.contiguous_format, torch.channels_last_3d):
                for compiled in (False, True):
                    found = variant(bf16, stage, make().to(device, memory_format=layout), compiled, device, num_steps)
                    how = f"{str(layout).split('.')[-1]}{', compiled' if compiled else ''}"
                    print(f"| {stage} | {who} | {how} | {found} |", flush=True)


def variant(recipe, stage, network, compiled, device, num_steps):
    """Returns seconds a step and, on a GPU, the peak of allocated and of reserved memory; or what went wrong."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        seconds = timed_steps(recipe, stage, torch.compile(network) if compiled else network, device, num_steps)
    except Exception as error:  # a compiler may be missing; the other lines are still wanted
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]} | "
    if not on_gpu:
        return f"{seconds * 1e3:.4g} ms | "
    most = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return f"{seconds * 1e3:.4g} ms | {most[0] / GIB:.2f} GiB, reserved {most[1] / GIB:.2f} GiB"


def main():
    """Prints the tables of docs/performance.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="auto")
    parser.add_argument("--recipes", nargs="+", choices=PHANTOMS, default=list(PHANTOMS))
    parser.add_argument("--variants", action="store_true", help="the GPU's table on a CPU too, of the last recipe")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    on_gpu = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"{where}, torch {torch.__version__}, autocast {'bf16' if bf16_pays(device) else 'off'}")
    recipes = {name: load_yaml(RECIPES / f"{name}.yaml", Recipe) for name in arguments.recipes}
    print(f"\n| recipe | steps | ms a step | {' | '.join(PARTS)} | load + augment | waited | ahead | ready | more |")
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in recipes.items():
            cases = cached_cases(name, recipe, Path(folder)) * (10 if on_gpu else 1)
            for stage in recipe.stages:
                profile(name, recipe, stage, cases, device, 1 if name == "cmdr_unet" and not on_gpu else 5)
    if "cmdr_unet" in recipes:
        print("\n| patch | network | million parameters | a step | product's ratio |")
        against_plain_conv_unet(recipes["cmdr_unet"], device, 20 if on_gpu else 2)
        print("\n| stage | network | live tensors, bf16 | fp32 |")
        estimated_memory(recipes["cmdr_unet"])
    if on_gpu or arguments.variants:
        print("\n| stage | network | memory format | a step | memory |")
        variants(list(recipes.values())[0 if on_gpu else -1], device, 20 if on_gpu else 2)


if __name__ == "__main__":
    main()
