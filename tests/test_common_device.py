"""Devices by name, and autocast where it pays."""

import pytest
import torch

from common import device as device_module
from common.device import autocast, bf16_pays, choose_device
from common.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def num_gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two GPUs, as far as torch is asked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return monkeypatch


def test_auto_is_the_cpu_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU


@pytest.mark.usefixtures("num_gpus")
def test_auto_is_the_first_gpu() -> None:
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cpu") == CPU
    assert choose_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.usefixtures("num_gpus")
def test_a_gpu_that_is_not_here() -> None:
    with pytest.raises(ConfigError, match=r"device: 'cuda:2' is not here \(2 GPUs found\); use auto or cpu"):
        choose_device("cuda:2")


def test_no_gpu_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="'cuda' is not here"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "meta", "mps", "cpu:1", "cuda:1\n"])
@pytest.mark.usefixtures("num_gpus")
def test_a_name_that_is_no_device(name: str) -> None:
    with pytest.raises(ConfigError, match="is none; use auto, cpu, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.usefixtures("num_gpus")
@pytest.mark.parametrize("name", ["cuda:128", "cuda:256", "cuda:257"])
def test_an_index_that_torch_would_wrap_round(name: str) -> None:
    """torch keeps an index in a byte: cuda:257 was GPU 1, cuda:128 was GPU -128."""
    with pytest.raises(ConfigError, match="is none"):
        choose_device(name)


@pytest.mark.parametrize(
    ("choice", "pays", "dtype"),
    [
        ("off", True, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
    ],
)
def test_autocast_as_the_recipe_says(
    monkeypatch: pytest.MonkeyPatch, choice: str, pays: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(device_module, "bf16_pays", lambda device: pays)
    a = torch.ones(2, 2)
    with autocast(CPU, choice):  # type: ignore[arg-type]
        assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32


@pytest.mark.parametrize(("avx", "amx"), [(False, False), (True, False), (False, True)])
def test_bf16_pays_on_a_cpu_with_amx(monkeypatch: pytest.MonkeyPatch, avx: bool, amx: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert bf16_pays(CPU) is amx  # with the other alone, gradients do not repeat and may be NaN


def test_emulated_bf16_of_a_gpu_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert bf16_pays(torch.device("cuda")) is False
