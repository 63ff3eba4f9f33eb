"""Noise that is a function of what it is for.

Shapes: U units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from textvae.data.batch import key_of


@dataclass(frozen=True)
class KeyedNoise:
    """Random numbers keyed by (seed, step, document, stream, unit, sample), not drawn from a generator.

    The same document gets the same noise whatever the batch, the process or the resume. Counter-based as in
    Salmon et al. (2011), with the SplitMix64 finaliser (Steele et al. 2014) as the mixing function.
    """

    seed: int
    step: int = 0

    def normal(self, document: Tensor, stream: str, unit: Tensor, size: int, sample: Tensor | int = 0) -> Tensor:
        """Standard normal [U, size] for the keys `document` [U] and numbers `unit` [U] (both int64)."""
        keys = self._keys(document, stream, unit, sample)[:, None]
        pairs = torch.arange((size + 1) // 2, device=document.device)
        # Box-Muller in float64; 1 - u keeps the logarithm finite.
        radius = (-2 * (1 - _uniform(_mix(keys + 2 * pairs))).log()).sqrt()
        angle = 2 * math.pi * _uniform(_mix(keys + 2 * pairs + 1))
        return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :size].float()

    def uniform(self, document: Tensor, stream: str, unit: Tensor, sample: Tensor | int = 0) -> Tensor:
        """Uniform on [0, 1), [U] in float64."""
        return _uniform(_mix(self._keys(document, stream, unit, sample)))

    def _keys(self, document: Tensor, stream: str, unit: Tensor, sample: Tensor | int) -> Tensor:
        key = _mix(document ^ key_of(f"{self.seed}/{self.step}/{stream}"))
        return _mix(_mix(key + unit) + sample)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64: a bijection on 64 bits (int64 arithmetic wraps around)."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic on int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _uniform(bits: Tensor) -> Tensor:
    return _shift(bits, 11).double() * 2.0**-53
