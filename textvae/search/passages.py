"""Search by meaning as the pretrained encoder reads it: every unit through the passages that it is made of.

A passage is a unit of the lowest level. A long text's mean blurs what one of its sentences says, and one sentence
alone does not say what the text is about: a unit's score is the mean of both cosines, that of its mean passage and that
of its best one (late interaction, as in ColBERT by Khattab & Zaharia 2020, over sentences in place of tokens). The mean
of hundreds of passages says nothing of one: a unit of many is sought by its sections, and the best of them counts.

Shapes: U units of a level, S sections of units, P passages, F size of the encoder's features.
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

SECTION = 32
"""Passages of a section: a unit of more is cut evenly."""


@dataclass(frozen=True)
class Asked:
    """A query, compared with every passage once."""

    direction: np.ndarray
    """[F] the encoder's features of the query, of length 1."""
    cosines: np.ndarray
    """[P]"""


@dataclass(frozen=True)
class Sections:
    """Those of all units of a level, in order."""

    means: np.ndarray
    """[S, F] of length 1: the mean of each section's passages."""
    first: np.ndarray
    """[S] number of its first passage."""
    of_unit: np.ndarray
    """[U] number of each unit's first section."""


def cut_evenly(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[S] number of the first passage of every section, and [U] of the first section of every unit, of units of so many
    passages [U], 1 or more."""
    number = -(-counts // SECTION)
    of_unit, unit = np.cumsum(number) - number, np.repeat(np.arange(len(counts)), number)
    place = np.arange(len(unit)) - of_unit[unit]
    return (np.cumsum(counts) - counts)[unit] + place * counts[unit] // number[unit], of_unit


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
        self._known: dict[str, Sections] = {}

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
        sections = self._sections(level)
        best = np.maximum.reduceat(asked.cosines, sections.first)
        found = (best + sections.means @ asked.direction) / 2
        return np.maximum.reduceat(found, sections.of_unit)

    def best(self, asked: Asked, level: str, unit: int) -> tuple[int, str]:
        """The passage of a unit that is nearest to the query: its number in the unit, from 1, and its text."""
        first, after = np.searchsorted(self.unit_of[level], [unit, unit + 1])
        chosen = int(asked.cosines[first:after].argmax())
        return chosen + 1, self.units.column("text")[int(first) + chosen].as_py()

    def _sections(self, level: str) -> Sections:
        if level not in self._known:
            bounds = np.searchsorted(self.unit_of[level], np.arange(int(self.unit_of[level].max()) + 2))
            first, of_unit = cut_evenly(np.diff(bounds))
            section, at = np.repeat(np.arange(len(first)), np.diff(first, append=bounds[-1])), 0
            total = np.zeros((len(first), self.units.schema.field("features").type.list_size), np.float32)
            for part in self._features():
                np.add.at(total, section[at : at + len(part)], part.astype(np.float32))
                at += len(part)
            means = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), SMALLEST_LENGTH)
            self._known[level] = Sections(means, first, of_unit)
        return self._known[level]

    def _features(self) -> Iterator[np.ndarray]:
        return embeddings_of(self.units, "features")
