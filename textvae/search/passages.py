"""Search by meaning as the pretrained encoder reads it: every unit through the passages that it is made of.

A passage is a unit of the lowest level. A long text's mean blurs what one of its sentences says, and one sentence
alone does not say what the text is about: a unit's score is a mean of both cosines, that of its best passage (late
interaction, as in ColBERT by Khattab & Zaharia 2020, over sentences in place of tokens) and that of its mean passage,
which counts the less the more passages it is of.

Shapes: U units of a level, P passages, F size of the encoder's features, n units that are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow

from textvae.search.storage import AGAIN
from textvae.search.units import Directions, ancestors

MANY = 32
"""Passages whose mean counts half as much as that of one."""
BLOCK = 1024
"""Directions that are made float32 at a time: few enough to stay in the processor's cache."""


class Passages:
    """The units of an index, with the passages that each is made of; directions stay in their files."""

    def __init__(self, levels: Mapping[str, pyarrow.Table], index: Path) -> None:
        """`levels`: the units of every level, top first, as `units.read_level` gives them; `index`: what errors call
        it. Raises ValueError where they do not belong together."""
        self.index = index
        self.directions = {name: Directions(units) for name, units in levels.items()}
        *_, self.lowest = levels
        try:
            above = ancestors(levels)
        except IndexError as error:
            raise ValueError(f"'{index}' is damaged ({error}); {AGAIN}") from None
        self.first = {
            name: np.searchsorted(units, np.arange(len(levels[name]) + 1)) for name, units in reversed(above.items())
        }
        """By level, [U + 1] the first passage of every unit, and what comes after the last."""
        top = next(iter(levels))
        self.documents = np.unique(levels[top].column("row").to_numpy(), return_index=True)[1]
        """The first unit of the top level of every document."""
        for name, first in self.first.items():
            if (np.diff(first) < 1).any():
                raise ValueError(f"'{index}' is damaged (a {name} has no {self.lowest}); {AGAIN}")

    def scores(self, query: np.ndarray, level: str) -> np.ndarray:
        """[U] in [-1, 1] of all units of a level; `query`: [F] its direction. Raises ValueError for directions that are
        damaged."""
        first = self.first[level]
        best = np.maximum.reduceat(self._cosines(self.lowest, query), first[:-1])
        return _mean(best, self._cosines(level, query), np.diff(first))

    def some(self, level: str, units: np.ndarray) -> Some:
        """The `units` [n] of a level, in memory."""
        first = self.first[level]
        counts = first[units + 1] - first[units]
        starts = np.cumsum(counts) - counts
        passages = np.arange(counts.sum()) + np.repeat(first[units] - starts, counts)
        return Some(self.directions[level][units], self.directions[self.lowest][passages], counts, self.index)

    def best(self, query: np.ndarray, level: str, unit: int) -> int:
        """The passage of a unit that is nearest to the query."""
        first, after = self.first[level][unit : unit + 2]
        cosines = self.directions[self.lowest][np.arange(first, after)] @ query
        return int(first) + int(_checked(cosines, self.index).argmax())

    def place(self, level: str, unit: int) -> dict[str, int]:
        """By level down to `level`, which of its document's units a unit is in, from 1; without a top that has one
        unit a document."""
        passage = self.first[level][unit]
        levels = list(self.first)
        own = self.documents[np.searchsorted(self.documents, self.unit_of(levels[0], passage), side="right") - 1]
        begins = self.first[levels[0]][own]
        has_several = len(self.documents) < len(self.first[levels[0]]) - 1
        return {
            name: int(self.unit_of(name, passage) - self.unit_of(name, begins)) + 1
            for name in levels[0 if has_several else 1 : levels.index(level) + 1]
        }

    def unit_of(self, level: str, passages: np.ndarray) -> np.ndarray:
        """[..] the units of `level` that `passages` [..] are in."""
        return np.searchsorted(self.first[level], passages, side="right") - 1

    def _cosines(self, level: str, query: np.ndarray) -> np.ndarray:
        blocks = self.directions[level].blocks(BLOCK)
        return _checked(np.concatenate([block @ query for block in blocks]), self.index)


@dataclass(frozen=True)
class Some:
    """A few units of a level, and their passages, one unit's after the other's."""

    units: np.ndarray
    """[n, F]"""
    passages: np.ndarray
    """[passages, F]"""
    counts: np.ndarray
    """[n] passages of each."""
    index: Path

    def scores(self, query: np.ndarray) -> np.ndarray:
        """[n] as `Passages.scores`."""
        best = np.maximum.reduceat(self.passages @ query, np.cumsum(self.counts) - self.counts)
        return _checked(_mean(best, self.units @ query, self.counts), self.index)


def _mean(best: np.ndarray, of_mean: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[n] of the cosine of the best passage and that of the mean of `counts` passages."""
    weight = (MANY / (MANY + counts)).astype(np.float32)
    return (best + weight * of_mean) / (1 + weight)


def _checked(cosines: np.ndarray, index: Path) -> np.ndarray:
    if not np.isfinite(cosines).all():
        raise ValueError(f"'{index}' is damaged (a direction is not finite); {AGAIN}")
    return cosines
