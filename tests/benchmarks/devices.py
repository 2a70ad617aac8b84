"""What several devices cost and change: stages in threads and in processes, a process's start, and shared updates.

CPUs stand for GPUs. Two trainings on busy cores are slower whatever they wait for, so a training thread is asked for
the time in which it neither ran nor could have: it waited for the other's Python.
Run by hand: OMP_NUM_THREADS=1 PYTHONPATH=. python tests/benchmarks/devices.py
"""

import argparse
import os
import tempfile
import threading
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from _cached_phantoms import cached_cases

from client.stage_process import StageJob
from client.stage_team import StageTeam, reports
from common.checkpoint import as_array
from common.networks import build_network, initialise
from common.recipe import AugmentationConfig, NetworkConfig, Recipe, StageConfig
from common.settings import load_yaml
from common.statistics import Normalisation, body_histogram
from common.training import Span, _drawn_patch, make_optimiser, train_stage

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
EPOCHS = {"tiny": {"stage1": 40, "stage2": 40}, "demo": {"stage1": 3, "stage2": 5}}
"""Of each stage, so that both take about as long."""
MIB = 2**20


def recipe_of(name):
    """A preset in fp32; `tiny` has the demo's grid and steps of a few milliseconds, most of them Python."""
    recipe = load_yaml(RECIPES / f"{'demo' if name == 'tiny' else name}.yaml", Recipe)
    training = {"autocast": "off"}
    if name != "tiny":
        return recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})
    network = NetworkConfig(widths=(2, 4), strides=((2, 2, 2),), aspp=None)
    training |= {"augmentation": AugmentationConfig(enabled=False)}
    stages = {
        f"stage{n}": StageConfig(network=network, patch_size=size) for n, size in ((1, (8, 8, 8)), (2, (4, 8, 8)))
    }
    return recipe.model_copy(update={**stages, "training": recipe.training.model_copy(update=training)})


def network_of(recipe, stage):
    """The stage's network with the same weights every time."""
    network = build_network(recipe.stages[stage].network, recipe.stages[stage].patch_size)
    initialise(network, 1)
    return network


def train(recipe, stage, cases, normalisation, network, num_epochs):
    """Trains from the first epoch on and returns each one's loss."""
    optimiser = make_optimiser(network, recipe.training, recipe.training.lr0)
    span = Span(0, num_epochs, 100, recipe.training.lr0, seed=1)
    return train_stage(network, stage, cases, recipe, span, normalisation, optimiser)


def waited(started, answer, recipe, stage, cases, normalisation, network, num_epochs):
    """Trains when all are ready; answers with the share of the thread's own running time that it waited besides."""
    torch.set_num_threads(1)
    train(recipe, stage, cases[:1], normalisation, network, 1)  # the first step prepares
    started.wait()
    begin, (ran, queued) = time.perf_counter(), scheduled()
    train(recipe, stage, cases, normalisation, network, num_epochs)
    elapsed, (ran_since, queued_since) = time.perf_counter() - begin, scheduled()
    ran, queued = ran_since - ran, queued_since - queued
    answer((elapsed - ran - queued) / ran)


def scheduled():
    """Seconds that this thread ran, and that it could have run but for others on its core."""
    words = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()
    return int(words[0]) / 1e9, int(words[1]) / 1e9


def waits(way, jobs):
    """Returns each job's waiting, in the order in which they ended."""
    if way == "in turn":
        found = []
        for job in jobs:
            waited(threading.Barrier(1), found.append, *job)
        return found
    context = get_context("spawn")
    started = threading.Barrier(len(jobs)) if way == "threads" else context.Barrier(len(jobs))
    if way == "threads":
        found = []
        workers = [threading.Thread(target=waited, args=(started, found.append, *job)) for job in jobs]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return found
    answers = context.SimpleQueue()
    workers = [context.Process(target=waited, args=(started, answers.put, *job)) for job in jobs]
    for worker in workers:
        worker.start()
    found = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    return found


def compare_ways(name, recipe, cases, normalisation):
    """Prints a line for each way to train both stages."""
    for way in ("in turn", "threads", "processes"):
        jobs = [
            (recipe, stage, cases, normalisation, network_of(recipe, stage), EPOCHS[name][stage])
            for stage in recipe.stages
        ]
        print(f"| {name} | {way} | {' and '.join(f'{share:.0%}' for share in waits(way, jobs))} |", flush=True)


