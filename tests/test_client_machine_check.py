"""The site's machine against what its cases and a recipe need."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from client import machine_check
from client.machine_check import GIB, check_machine
from common.recipe import Recipe

Usage = namedtuple("Usage", "total used free")
LARGE = SimpleNamespace(voxels=512 * 512 * 130, cached_bytes=2 * GIB)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that gives the findings of a machine with so many GiB, by check."""

    def check(device="cpu", memory=64, disk=500, cases=(LARGE,), recipe=None):
        monkeypatch.setattr(machine_check, "available_bytes", lambda: int(memory * GIB))
        monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(2**50, 0, int(disk * GIB)))
        found = check_machine(device, tmp_path / "state" / "deeper", cases, recipe or Recipe())
        return {finding.check: finding for finding in found}

    return check


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
