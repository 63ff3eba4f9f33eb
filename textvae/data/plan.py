"""Which documents make a batch: pure functions of token counts, seed and step.

Every process computes the same plan, any step can be reached without reading what came before, and the global batch
does not depend on how many processes share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


class BatchPlan:
    """Which documents make up the global batch of every step, epoch after epoch, each shuffled anew."""

    def __init__(self, token_counts: np.ndarray, batch_tokens: int, seed: int) -> None:
        """token_counts: predicted tokens of every document. Raises ValueError when there is no document."""
        if not len(token_counts):
            raise ValueError("the training split holds no document; prepare more data")
        self.token_counts = token_counts
        self.batch_tokens = batch_tokens
        self.seed = seed
        self._lengths: list[int] = []
        self._last: _Epoch | None = None

    def documents(self, step: int) -> np.ndarray:
        """Document numbers of the global batch at `step`, counted from 0 over all epochs."""
        epoch, step = self._locate(step)
        return self._divided(epoch).batch(step)

    def epoch(self, step: int) -> int:
        return self._locate(step)[0]

    def _locate(self, step: int) -> tuple[int, int]:
        """The epoch of a step, and its number therein."""
        epoch = 0
        while True:
            if epoch == len(self._lengths):
                self._lengths.append(len(self._divided(epoch)))
            if step < self._lengths[epoch]:
                return epoch, step
            step -= self._lengths[epoch]
            epoch += 1

    def _divided(self, epoch: int) -> _Epoch:
        if self._last is None or self._last.number != epoch:
            self._last = None  # not two of them in memory
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.token_counts))
            self._last = _Epoch(epoch, order, borders(order, self.token_counts, self.batch_tokens))
        return self._last


@dataclass(frozen=True)
class _Epoch:
    number: int
    order: np.ndarray
    """[documents] numbers of the documents."""
    borders: np.ndarray
    """[batches + 1] places in `order` at which batches begin and end."""

    def __len__(self) -> int:
        return len(self.borders) - 1

    def batch(self, number: int) -> np.ndarray:
        return self.order[self.borders[number] : self.borders[number + 1]]


def borders(order: np.ndarray, token_counts: np.ndarray, size: int) -> np.ndarray:
    """Where to cut `order` into batches of `size` tokens on average, its ends included: a document belongs to the batch
    in which its middle lies.

    So a short document between two long ones does not make up a batch, and a gradient, by itself.
    """
    counts = token_counts[order]
    middle = np.cumsum(counts) - counts / 2
    return np.concatenate([[0], np.flatnonzero(np.diff(middle // size)) + 1, [len(order)]])


def fill(order: np.ndarray, token_counts: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Cut `order` into batches of at most `budget` tokens; a longer document is a batch of its own."""
    batch: list[int] = []
    tokens = 0
    for document in order.tolist():
        if batch and tokens + token_counts[document] > budget:
            yield np.asarray(batch)
            batch, tokens = [], 0
        batch.append(document)
        tokens += int(token_counts[document])
    if batch:
        yield np.asarray(batch)


def share(documents: np.ndarray, token_counts: np.ndarray, num_processes: int) -> list[np.ndarray]:
    """Split documents (or groups of them) between processes so that their token counts are close."""
    members: list[list[int]] = [[] for _ in range(num_processes)]
    loads = [0] * num_processes
    for document in sorted(documents.tolist(), key=lambda d: (-token_counts[d], d)):
        process = loads.index(min(loads))
        members[process].append(document)
        loads[process] += int(token_counts[document])
    return [np.asarray(part, dtype=np.int64) for part in members]


def spread(count: int, total: int) -> np.ndarray:
    """At most `count` of the numbers 0 to `total` - 1, evenly spread, the first and the last among them."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)
