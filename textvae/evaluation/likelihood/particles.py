"""Weighted particles: what they weigh, and who survives. Shapes as in `sequential`, reasons in `smc`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from textvae.evaluation.likelihood.sequential import LeafIncrement, UnitDraw

Target = Literal["regressed", "annealed", "filtering"]


@dataclass
class ParticleSystem:
    """Weights of one independent set of particles, and what resampling needs; the states are the model's."""

    size: int
    target: Target
    threshold: float
    log_weights: Tensor = field(init=False)  # [K] of the mean: exp of them sums to the estimate
    current: dict[int, UnitDraw] = field(default_factory=dict)  # level -> the unit being read
    effective_samples: list[float] = field(default_factory=list)
    resamplings: int = 0

    def __post_init__(self) -> None:
        self.log_weights = torch.full((self.size,), -math.log(self.size), dtype=torch.float64)

    def log_likelihood(self) -> float:
        return torch.logsumexp(self.log_weights, 0).item()

    def absorb(self, increment: LeafIncrement, slots: slice) -> None:
        """Multiply the weights by what one leaf adds; `slots` are this system's among all particles."""
        self.log_weights = self.log_weights + exact(increment.log_likelihood[slots])
        for level, draw in increment.draws.items():
            self.current[level] = UnitDraw(exact(draw.log_ratio[slots]), exact(draw.innovation[slots]))
            self.log_weights = self.log_weights + self.current[level].log_ratio

    def resample(self, exposure: Tensor, generator: torch.Generator) -> Tensor | None:
        """Indices [K] of the survivors, or None where weights are even; `exposure` [L] at this leaf."""
        log_probabilities = torch.log_softmax(self._selection_weights(exposure), 0)
        self.effective_samples.append(effective_samples(log_probabilities))
        if self.effective_samples[-1] >= self.threshold * self.size:
            return None
        indices = systematic(log_probabilities.exp(), generator)
        log_weights = self.log_weights - log_probabilities - math.log(self.size)
        self.log_weights = log_weights[indices]
        self.current = {
            level: UnitDraw(draw.log_ratio[indices], draw.innovation[indices]) for level, draw in self.current.items()
        }
        self.resamplings += 1
        return indices

    def _selection_weights(self, exposure: Tensor) -> Tensor:
        """Log of the unnormalised resampling probabilities [K]."""
        weights = self.log_weights
        if self.target == "filtering":
            return weights
        features = []
        for level, draw in self.current.items():
            exposed = exposure[level].item()
            if exposed < 1:
                weights = weights - (1 - exposed) * draw.log_ratio
                features.append(draw.innovation * math.sqrt(exposed * (1 - exposed)))
        if self.target == "regressed" and features:
            weights = weights - ridge_fit(torch.cat(features, 1), weights)
        return weights


def effective_samples(log_weights: Tensor) -> float:
    """1 / sum of squared normalised weights (Kong 1992), between 1 and K, of log weights [K]."""
    return math.exp(-torch.logsumexp(2 * torch.log_softmax(log_weights, 0), 0).item())


def systematic(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Systematic resampling (Kitagawa 1996): indices [K], where k is expected K * probabilities[k] times."""
    size = len(probabilities)
    offset = torch.rand((), generator=generator, dtype=torch.float64)
    positions = (torch.arange(size, dtype=torch.float64) + offset) / size
    # Rounding may leave the last cumulative sum just below the last position.
    return torch.searchsorted(probabilities.cumsum(0), positions, right=True).clamp(max=size - 1)


def ridge_fit(features: Tensor, values: Tensor) -> Tensor:
    """Part of `values` [K] that is linear in `features` [K, D], for slopes that are N(0, 1) a priori.

    The noise variance is found by the fixed point of MacKay (1992): residual sum of squares over the degrees
    of freedom that the slopes leave. Few particles or much noise shrink the fit towards nothing.
    """
    size = len(values)
    if size < 3:
        return torch.zeros_like(values)
    features = features - features.mean(0)
    values = values - values.mean()
    eigenvalues, vectors = torch.linalg.eigh(features.T @ features)
    eigenvalues = eigenvalues.clamp(min=0)
    projected = vectors.T @ (features.T @ values)
    total = values.square().sum()
    noise = total / (size - 1) + 1e-9
    for _ in range(5):
        slopes = projected / (eigenvalues + noise)
        residual = total - 2 * slopes @ projected + slopes.square() @ eigenvalues
        freedom = size - 1 - (eigenvalues / (eigenvalues + noise)).sum()
        noise = residual.clamp(min=0) / freedom.clamp(min=1) + 1e-9
    return features @ (vectors @ (projected / (eigenvalues + noise)))


def exact(values: Tensor) -> Tensor:
    """Float64 on the CPU, without gradients: a document's weight is a sum over thousands of tokens."""
    return values.detach().to("cpu", torch.float64)
