"""The site's machine against what its cases and a recipe need."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from client import machine_check
from client.machine_check import GIB, check_machine
from common.recipe import Recipe, TrainingConfig

Usage = namedtuple("Usage", "total used free")
LARGE = SimpleNamespace(voxels=512 * 512 * 130, cached_bytes=2 * GIB)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that gives the findings of a machine with so many GiB, by check."""

    def check(*devices, memory=64, disk=500, cases=(LARGE,), recipe=None):
        monkeypatch.setattr(machine_check, "available_bytes", lambda: int(memory * GIB))
        monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(2**50, 0, int(disk * GIB)))
        found = check_machine(devices or ("cpu",), tmp_path / "state" / "deeper", cases, recipe or Recipe())
        return {finding.check if len(devices) < 2 else finding.what: finding for finding in found}

    return check


@pytest.fixture
def gpus(monkeypatch):
    """Any GPU is here, and has 80 GiB."""
    monkeypatch.setattr(machine_check, "choose_device", torch.device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Card X")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 * GIB, 80 * GIB))


def test_a_large_machine_without_gpu_is_well_but_for_that(machine):
    found = machine()
    assert [finding.severity for finding in found.values()] == ["warning", "ok", "ok"]
    assert "no GPU in use" in found["device"].what


@pytest.mark.parametrize(("memory", "severity"), [(0.5, "error"), (2, "warning"), (8, "warning"), (16, "ok")])
def test_memory_must_hold_a_case_and_should_hold_the_recipe(machine, memory, severity):
    assert machine(memory=memory)["memory"].severity == severity


@pytest.mark.parametrize(("disk", "severity"), [(1, "error"), (5, "warning"), (8, "ok")])
def test_disk_must_hold_the_cache_and_should_hold_more(machine, disk, severity):
    found = machine(disk=disk)["disk"]
    assert (found.severity, "takes 2.0 for each" in found.what) == (severity, True)


def test_a_device_that_is_not_here_is_an_error_and_the_rest_is_checked(machine):
    found = machine("cuda:99")
    assert found["device"].severity == "error"
    assert "'cuda:99' is not here" in found["device"].what
    assert "site.yaml" in found["device"].remedy
    assert set(found) == {"device", "memory", "disk"}


@pytest.mark.parametrize(
    ("free", "total", "severity", "remedy"),
    [(70, 80, "ok", ""), (3, 80, "warning", "nvidia-smi"), (3, 4, "warning", "larger GPU")],
)
def test_a_gpu_is_held_against_the_recipe(machine, monkeypatch, free, total, severity, remedy):
    monkeypatch.setattr(machine_check, "choose_device", lambda _: torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Card X")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * GIB, total * GIB))
    found = machine("cuda:1", memory=6)
    assert (found["device"].severity, "cuda:1 is Card X" in found["device"].what) == (severity, True)
    assert remedy in found["device"].remedy
    assert found["memory"].severity == "ok"  # what the step takes lies on the card


def test_a_little_is_not_told_as_nothing(machine):
    """A case of the tests takes 0.6 MiB of the cache, and one of full size 2 GiB."""
    small = SimpleNamespace(voxels=10_000, cached_bytes=600_000)
    assert "the cache of these cases takes less than 0.1 for each preprocessing" in machine(cases=[small])["disk"].what
    assert "the cache of these cases takes 0.0 for each preprocessing" in machine(cases=[])["disk"].what


@pytest.mark.usefixtures("gpus")
def test_of_several_gpus_each_is_told_what_it_will_do(machine):
    """Stage 1 of the paper takes more than stage 2, and each of them less than both on one GPU."""
    found = list(machine("cuda:0", "cuda:1", "cuda:2").values())
    here = "Card X with 80 GiB, 70 free"
    assert [finding.what for finding in found[:3]] == [
        f"cuda:0 is {here}; stage1 on cuda:0 and cuda:1, which needs 6.3",
        f"cuda:1 is {here}; stage1 on cuda:0 and cuda:1, which needs 6.3",
        f"cuda:2 is {here}; stage2 on cuda:2, which needs 3.0",
    ]
    assert [finding.severity for finding in found] == ["ok"] * 5
    assert "the recipe needs 6.9" in machine("cuda:0")["device"].what


@pytest.mark.usefixtures("gpus")
def test_a_gpu_that_has_nothing_to_do_is_named(machine):
    found = list(machine(*[f"cuda:{number}" for number in range(5)]).values())
    idle = "the recipe has 2 stages, and the 2 of an update's patches are parted evenly"
    assert [(finding.severity, finding.what) for finding in found if "not used" in finding.what] == [
        ("warning", f"cuda:2 is not used: {idle}")
    ]
    alone = Recipe(stage2=None, training=TrainingConfig(accumulation=1))
    one, other, *_ = machine("cuda:0", "cuda:1", recipe=alone).values()
    assert "the recipe needs" in one.what
    assert other.what.startswith("cuda:1 is not used: the recipe has 1 stage, and the 1 of an update's patches")


def test_every_process_needs_memory_of_its_own(machine):
    one, two = machine()["memory"].what, [what for what in machine("cpu", "cpu") if "training the recipe" in what]
    assert "no GPU in use, stage1 on cpu, stage2 on cpu; training the recipe takes one with about 6.9 GiB" in two
    assert "training the recipe 11.0" in one
    assert "training the recipe 14.2" in two[1]


@pytest.mark.usefixtures("gpus")
def test_a_gpu_s_process_needs_little_of_the_main_memory(machine):
    assert "training the recipe 4.0" in machine("cuda:0")["memory"].what
    assert any("training the recipe 5.0" in what for what in machine("cuda:0", "cuda:1"))
