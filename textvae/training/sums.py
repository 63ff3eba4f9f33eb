"""What every reported mean is made of: raw sums over batches and processes.

Shapes: Z_l latent size of level l. All amounts are nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from textvae.data.batch import DocumentBatch
from textvae.model.vae import DocumentVAE
from textvae.training.objective import ElboTerms


@dataclass(frozen=True)
class Sums:
    """Sums over a global batch or a data split, raw nats: what every reported mean is made of."""

    tokens: float
    documents: float
    distortion_tokens: float
    distortion_structure: float
    rate_by_dimension: dict[str, Tensor]
    """[Z_l] by level."""
    units: dict[str, float]
    similarity: float | None = None
    """Where it is part of the objective; no nats. Of every predicted token."""

    @property
    def rate(self) -> dict[str, float]:
        """Nats by level."""
        return {name: float(values.sum()) for name, values in self.rate_by_dimension.items()}

    @property
    def negative_elbo(self) -> float:
        return self.distortion_tokens + self.distortion_structure + math.fsum(self.rate.values())

    def report(self) -> dict[str, Any]:
        """Means, under the names of metrics.jsonl."""
        return {
            "nll_per_token": self.negative_elbo / self.tokens,
            "perplexity_per_token": math.exp(min(50.0, self.negative_elbo / self.tokens)),
            "distortion_tokens_per_token": self.distortion_tokens / self.tokens,
            "distortion_structure_per_token": self.distortion_structure / self.tokens,
            **mean_rates(self.rate, self.units, self.documents),
            **({} if self.similarity is None else {"similarity": self.similarity / self.tokens}),
        }


class Totals:
    """Adds up batches on the device; one reduction over processes and one host sync at the end."""

    def __init__(self, model: DocumentVAE) -> None:
        self.levels = {level: model.hierarchy.stack[level].latent_size for level in model.level_names}
        size = 5 + len(self.levels) + sum(self.levels.values())
        self.has_similarity = False
        self.values = torch.zeros(size, dtype=torch.float64, device=model.device)

    def add(self, batch: DocumentBatch, terms: ElboTerms, weight: float = 1.0) -> None:
        counts = [batch.num_tokens, len(batch)]
        units = [len(batch.levels[batch.level_number(name)]) for name in self.levels]
        self.has_similarity |= terms.similarity is not None
        losses = [terms.distortion_tokens, terms.distortion_structure]
        losses.append(torch.zeros_like(losses[0]) if terms.similarity is None else terms.similarity)
        numbers = torch.tensor([*counts, *units], dtype=torch.float64, device=self.values.device)
        rates = [terms.rate_by_dimension[name].detach() for name in self.levels]
        parts = [numbers, torch.stack([loss.detach().sum() for loss in losses]), *rates]
        self.values += weight * torch.cat([part.double() for part in parts])

    def reduce(self, accelerator: Accelerator) -> Sums:
        values = accelerator.reduce(self.values, reduction="sum").cpu()
        num_levels = len(self.levels)
        head, rates = values[: 5 + num_levels].tolist(), values[5 + num_levels :]
        by_level = dict(zip(self.levels, rates.split(list(self.levels.values())), strict=True)) if num_levels else {}
        return Sums(
            tokens=head[0],
            documents=head[1],
            distortion_tokens=head[2 + num_levels],
            distortion_structure=head[3 + num_levels],
            rate_by_dimension=by_level,
            units=dict(zip(self.levels, head[2 : 2 + num_levels], strict=True)),
            similarity=head[4 + num_levels] if self.has_similarity else None,
        )


def mean_rates(rate: Mapping[str, float], units: Mapping[str, float], documents: float) -> dict[str, dict[str, float]]:
    """KL(q || p) per unit and per document of every level, from its sum over all units, raw."""
    return {
        "rate_per_unit": {level: total / units[level] for level, total in rate.items()},
        "rate_per_document": {level: total / documents for level, total in rate.items()},
    }
