"""Where a model runs, and in which numbers."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device called `name`, such as `cpu`, `cuda` or `cuda:1`; None: the accelerator where there is one that can
    be used, else the CPU.

    Apple's MPS is never used: keyed noise and sums are in float64, which it does not have. Raises ValueError for a
    device that is not here.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name is None:
        return torch.device("cpu") if accelerator is None or accelerator.type == "mps" else accelerator
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
