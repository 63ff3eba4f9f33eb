"""Which number format is fast on which device."""

from __future__ import annotations

from typing import Literal

import torch


def best_precision(device: torch.device) -> Literal["no", "bf16"]:
    """Mixed precision that pays on `device`: bfloat16 where the hardware multiplies it, else none.

    A processor without such instructions emulates them, some sixty times slower than single precision.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if device.type == "cpu":
        multiplies = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if multiplies else "no"
    return "no"
