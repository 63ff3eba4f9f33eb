"""Where a model runs, and in which numbers."""

from __future__ import annotations

from typing import Literal

import torch
from accelerate.utils import parse_flag_from_env

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device called `name`, such as `cpu`, `cuda` or `cuda:1`; None: the accelerator where there is one that can
    be used and `accelerate launch --cpu` did not rule it out, else the CPU.

    Apple's MPS is never used: keyed noise and sums are in float64, which it does not have. Raises ValueError for a
    device that is not here.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        if accelerator is None or accelerator.type == "mps" or parse_flag_from_env("ACCELERATE_USE_CPU"):
            return torch.device("cpu")
        return accelerator
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no kind of device '{name}'; use cpu, or cuda, or cuda:1") from None
    if device.type == "mps":
        raise ValueError("device 'mps' has no float64, which noise and sums are in: use cpu")
    if device.type == "cpu":
        return device
    count = torch.accelerator.device_count()
    if accelerator is None or accelerator.type != device.type or (device.index or 0) >= count:
        here = "none" if accelerator is None else f"{count} of type {accelerator.type}"
        raise ValueError(f"device '{name}' is not here: use cpu, or an accelerator of this machine, which has {here}")
    return device


def best_precision(device: torch.device) -> Literal["no", "bf16"]:
    """Mixed precision that pays on `device`: bfloat16 where the hardware multiplies it, else none.

    Of processors, those that multiply tiles (AMX). With AVX-512's bfloat16 alone training took 1.9 times as long as in
    single precision, and without even that, where it is emulated, some sixty times (EXPERIMENTS.md).
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if device.type == "cpu":
        return "bf16" if torch.cpu._is_amx_tile_supported() else "no"
    return "no"
