"""Time and memory of a process as both sides of a comparison take them, by torch alone: peers have no textvae."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version

import torch


def now(device: str) -> float:
    """Seconds of the processor, all threads together; of the clock on an accelerator, once it has done what it was
    given."""
    if device == "cpu":
        return time.process_time()
    torch.accelerator.synchronize()
    return time.perf_counter()


def peak_bytes(device: str) -> int:
    """Of the process, or of the accelerator's memory."""
    if device != "cpu":
        return torch.get_device_module(device).max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def answer(package: str, device: str, seconds: float, peak: int, lengths: Sequence[int], limit: int) -> None:
    """Print what a peer measured of texts of these `lengths`, of which it reads `limit` tokens each."""
    found = {
        "version": version(package),
        "device": device,
        "texts": len(lengths),
        "seconds": seconds,
        "peak_bytes": peak,
        "max_tokens": limit,
        "truncated": sum(length > limit for length in lengths),
        "tokens_read": sum(min(length, limit) for length in lengths) / sum(lengths),
    }
    print(json.dumps(found))
