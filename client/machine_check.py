"""Pre-flight check of the site's machine: device, memory and disk against what its cases and a recipe need."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from client.case_check import Facts
from client.finding import Finding
from client.free_memory import available_bytes
from common.device import choose_device
from common.errors import FedgtvError
from common.footprint import host_bytes, training_bytes
from common.recipe import Recipe

GIB = 2**30
PREPARE_BYTES_PER_VOXEL = 12
"""Measured 9 above what is loaded before, for int16 at 132 x 512 x 512."""
PROCESS_BYTES = 500 * 2**20
"""A node's process before it does anything: torch, SimpleITK, Flower."""
SPARE_BYTES = 5 * GIB
"""Disk for weights, momentum and logs beside the cache."""
SMALLER = "a smaller recipe needs less; `--recipe` checks against it"


def check_machine(device: str, work_folder: Path, facts: Sequence[Facts], recipe: Recipe) -> Iterator[Finding]:
    """Gives one finding each on the configured device, on main memory and on the disk that holds the work folder."""
    try:
        chosen = choose_device(device)
    except FedgtvError as error:
        yield Finding("error", "device", "device", str(error), "correct `device` in site.yaml")
        chosen = torch.device("cpu")
    else:
        yield _check_device(chosen, training_bytes(recipe))
    yield _check_memory(facts, host_bytes(recipe, on_cpu=chosen.type == "cpu"))
    yield _check_disk(work_folder, facts)


def _check_device(device: torch.device, need: int) -> Finding:
    if device.type != "cpu":
        return _check_gpu(device, need)
    what = f"no GPU in use; training the recipe takes one with about {_gib(need)} GiB"
    return Finding("warning", "device", "device", what, "full-size networks need a GPU; small recipes do not")


def _check_gpu(device: torch.device, need: int) -> Finding:
    name = torch.cuda.get_device_name(device)
    free, total = torch.cuda.mem_get_info(device)
    what = f"{device} is {name} with {total / GIB:.0f} GiB, {free / GIB:.0f} free; the recipe needs {_gib(need)}"
    if total < need:
        return Finding("warning", "device", "device", what, f"use a larger GPU; {SMALLER}")
    if free < need:
        return Finding("warning", "device", "device", what, "see what else uses it (nvidia-smi), and end that")
    return Finding("ok", "device", "device", what)


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
