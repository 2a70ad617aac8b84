"""Pre-flight check of the site's machine: devices, memory and disk against what its cases and a recipe need."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from client.case_check import Facts
from client.device_groups import Groups, device_groups, in_words, num_processes
from client.finding import Finding
from client.free_memory import available_bytes
from common.device import choose_device
from common.errors import FedgtvError
from common.footprint import host_bytes, stage_bytes, training_bytes
from common.recipe import Recipe
from common.text import counted

GIB = 2**30
PREPARE_BYTES_PER_VOXEL = 12
"""Measured 9 above what is loaded before, for int16 at 132 x 512 x 512."""
PROCESS_BYTES = 500 * 2**20
"""A node's process before it does anything: torch, SimpleITK, Flower."""
SPARE_BYTES = 5 * GIB
"""Disk for weights, momentum and logs beside the cache."""
SMALLER = "a smaller recipe needs less; `--recipe` checks against it"


def check_machine(
    devices: Sequence[str], work_folder: Path, facts: Sequence[Facts], recipe: Recipe
) -> Iterator[Finding]:
    """Gives findings on each configured device, on main memory and on the disk that holds the work folder."""
    groups = device_groups(recipe, devices)
    try:
        chosen = [choose_device(name) for name in devices]
    except FedgtvError as error:
        yield Finding("error", "device", "device", str(error), "correct `device` or `devices` in site.yaml")
        chosen, groups = [torch.device("cpu")], {}
    else:
        yield from _check_devices(chosen, groups, recipe)
    yield _check_memory(facts, _task_bytes(groups, recipe, on_cpu=chosen[0].type == "cpu"))
    yield _check_disk(work_folder, facts)


def _check_devices(devices: Sequence[torch.device], groups: Groups, recipe: Recipe) -> Iterator[Finding]:
    if devices[0].type == "cpu":
        used = f"no GPU in use{f', {in_words(groups)}' if groups else ''}"
        what = f"{used}; training the recipe takes one with about {_gib(training_bytes(recipe))} GiB"
        yield Finding("warning", "device", "device", what, "full-size networks need a GPU; small recipes do not")
        return
    stage_of = {device: stage for stage, mine in groups.items() for device in mine}
    for number, device in enumerate(devices):
        stage = stage_of.get(str(device))
        if stage:
            need = stage_bytes(recipe, stage, len(groups[stage]))
            yield _check_gpu(device, f"{in_words({stage: groups[stage]})}, which needs", need)
        elif groups or number:
            yield Finding("warning", "device", "device", f"{device} is not used: {_too_few(recipe)}", "leave it out")
        else:
            yield _check_gpu(device, "the recipe needs", training_bytes(recipe))


def _too_few(recipe: Recipe) -> str:
    stages, patches = len(recipe.stages), recipe.training.batch_size * recipe.training.accumulation
    return f"the recipe has {counted(stages, 'stage')}, and the {patches} of an update's patches are parted evenly"


def _check_gpu(device: torch.device, whose: str, need: int) -> Finding:
    name = torch.cuda.get_device_name(device)
    free, total = torch.cuda.mem_get_info(device)
    what = f"{device} is {name} with {total / GIB:.0f} GiB, {free / GIB:.0f} free; {whose} {_gib(need)}"
    if total < need:
        return Finding("warning", "device", "device", what, f"use a larger GPU; {SMALLER}")
    if free < need:
        return Finding("warning", "device", "device", what, "see what else uses it (nvidia-smi), and end that")
    return Finding("ok", "device", "device", what)


def _task_bytes(groups: Groups, recipe: Recipe, on_cpu: bool) -> int:
    """Main memory for training, beside the process that every site has."""
    if not groups:
        return host_bytes(recipe, on_cpu)
    of_stages = sum(len(mine) * stage_bytes(recipe, stage, len(mine)) for stage, mine in groups.items())
    return host_bytes(recipe, on_cpu=False) + num_processes(groups) * PROCESS_BYTES + (of_stages if on_cpu else 0)


def _check_memory(facts: Sequence[Facts], task_bytes: int) -> Finding:
    """An error where a case cannot be prepared, a warning for too little to train."""
    available = available_bytes()
    largest = max((fact.voxels for fact in facts), default=0)
    prepare = PROCESS_BYTES + PREPARE_BYTES_PER_VOXEL * largest
    train = PROCESS_BYTES + task_bytes
    what = (
        f"{_gib(available)} GiB available; preparing the largest case takes about {_gib(prepare)}, "
        f"training the recipe {_gib(train)}"
    )
    if available < prepare:
        return Finding("error", "memory", "memory", what, "close other programs, or add memory")
    if available < train:
        return Finding("warning", "memory", "memory", what, f"close other programs, or add memory; {SMALLER}")
    return Finding("ok", "memory", "memory", what)


def _check_disk(work_folder: Path, facts: Sequence[Facts]) -> Finding:
    """An error where the cache of all cases does not fit."""
    folder = next(path for path in (work_folder, *work_folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    cache = sum(fact.cached_bytes for fact in facts)
    what = f"{_gib(free)} GiB free; the cache of these cases takes {_gib(cache)} for each preprocessing"
    if free < cache:
        return Finding("error", "disk", "disk", what, "free space, or name another disk as `work` in site.yaml")
    if free < cache + SPARE_BYTES:
        remedy = f"keep {SPARE_BYTES / GIB:.0f} GiB more for weights and logs"
        return Finding("warning", "disk", "disk", what, remedy)
    return Finding("ok", "disk", "disk", what)


def _gib(num_bytes: float) -> str:
    """Returns GiB in words: what rounds to 0.0 is no nothing."""
    return "less than 0.1" if 0 < num_bytes < 0.05 * GIB else f"{num_bytes / GIB:.1f}"
