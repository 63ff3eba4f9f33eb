"""Where a model runs, and in which numbers."""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch
from accelerate.utils import parse_flag_from_env

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GAIN = 1.5
REPEATS = 6


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

    Processors are timed, once: of those with AVX-512's bfloat16 some multiply it twice as fast as single precision and
    some half as fast, and where it is emulated it takes sixty times as long (EXPERIMENTS.md).
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if device.type == "cpu" and _multiplies_bfloat16_faster() else "no"


def inference_dtype(device: torch.device) -> torch.dtype:
    """What an encoder multiplies in on `device` when nothing else is asked for."""
    return torch.bfloat16 if best_precision(device) == "bf16" else torch.float32


@cache
def _multiplies_bfloat16_faster() -> bool:
    """By so much that casts do not eat it up: `GAIN` times."""
    single, half = (_product_seconds(dtype) for dtype in (torch.float32, torch.bfloat16))
    return single > GAIN * half


def _product_seconds(dtype: torch.dtype) -> float:
    """Of this thread on the processor, for a product of matrices as large as a small layer's; the least of several."""
    left, right = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    seconds = []
    for _ in range(REPEATS):
        began = time.thread_time()
        left @ right
        seconds.append(time.thread_time() - began)
    return min(seconds)
