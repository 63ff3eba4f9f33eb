"""Mean and deviation of rows that come in parts.

Shapes: R rows, Z latent size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviations of rows, which add up without loss (Chan et al. 1979)."""

    count: int
    mean: np.ndarray
    """[Z] in float64."""
    squares: np.ndarray
    """[Z] in float64."""

    @classmethod
    def of(cls, rows: np.ndarray) -> Moments:
        """rows: [R, Z], any number."""
        rows = rows.astype(np.float64)
        mean = rows.mean(0) if len(rows) else np.zeros(rows.shape[1])
        return cls(len(rows), mean, np.square(rows - mean).sum(0))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        shift = other.mean - self.mean
        squares = self.squares + other.squares + np.square(shift) * (self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), squares)

    @property
    def std(self) -> np.ndarray:
        """[Z], without correction: a single row has none."""
        return np.sqrt(self.squares / max(1, self.count))
