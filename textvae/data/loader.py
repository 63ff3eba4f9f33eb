"""From documents to batches on the device: the steps of training, and the groups of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from textvae.data.batch import BatchLayout, DocumentBatch
from textvae.data.collate import collate
from textvae.data.document import EncodedDocument
from textvae.data.plan import BatchPlan, fill, share


@dataclass(frozen=True)
class StepBatches:
    """One process's part of an optimiser step."""

    batches: tuple[DocumentBatch, ...]
    """Never empty: distributed training needs a backward pass of every process."""
    weight: float
    """1, or 0 when the global batch had no document for this process and another's stands in."""
    global_tokens: int
    """Predicted tokens of the whole global batch: the one divisor of the loss."""


class TrainingSteps(Dataset[StepBatches]):
    """`self[step]` is this process's part of the global batch of `step`."""

    def __init__(
        self,
        read: Callable[[int], EncodedDocument],
        plan: BatchPlan,
        layout: BatchLayout,
        *,
        steps: int,
        micro_batch_tokens: int,
        process: int,
        num_processes: int,
    ) -> None:
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


def evaluation_groups(
    token_counts: np.ndarray,
    batch_tokens: int,
    *,
    documents: np.ndarray | None = None,
    process: int = 0,
    num_processes: int = 1,
) -> Iterator[list[int]]:
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
