"""Search by meaning as the pretrained encoder reads it: every unit through the passages that it is made of.

A passage is a unit of the lowest level. A long text's mean blurs what one of its sentences says, and one sentence
alone does not say what the text is about: a unit's score is the mean of both cosines, that of its mean passage and that
of its best one (late interaction, as in ColBERT by Khattab & Zaharia 2020, over sentences in place of tokens).

Shapes: U units of a level, P passages, F size of the encoder's features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow
import torch

from textvae.search.similarity import SMALLEST_LENGTH
from textvae.search.units import ancestors, embeddings_of

BLOCK = 1024
"""Passages whose features are made float32 at a time: few enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Asked:
    """A query, compared with every passage once."""

    direction: np.ndarray
    """[F] the encoder's features of the query, of length 1."""
    cosines: np.ndarray
    """[P]"""


class Passages:
    """`levels`: the units of every level, top first, as `units.read_level` gives them; the lowest has features.

    Raises ValueError for features that are not finite.
    """

    def __init__(self, levels: Mapping[str, pyarrow.Table]) -> None:
        *_, self.units = levels.values()
        self.lengths = np.concatenate([np.linalg.norm(part.astype(np.float32), axis=1) for part in self._features()])
        if not np.isfinite(self.lengths).all():
            raise ValueError("features are not finite")
        self.unit_of = ancestors(levels)
        self._means: dict[str, np.ndarray] = {}

    def ask(self, query: np.ndarray) -> Asked:
        """`query`: [F] the encoder's features of it."""
        direction = query / max(float(np.linalg.norm(query)), SMALLEST_LENGTH)
        sought = torch.from_numpy(direction)
        # Copied, for PyTorch asks for memory that may be written to, and a file's may not.
        blocks = (part[at : at + BLOCK].copy() for part in self._features() for at in range(0, len(part), BLOCK))
        products = torch.cat([torch.from_numpy(block).float() @ sought for block in blocks]).numpy()
        return Asked(direction, products / np.maximum(self.lengths, SMALLEST_LENGTH))

    def scores(self, asked: Asked, level: str) -> np.ndarray:
        """[U] in [-1, 1], of all units of a level."""
        means, units = self._mean_directions(level), self.unit_of[level]
        best = np.maximum.reduceat(asked.cosines, np.searchsorted(units, np.arange(len(means))))
        return (best + means @ asked.direction) / 2

    def best(self, asked: Asked, level: str, unit: int) -> tuple[int, str]:
        """The passage of a unit that is nearest to the query: its number in the unit, from 1, and its text."""
        first, after = np.searchsorted(self.unit_of[level], [unit, unit + 1])
        chosen = int(asked.cosines[first:after].argmax())
        return chosen + 1, self.units.column("text")[int(first) + chosen].as_py()

    def _mean_directions(self, level: str) -> np.ndarray:
        """[U, F] of length 1: the mean of each unit's passages."""
        if level not in self._means:
            units, first = self.unit_of[level], 0
            total = np.zeros((int(units.max()) + 1, self.units.schema.field("features").type.list_size), np.float32)
            for part in self._features():
                np.add.at(total, units[first : first + len(part)], part.astype(np.float32))
                first += len(part)
            self._means[level] = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), SMALLEST_LENGTH)
        return self._means[level]

    def _features(self) -> Iterator[np.ndarray]:
        return embeddings_of(self.units, "features")
