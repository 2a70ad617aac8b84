"""Where tensors live, and whether bf16 autocast pays there."""

import re
from typing import Literal

import torch

from common.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Returns the device called `name`; `auto` is the first GPU, or the CPU where there is none.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,2})?", name):  # torch itself takes cuda:300 for cuda:44
        raise ConfigError(f"device: {name!r} is none; use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device: {name!r} is not here ({torch.cuda.device_count()} GPUs found); use auto or cpu")
    return device


def bf16_pays(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic that is faster than fp32 and to be relied on.

    Of CPUs, those with AMX. With avx512_bf16 alone a training step takes 1.2-1.5 times that of fp32, and torch 2.13's
    backward pass neither repeats nor always stays finite.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported())


def autocast(device: torch.device, choice: Literal["auto", "bf16", "off"]) -> torch.autocast:
    """Returns the autocast context for a training step or a forward pass (`TrainingConfig.autocast`)."""
    enabled = choice == "bf16" or (choice == "auto" and bf16_pays(device))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
