"""Token NLL by where in its sentence, and where in its document, a token stands.

Shapes: N predicted tokens, P positions. Sentence stands for a unit of the lowest level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textvae.data.batch import DocumentBatch

TOKEN_POSITIONS = 32
"""Positions of a token in its sentence that are told apart; the rest share one more."""
UNIT_POSITIONS = 12
"""The same for units just below the root in their document."""


@dataclass(frozen=True)
class PositionGain:
    """Mean increase of the NLL by position; positions without tokens are left out."""

    position: list[int]
    """Counted from 0; the last that is told apart stands for all later ones too."""
    nats_per_token: list[float]
    tokens: list[int]


@dataclass(frozen=True)
class PositionSums:
    """Sums over tokens, float64: each [P, 2], NLL and number of tokens."""

    by_token: Tensor
    """By the token's position in its sentence."""
    by_unit: Tensor
    """By the position in its document of the unit just below the root (of the root itself, in a single level)."""

    @classmethod
    def of(cls, token_nll: Tensor, batch: DocumentBatch) -> PositionSums:
        """token_nll: [N]"""
        lowest = len(batch.levels) - 1
        level = min(1, lowest)
        unit = batch.levels[level].index[batch.ancestor(lowest, level)]
        return cls(
            _sums(token_nll, batch.token_position, TOKEN_POSITIONS),
            _sums(token_nll, unit[batch.token_sentence], UNIT_POSITIONS),
        )

    @classmethod
    def total(cls, parts: Sequence[PositionSums]) -> PositionSums:
        tokens, units = zip(*((part.by_token, part.by_unit) for part in parts), strict=True)
        return cls(torch.stack(tokens).sum(0), torch.stack(units).sum(0))


def position_gain(without: Tensor, reference: Tensor) -> PositionGain:
    """How much more the same tokens cost in `without` than in `reference`, both [P, 2]."""
    tokens = reference[:, 1]
    found = tokens.nonzero().flatten()
    gain = (without[found, 0] - reference[found, 0]) / tokens[found]
    return PositionGain(found.tolist(), gain.tolist(), [int(count) for count in tokens[found]])


def _sums(token_nll: Tensor, position: Tensor, last: int) -> Tensor:
    """[last + 1, 2] on the CPU."""
    terms = torch.stack([token_nll.double(), torch.ones_like(token_nll, dtype=torch.float64)], dim=1)
    return terms.new_zeros(last + 1, 2).index_add(0, position.clamp(max=last), terms).cpu()