def show_start(job, weights):
    """Prints what a stage's process takes to its first epoch's end, and what memory it has for itself."""
    with StageTeam(job, ["cpu"]) as team:
        team.begin(weights, {}, {})
        next(reports([team]))
        (process,) = team._processes.values()
        told = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        seconds = sum(map(int, told[11:13])) / os.sysconf("SC_CLK_TCK")
        lines = dict(line.split(":") for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:])
    private = sum(int(lines[key].split()[0]) for key in ("Private_Clean", "Private_Dirty")) * 1024 / MIB
    print(
        f"\na process: {seconds:.1f} s of processor time to the end of its first epoch, {private:.0f} MiB of its own\n"
    )


def show_patches(recipe, cases, normalisation, number=60):
    """Prints the processor time of a patch that another device trains, and of one that this device does."""
    for stage in recipe.stages:
        rng, drawn_s, made_s = np.random.default_rng(0), 0.0, 0.0
        for index in range(number):
            start = time.process_time()
            make = _drawn_patch(stage, cases[index % len(cases)], recipe, normalisation, rng)
            drawn_s += time.process_time() - start
            make()
            made_s += time.process_time() - start
        print(f"a patch of {stage}: drawn {drawn_s / number * 1e3:.2g} ms, made {made_s / number * 1e3:.2g} ms")


def shared(job, weights, num_devices, num_epochs):
    """Returns the weights after so many epochs on so many devices."""
    with StageTeam(job, ["cpu"] * num_devices) as team:
        team.begin(weights, {}, {})
        for _, epoch, _ in reports([team]):
            if epoch + 1 == num_epochs:
                return team.state()[0]
            team.go_on()
    raise AssertionError("the span has fewer epochs")


def compare_devices(name, recipe, cases, normalisation, num_epochs, **training):
    """Prints a line for each stage: what two devices make of it that one does not, and patches one at a time."""
    recipe = recipe.model_copy(update={"training": recipe.training.model_copy(update=training)})
    one_by_one = {"batch_size": 1, "accumulation": recipe.training.batch_size * recipe.training.accumulation}
    for stage in recipe.stages:
        weights = {key: as_array(value).copy() for key, value in network_of(recipe, stage).state_dict().items()}
        run = partial(shared, weights=weights, num_epochs=num_epochs)
        span = Span(0, 100, 100, recipe.training.lr0, seed=1)
        job = StageJob(stage, cases, recipe, span, normalisation, num_threads=1)
        singly = recipe.model_copy(update={"training": recipe.training.model_copy(update=one_by_one)})
        two, one = run(job, num_devices=2), run(job, num_devices=1)
        apart = run(StageJob(stage, cases, singly, span, normalisation, num_threads=1), num_devices=1)
        config = recipe.training
        updates = -(-len(cases) * config.patches_per_case // (config.batch_size * config.accumulation)) * num_epochs
        pairs = (two, one), (apart, one), (two, apart)
        told = " | ".join(difference(*pair, weights) for pair in pairs)
        patches = f"{config.batch_size} x {config.accumulation}"
        print(f"| {name}, {stage} | {patches} | {updates} | {told} |", flush=True)


def difference(these, those, before):
    """The largest difference of two trainings' weights, and its RMS by that of what training changed."""
    largest = max(float(np.abs(these[key] - those[key]).max()) for key in those)
    apart, changed = (
        sum(float(((one[key].astype(float) - other[key]) ** 2).sum()) for key in those)
        for one, other in ((these, those), (those, before))
    )
    return f"{largest:.1e}, {(apart / changed) ** 0.5:.1e}" if largest else "0"


def main():
    """Prints the tables of docs/performance.md."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}\n\n| recipe | both stages | waits |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        demo = recipe_of("demo")
        cases = cached_cases("demo", demo, Path(folder))
        normalisation = Normalisation.from_histogram(body_histogram(cases))
        for name in EPOCHS:
            compare_ways(name, recipe_of(name), cases, normalisation)
        span = Span(0, 100, 100, demo.training.lr0, seed=1)
        show_patches(Recipe(), cached_cases("cmdr_unet", Recipe(), Path(folder)), normalisation)
        show_start(StageJob("stage1", cases, demo, span, normalisation, 1), network_of(demo, "stage1").state_dict())
        print("| recipe | batch x accumulation | updates | two devices, one | singly, one | two devices, singly |")
        print("|---|---|---|---|---|---|")
        compare_devices("demo", demo, cases[:1], normalisation, 1)
        compare_devices("demo", demo, cases[:3], normalisation, 3)
        compare_devices("demo", demo, cases[:3], normalisation, 3, batch_size=1, accumulation=2)
        small = recipe_of("small_cmdr_unet")
        cases = cached_cases("small_cmdr_unet", small, Path(folder))
        compare_devices("small_cmdr_unet", small, cases[:3], normalisation, 2)


if __name__ == "__main__":
    main()
