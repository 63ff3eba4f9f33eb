"""Diagonal Gaussians.

Shapes: U units, Z latent size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_TWO_PI = math.log(2 * math.pi)
MAX_LOG_VARIANCE = 4.0
MIN_LOG_VARIANCE = -10.0
MIDDLE = (MAX_LOG_VARIANCE + MIN_LOG_VARIANCE) / 2
REACH = (MAX_LOG_VARIANCE - MIN_LOG_VARIANCE) / 2


@dataclass(frozen=True)
class DiagonalGaussian:
    """Independent normals, float32 whatever the autocast: `mean` and `log_variance`, each [..., Z]."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def from_parameters(cls, parameters: Tensor) -> DiagonalGaussian:
        """Split the output [..., 2Z] of a linear head; the log-variance is bounded smoothly."""
        mean, raw = parameters.float().chunk(2, dim=-1)
        # Shifted so that a zero output is exactly N(0, 1).
        return cls(mean, MIDDLE + REACH * torch.tanh(raw / REACH + math.atanh(-MIDDLE / REACH)))

    @classmethod
    def standard(cls, shape: tuple[int, ...], device: torch.device) -> DiagonalGaussian:
        zeros = torch.zeros(shape, device=device)
        return cls(zeros, zeros)

    @property
    def std(self) -> Tensor:
        return (0.5 * self.log_variance).exp()

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised sample from standard normal `noise` [..., Z]."""
        return self.mean + self.std * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of every dimension [..., Z] in nats; sum over the last axis for the vector's."""
        scaled = (value - self.mean).square() * (-self.log_variance).exp()
        return -0.5 * (scaled + self.log_variance + LOG_TWO_PI)

    def kl(self, other: DiagonalGaussian) -> Tensor:
        """KL(self || other) of every dimension [..., Z] in nats."""
        difference = self.log_variance - other.log_variance
        mahalanobis = (self.mean - other.mean).square() * (-other.log_variance).exp()
        return 0.5 * (difference.exp() + mahalanobis - 1.0 - difference)

    def index(self, rows: Tensor) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean[rows], self.log_variance[rows])


def raw_log_variance(std: float) -> float:
    """The output of a linear head that `DiagonalGaussian.from_parameters` reads as this standard deviation."""
    return REACH * (math.atanh((2 * math.log(std) - MIDDLE) / REACH) - math.atanh(-MIDDLE / REACH))
