"""Training straight from a source: documents are read, tokenised and shuffled while they are needed, and never written.

    shards -> chunks of raw documents -> sections, in worker processes -> shuffle buffer -> the batches of a step

This process reads and draws, so that the stream is the same whatever the number of workers, and its state is that of
what was drawn, whatever they have prepared ahead. A state holds the documents that wait in the buffer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import accelerate.utils
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import Dataset

from textvae.config import DataConfig
from textvae.data.batch import BatchLayout, DocumentBatch
from textvae.data.chunks import Chunk, ChunkReader, Position, Unreadable
from textvae.data.dataset import PreparedSplit, load_prepared
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.fingerprint import StreamFingerprint
from textvae.data.loader import StepBatches, micro_batches, prepared_ahead
from textvae.data.prepare.stages import COUNTED, encode_documents, text_hash
from textvae.data.prepare.summary import Account, SetAside
from textvae.data.shuffle_buffer import ShuffleBuffer, without_text
from textvae.data.sources.corpus import SourceOptions, unique_names
from textvae.data.sources.files import DamagedRecord
from textvae.data.sources.folder import listed
from textvae.data.sources.shards import Shard, ShardedSource
from textvae.data.text.processor import DocumentProcessor


@dataclass(frozen=True)
class EncodedChunk:
    sections: list[EncodedDocument]
    account: Account
    after: Position


class Encoder(Dataset[EncodedChunk | Unreadable]):
    """A chunk of raw documents, which stands in for an index, -> its sections."""

    def __init__(self, processor: DocumentProcessor, max_sentences: int | None, held_out: Collection[int]) -> None:
        """held_out: `text_hash` of sections that must not be trained on."""
        self.processor = processor
        self.max_sentences = max_sentences
        self.held_out = held_out

    def __getitem__(self, chunk: Chunk | Unreadable) -> EncodedChunk | Unreadable:
        if isinstance(chunk, Unreadable):
            return chunk
        whole = [document for document in chunk.documents if isinstance(document, SourceDocument)]
        damaged = [SetAside(each.id, each.reason) for each in chunk.documents if isinstance(each, DamagedRecord)]
        try:
            sections, account = encode_documents(whole, self.processor, self.max_sentences, self.held_out)
        except ValueError as error:
            return Unreadable(str(error))
        # Only within a step must names differ, and there they are made to.
        account = replace(account, renamed=0) + Account(len(damaged), 0, {}, len(damaged), tuple(damaged))
        return EncodedChunk([without_text(section) for section in sections], account, chunk.after)


class Stream:
    """One process's part of every step, read from its share of the source's shards.

    A step's documents of all processes are `batch_tokens` tokens on average, where none is longer than the share of a
    process. An epoch ends when this process has read its shards, and the next begins when the buffer is empty: every
    document is trained on once an epoch. Processes whose shards differ in size do not stay in the same epoch.
    """

    def __init__(
        self,
        settings: DataConfig,
        source: ShardedSource,
        options: SourceOptions,
        encoder: Encoder,
        layout: BatchLayout,
        accelerator: Accelerator,
        *,
        steps: int,
        seed: int,
    ) -> None:
        """source, options: what `settings.stream` names, and how it is read."""
        self.settings = settings
        self.source = source
        self.options = options
        self.encoder = encoder
        self.layout = layout
        self.steps = steps
        self.seed = seed
        self.accelerator = accelerator
        self._reader = ChunkReader(source.shards, seed, accelerator.process_index, accelerator.num_processes)
        self._position = Position()
        """Behind the last document in the buffer."""
        self.epoch = 0
        """Of the documents in the buffer."""
        self._drawn = 0
        """In this epoch."""
        self._buffer = ShuffleBuffer()
        self._excess = 0
        """Tokens, times processes, by which the steps so far are ahead of `batch_tokens` each."""
        self._account = Account.of((), COUNTED, 0, 0)
        self._told: Account | None = None

    @property
    def fingerprint(self) -> StreamFingerprint:
        """What tells this stream from others: names and sizes of its shards, and how they are read."""
        facts = [(shard.name, shard.num_bytes) for shard in self.source.shards]
        told = json.dumps([facts, asdict(self.options)])
        return StreamFingerprint(len(facts), sum(size for _, size in facts), hashlib.sha256(told.encode()).hexdigest())

    def __str__(self) -> str:
        """What is read, in a line or two."""
        shards, processes = len(self.source.shards), self.accelerator.num_processes
        told = f"the stream of {shards} shard{'' if shards == 1 else 's'} of '{self.settings.stream}'"
        if shards < processes:
            told += f", each read by several of the {processes} processes"
        return told + (f"; {listed(self.source.passed_over)}" if self.source.passed_over else "")

    def news(self) -> str:
        """What became of the documents that all processes have read, of the first epoch of each; empty where that was
        told before. All processes call it together."""
        total = reduce(add, gather_object([self._account]))
        if total == self._told:
            return ""
        self._told = total
        return f"'{self.settings.stream}': {total.summary().listed()}"

    def batches(self, first: int, num_workers: int) -> Iterator[StepBatches]:
        """The steps from `first` on, which must be the next; all processes take them together, and `num_workers` others
        tokenise ahead.

        Raises ValueError for what cannot be read, and where an epoch has nothing to train on.
        """
        chunks = prepared_ahead(self.encoder, self._reader.chunks(self._position), num_workers)
        documents = self._documents(iter(chunks))
        for _ in range(first, self.steps):
            members = []
            while self._excess < self.settings.batch_tokens:
                members.append(next(documents))
                self._excess += members[-1].num_tokens * self.accelerator.num_processes
            self._excess %= self.settings.batch_tokens
            own = sum(member.num_tokens for member in members)
            tokens = accelerate.utils.reduce(torch.tensor(own, device=self.accelerator.device), reduction="sum")
            yield StepBatches(self._batches(members), 1.0, int(tokens))

    def _batches(self, members: Sequence[EncodedDocument]) -> tuple[DocumentBatch, ...]:
        names = unique_names([member.id for member in members])  # which noise is keyed by
        members = [replace(member, id=name) for member, name in zip(members, names, strict=True)]
        ordered = sorted(members, key=lambda member: -member.num_tokens)
        return micro_batches(ordered, self.layout, self.settings.micro_batch_tokens)

    def _documents(self, chunks: Iterator[EncodedChunk | Unreadable]) -> Iterator[EncodedDocument]:
        """Drawn from the buffer, which is kept full until an epoch ends, and then emptied."""
        empty: set[tuple[Shard, int]] = set()
        while True:
            while self._position.epoch == self.epoch and len(self._buffer) <= self.settings.stream_buffer:
                self._take(next(chunks))
            if self._buffer:
                key = [self.seed, self._reader.process, self.epoch, self._drawn]
                self._drawn += 1
                yield self._buffer.draw(key)
                continue
            # The next epoch deals the shards anew: one without a document is no end, until all parts were found empty.
            empty = set() if self._drawn else empty.union(self._reader.parts(self.epoch))
            if len(empty) == self._reader.num_parts:
                whose = "" if self._reader.num_processes == 1 else f" for process {self._reader.process}"
                raise ValueError(
                    f"data.stream: '{self.settings.stream}' holds no document to train on{whose}:\n"
                    f"  {self._account.summary().listed()}"
                )
            self.epoch, self._drawn = self.epoch + 1, 0

    def _take(self, chunk: EncodedChunk | Unreadable) -> None:
        if isinstance(chunk, Unreadable):
            raise ValueError(chunk.reason)
        self._buffer.put(chunk.sections)
        self._position = chunk.after
        if self.epoch == 0:
            self._account += chunk.account

    def state_dict(self) -> dict[str, Any]:
        """Of what was drawn for the steps so far."""
        return {
            "position": asdict(self._position),
            "epoch": self.epoch,
            "drawn": self._drawn,
            "excess": self._excess,
            "account": asdict(self._account),
            "waiting": self._buffer.to_tensor(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._position = Position(**state["position"])
        self.epoch = state["epoch"]
        self._drawn = state["drawn"]
        self._excess = state["excess"]
        self._account = Account.parse(state["account"])
        self._buffer.load_tensor(state["waiting"])


def open_stream(
    settings: DataConfig,
    source: ShardedSource,
    training: PreparedSplit,
    layout: BatchLayout,
    accelerator: Accelerator,
    *,
    steps: int,
    seed: int,
) -> Stream:
    """The stream of `source`, segmented and tokenised as the prepared data in `settings.path` were."""
    options = training.source_options
    encoder = Encoder(training.processor, options.max_document_sentences, _held_out(settings.path, training))
    return Stream(settings, source, options, encoder, layout, accelerator, steps=steps, seed=seed)


def _held_out(folder: str, training: PreparedSplit) -> frozenset[int]:
    """`text_hash` of all sections of the other prepared splits."""
    others = (load_prepared(folder, split) for split in training.metadata["splits"] if split != "train")
    columns = (other.dataset.data.column("sentences") for other in others)
    return frozenset(
        text_hash(sentences) for column in columns for chunk in column.chunks for sentences in chunk.to_pylist()
    )
