"""Search by meaning as the pretrained encoder reads it: every unit through the passages that it is made of.

A passage is a unit of the lowest level. A long text's mean blurs what one of its sentences says, and one sentence
alone does not say what the text is about: a unit's score is the mean of both cosines, that of its mean passage and that
of its best one (late interaction, as in ColBERT by Khattab & Zaharia 2020, over sentences in place of tokens).

Shapes: U units of a level, P passages, F size of the encoder's features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow

from textvae.search.storage import embeddings_of


class Passages:
    """`levels`: the units of every level, top first, as `storage.read_level` gives them; the lowest has features.

    Raises ValueError for features that are not finite.
    """

    def __init__(self, levels: Mapping[str, pyarrow.Table]) -> None:
        names = list(levels)
        self.units = levels[names[-1]]
        self.lengths = np.concatenate([np.linalg.norm(part.astype(np.float32), axis=1) for part in self._features()])
        if not np.isfinite(self.lengths).all():
            raise ValueError("features are not finite")
        rows = np.arange(len(self.units))
        self.unit_of: dict[str, np.ndarray] = {names[-1]: rows}
        """[P] by level: the unit that a passage is in, in reading order."""
        for above, below in zip(names[-2::-1], names[:0:-1], strict=True):
            rows = levels[below].column("parent").to_numpy()[rows]
            self.unit_of[above] = rows
        self._means: dict[str, np.ndarray] = {}

    def cosines(self, query: np.ndarray) -> np.ndarray:
        """[P] of the features of a query [F]."""
        products = np.concatenate([part.astype(np.float32) @ query for part in self._features()])
        return products / np.maximum(self.lengths * np.linalg.norm(query), 1e-12)

    def scores(self, query: np.ndarray, level: str) -> np.ndarray:
        """[U] in [-1, 1], of all units of a level."""
        units, means = self.unit_of[level], self._mean_directions(level)
        best = np.full(len(means), -1.0, dtype=np.float32)
        np.maximum.at(best, units, self.cosines(query))
        return (best + means @ query / max(float(np.linalg.norm(query)), 1e-12)) / 2

    def best(self, cosines: np.ndarray, level: str, unit: int) -> tuple[int, str]:
        """The passage of a unit that is nearest to a query, whose `cosines` [P] are given: its number in the unit, from
        1, and its text."""
        within = np.flatnonzero(self.unit_of[level] == unit)
        chosen = int(cosines[within].argmax())
        return chosen + 1, self.units.column("text")[int(within[chosen])].as_py()

    def _mean_directions(self, level: str) -> np.ndarray:
        """[U, F] of length 1: the mean of each unit's passages."""
        if level not in self._means:
            units, first = self.unit_of[level], 0
            total = np.zeros((int(units.max()) + 1, self.units.schema.field("features").type.list_size), np.float32)
            for part in self._features():
                np.add.at(total, units[first : first + len(part)], part.astype(np.float32))
                first += len(part)
            self._means[level] = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
        return self._means[level]

    def _features(self) -> Iterator[np.ndarray]:
        return embeddings_of(self.units, "features")
