"""From a prepared data set to the batches of every optimiser step.

The plan is a pure function of (token counts, seed, step): every process computes the same one, any step can
be reached without reading what came before, and the global batch does not depend on how many processes
share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from textvae.data.batch import BatchLayout, DocumentBatch
from textvae.data.collation import collate
from textvae.data.document import EncodedDocument


@dataclass(frozen=True)
class StepBatches:
    """One process's part of an optimiser step."""

    batches: tuple[DocumentBatch, ...]
    """Never empty: distributed training needs a backward pass of every process."""
    weight: float
    """1, or 0 when the global batch had no document for this process and another's stands in."""
    global_tokens: int
    """Predicted tokens of the whole global batch: the one divisor of the loss."""


class BatchPlan:
    """Which documents make up the global batch of every step, epoch after epoch, each shuffled anew."""

    def __init__(self, token_counts: np.ndarray, batch_tokens: int, seed: int) -> None:
        """token_counts: predicted tokens of every document. Raises ValueError when there is no document."""
        if not len(token_counts):
            raise ValueError("the training split holds no document; prepare more data")
        self.token_counts = token_counts
        self.batch_tokens = batch_tokens
        self.seed = seed
        self._epochs: list[list[np.ndarray]] = []

    def documents(self, step: int) -> np.ndarray:
        """Document numbers of the global batch at `step`, counted from 0 over all epochs."""
        return self._locate(step)[1]

    def epoch(self, step: int) -> int:
        return self._locate(step)[0]

    def _locate(self, step: int) -> tuple[int, np.ndarray]:
        epoch = 0
        while True:
            if epoch == len(self._epochs):
                order = np.random.default_rng([self.seed, epoch]).permutation(len(self.token_counts))
                self._epochs.append(divide(order, self.token_counts, self.batch_tokens))
            if step < len(self._epochs[epoch]):
                return epoch, self._epochs[epoch][step]
            step -= len(self._epochs[epoch])
            epoch += 1


def divide(order: np.ndarray, token_counts: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut `order` into batches of `size` tokens on average: a document belongs to the batch in which its middle lies.

    So a short document between two long ones does not make up a batch, and a gradient, by itself.
    """
    counts = token_counts[order]
    middle = np.cumsum(counts) - counts / 2
    return np.split(order, np.flatnonzero(np.diff(middle // size)) + 1)


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


class TrainingSteps(Dataset[StepBatches]):
    """`self[step]` is this process's part of the global batch of `step`."""

    def __init__(self, read: Callable[[int], EncodedDocument], plan: BatchPlan, layout: BatchLayout, *,
                 steps: int, micro_batch_tokens: int, process: int, num_processes: int) -> None:  # fmt: skip
        """read: document number -> document."""
        self.read = read
        self.plan = plan
        self.layout = layout
        self.steps = steps
        self.micro_batch_tokens = micro_batch_tokens
        self.process = process
        self.num_processes = num_processes

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> StepBatches:
        documents = self.plan.documents(step)
        mine = share(documents, self.plan.token_counts, self.num_processes)[self.process]
        weight = 1.0 if len(mine) else 0.0
        if not len(mine):
            mine = documents[:1]
        parts = fill(mine, self.plan.token_counts, self.micro_batch_tokens)
        batches = tuple(collate([self.read(int(d)) for d in part], self.layout) for part in parts)
        return StepBatches(batches, weight, int(self.plan.token_counts[documents].sum()))


def training_loader(steps: TrainingSteps, first: int, num_workers: int) -> DataLoader[StepBatches]:
    """Steps `first`, `first` + 1, ... in order, prepared ahead by worker processes."""
    # A generator of its own: the loader draws a seed, which must not shift dropout after a resume.
    return DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, len(steps)),
        num_workers=num_workers,
        generator=torch.Generator(),
    )


def spread(count: int, total: int) -> np.ndarray:
    """At most `count` of the numbers 0 to `total` - 1, evenly spread, the first and the last among them."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)


def evaluation_groups(token_counts: np.ndarray, batch_tokens: int, *, documents: np.ndarray | None = None,
                      process: int = 0, num_processes: int = 1) -> Iterator[list[int]]:  # fmt: skip
    """One process's `documents` (numbers; default: all) in groups of similar length, shortest first.

    Documents share a batch with the same others whatever the number of processes; only who scores it changes.
    A process may be left without any.
    """
    chosen = np.arange(len(token_counts)) if documents is None else documents
    order = chosen[np.argsort(token_counts[chosen], kind="stable")]
    groups = list(fill(order, token_counts, batch_tokens))
    loads = np.asarray([token_counts[group].sum() for group in groups])
    for number in sorted(share(np.arange(len(groups)), loads, num_processes)[process].tolist()):
        yield groups[number].tolist()
