"""In which order a process reads the shards of a stream: a function of seed, epoch and process, that can be taken up at
any document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from textvae.data.document import SourceDocument
from textvae.data.sources.files import DamagedRecord
from textvae.data.sources.shards import Shard

CHUNK_DOCUMENTS = 8
"""What a worker process is given at a time."""


@dataclass(frozen=True)
class Position:
    """Where a process stands in its stream."""

    epoch: int = 0
    part: int = 0
    """Number of the part in the order of the epoch."""
    documents: int = 0
    """Those of the part that were read."""


@dataclass(frozen=True)
class Chunk:
    """Documents that were read one after the other, and the position behind them."""

    documents: tuple[SourceDocument | DamagedRecord, ...]
    """None at the end of an epoch."""
    after: Position


@dataclass(frozen=True)
class Unreadable:
    """Stands where a chunk could not be read or segmented: an error when training comes to it, and not before."""

    reason: str


class ChunkReader:
    """One process's documents, epoch after epoch.

    An epoch shuffles the shards and deals them out to the processes, so that together they read every document once.
    Where there are fewer shards than processes, a part is every second (third, ...) document of a shard, and several
    processes read the same shard.
    """

    def __init__(self, shards: Sequence[Shard], seed: int, process: int, num_processes: int) -> None:
        self.shards = shards
        self.seed = seed
        self.process = process
        self.num_processes = num_processes
        self.parts_of_shard = -(-num_processes // len(shards))

    @property
    def num_parts(self) -> int:
        return self.parts_of_shard * len(self.shards)

    def chunks(self, position: Position) -> Iterator[Chunk | Unreadable]:
        """What is read from `position` on, without end or up to what cannot be read."""
        try:
            yield from self._chunks(position)
        except (ValueError, OSError) as error:
            yield Unreadable(str(error))

    def _chunks(self, position: Position) -> Iterator[Chunk]:
        while True:
            for number, (shard, first) in enumerate(self.parts(position.epoch)):
                if number < position.part:
                    continue
                done = position.documents if number == position.part else 0
                part = islice(shard.read(), first, None, self.parts_of_shard)
                part = islice(part, done, None)
                while documents := tuple(islice(part, CHUNK_DOCUMENTS)):
                    done += len(documents)
                    yield Chunk(documents, Position(position.epoch, number, done))
            position = Position(position.epoch + 1)
            yield Chunk((), position)

    def parts(self, epoch: int) -> list[tuple[Shard, int]]:
        """This process's in order: each a shard, and its first document there."""
        parts = [(shard, first) for shard in self.shards for first in range(self.parts_of_shard)]
        order = np.random.default_rng([self.seed, epoch]).permutation(len(parts))
        return [parts[number] for number in order[self.process :: self.num_processes].tolist()]
