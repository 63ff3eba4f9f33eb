"""From documents to batches on the device: the steps of training, and the one walk of every evaluation."""

from __future__ import annotations

import multiprocessing.queues
import os
import re
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from textvae.data.batch import BatchLayout, DocumentBatch
from textvae.data.collate import collate
from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.data.plan import BatchPlan, fill, share
from textvae.data.transfer import from_bytes, to_bytes
from textvae.workers import end_with_parent

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class StepBatches:
    """One process's part of an optimiser step."""

    batches: tuple[DocumentBatch, ...]
    """Never empty: distributed training needs a backward pass of every process. Processes may have different numbers of
    them: only with the last do gradients meet (`training.distributed`)."""
    weight: float
    """1, or 0 when the global batch had no document for this process and another's stands in."""
    global_tokens: int
    """Predicted tokens of the whole global batch: the one divisor of the loss."""


def micro_batches(
    documents: Sequence[EncodedDocument], layout: BatchLayout, batch_tokens: int
) -> tuple[DocumentBatch, ...]:
    """The documents in their order, at most `batch_tokens` predicted tokens at a time; a longer one by itself."""
    counts = np.asarray([document.num_tokens for document in documents])
    parts = fill(np.arange(len(documents)), counts, batch_tokens)
    return tuple(collate([documents[number] for number in part], layout) for part in parts)


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
        pin_memory: bool = False,
    ) -> None:
        """read: document number -> document; pin_memory: for an accelerator, which copies from pinned memory while it
        computes."""
        self.read = read
        self.plan = plan
        self.layout = layout
        self.steps = steps
        self.micro_batch_tokens = micro_batch_tokens
        self.process = process
        self.num_processes = num_processes
        self.pin_memory = pin_memory

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> StepBatches:
        documents = self.plan.documents(step)
        mine = share(documents, self.plan.token_counts, self.num_processes)[self.process]
        weight = 1.0 if len(mine) else 0.0
        if not len(mine):
            mine = documents[:1]
        batches = micro_batches([self.read(int(d)) for d in mine], self.layout, self.micro_batch_tokens)
        return StepBatches(batches, weight, int(self.plan.token_counts[documents].sum()))

    def __str__(self) -> str:
        return f"{len(self.plan.token_counts)} documents"

    def batches(self, first: int, num_workers: int) -> Iterator[StepBatches]:
        """Steps `first`, `first` + 1, ... in order, prepared ahead by worker processes."""
        steps = range(first, len(self))
        return map(
            from_bytes, prepared_ahead(self, steps, num_workers, collate_fn=to_bytes, pin_memory=self.pin_memory)
        )


def prepared_ahead(data: Dataset[T], order: Iterable[Any], num_workers: int, **options: Any) -> DataLoader[T]:
    """What `data` has for each of `order`, prepared by `num_workers` processes, which end with this one; `options`: of
    the loader."""
    return DataLoader(
        data,
        batch_size=None,
        sampler=order,
        num_workers=num_workers,
        worker_init_fn=_begin_worker,
        # Of its own: the loader draws a seed, which must not shift dropout after a resume.
        generator=torch.Generator(),
        **options,
    )


@contextmanager
def losing_no_worker(remedy: str) -> Iterator[None]:
    """A process of `prepared_ahead` that is lost while this runs, or that no more can be received from, is a
    ChildProcessError, an OSError, that says what to do."""
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        # The loader's own words; or the worker was lost when it was asked for what it had announced.
        if isinstance(error, BrokenPipeError):  # of whoever reads what is printed
            raise
        if isinstance(error, RuntimeError) and not re.match(r"DataLoader worker \(pid|Too many open files", str(error)):
            raise
        reason = str(error).split(". ")[0]
        raise ChildProcessError(f"what prepares data ahead was lost ({reason}): {remedy}") from None


def _begin_worker(worker: int) -> None:
    end_with_parent()
    # A processor's worth each; and threads of tokenizers that ran before the fork are not there any more.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # What the queue's thread cannot send it would drop, and who waits for it would wait for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: Exception, unsent: object) -> None:
    traceback.print_exception(error)
    os._exit(1)


@dataclass(frozen=True)
class DocumentGroup:
    """Documents that are evaluated together."""

    rows: list[int]
    """Of each in the data."""
    members: list[EncodedDocument]
    batch: DocumentBatch
    """The same documents in the same order, on the device."""


def walk(
    documents: Documents,
    layout: BatchLayout,
    device: torch.device,
    *,
    batch_tokens: int,
    process: PartialState | Accelerator | None = None,
    purpose: str | None = None,
    workers: int | None = None,
) -> Iterator[DocumentGroup]:
    """This process's share of the documents in the groups of `evaluation_groups`, on the device.

    A progress bar of documents, named `purpose`, is drawn by the main process where somebody can see it. `workers`
    threads read and collate ahead of the device (default: two, or none where the device is the CPU that they would
    take themselves).
    """
    process = process or PartialState()
    groups = evaluation_groups(
        documents.token_counts,
        batch_tokens,
        process=process.process_index,
        num_processes=process.num_processes,
    )

    yield from walk_groups(documents.read, groups, layout, device, process=process, purpose=purpose, workers=workers)


def walk_groups(
    read: Callable[[int], EncodedDocument],
    groups: Sequence[list[int]],
    layout: BatchLayout,
    device: torch.device,
    *,
    process: PartialState | Accelerator,
    purpose: str | None = None,
    workers: int | None = None,
) -> Iterator[DocumentGroup]:
    """`walk`, over the documents that `read` gives for `groups`, lists of their rows, in that order; all of them are
    for this process."""

    def load(rows: list[int]) -> tuple[list[int], list[EncodedDocument], DocumentBatch]:
        members = [read(row) for row in rows]
        return rows, members, collate(members, layout)

    if workers is None:
        workers = 0 if device.type == "cpu" else 2
    # `disable=None`: no bar where nobody sees it.
    hidden = None if purpose is not None and process.is_main_process else True
    with tqdm(total=sum(map(len, groups)), desc=purpose, unit="document", leave=False, disable=hidden) as bar:
        for rows, members, batch in _ahead(load, groups, workers):
            yield DocumentGroup(rows, members, batch.to(device))
            bar.update(len(rows))


def evaluation_groups(
    token_counts: np.ndarray,
    batch_tokens: int,
    *,
    process: int = 0,
    num_processes: int = 1,
) -> list[list[int]]:
    """One process's rows in groups of at most `batch_tokens` predicted tokens; a longer document is a group of its
    own.

    Documents share a group with the same others whatever the number of processes; only who takes it changes. Members
    are of similar length, the shortest come first, and every process gets about the same number of tokens, or is left
    without any.
    """
    rows = np.argsort(token_counts, kind="stable")
    groups = [group.tolist() for group in fill(rows, token_counts, batch_tokens)]
    loads = np.asarray([token_counts[group].sum() for group in groups])
    mine = sorted(share(np.arange(len(groups)), loads, num_processes)[process].tolist())
    return [groups[group] for group in mine]


def gather_in_order(found: Iterable[tuple[int, T]]) -> list[T]:
    """The results of all processes, given with the rows of their documents, in the order of the data; all processes
    get them."""
    return [result for _, result in sorted(gather_object(list(found)), key=itemgetter(0))]


def _ahead(make: Callable[[S], T], items: Sequence[S], workers: int) -> Iterator[T]:
    """`make` of every item, in order, up to `workers` of them made ahead by as many threads."""
    if not workers:
        yield from map(make, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[T]] = deque()
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
