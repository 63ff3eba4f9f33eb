"""Documents of a stream that wait to be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow
import torch
from torch import Tensor

from textvae.data.document import EncodedDocument
from textvae.data.prepare.stages import ARRAYS, FEATURES


def without_text(document: EncodedDocument) -> EncodedDocument:
    """What a batch is made of, its numbers in arrays of a quarter of the size of lists."""
    arrays: dict[str, Any] = {name: np.asarray(getattr(document, name), dtype=np.int32) for name in ARRAYS}
    return replace(document, title=None, label=None, extra="{}", sentences=(), **arrays)


class ShuffleBuffer:
    """What is drawn depends on the documents that were put in, in their order, and on the keys of the draws."""

    def __init__(self) -> None:
        self._waiting: list[EncodedDocument] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, documents: Iterable[EncodedDocument]) -> None:
        """`documents`: as `without_text` makes them."""
        self._waiting += documents

    def draw(self, key: Sequence[int]) -> EncodedDocument:
        """Take one out. `key`: numbers from 0 on."""
        chosen = int(np.random.default_rng(key).integers(len(self._waiting)))
        self._waiting[chosen], self._waiting[-1] = self._waiting[-1], self._waiting[chosen]
        return self._waiting.pop()

    def to_tensor(self) -> Tensor:
        """The documents as rows of prepared data: the bytes of an Arrow stream."""
        rows = [{name: getattr(document, name) for name in FEATURES} for document in self._waiting]
        table = pyarrow.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return torch.from_numpy(np.frombuffer(sink.getvalue(), dtype=np.uint8).copy())

    def load_tensor(self, stored: Tensor) -> None:
        with pyarrow.ipc.open_stream(stored.numpy()) as reader:
            rows = [row for batch in reader for row in batch.to_pylist()]
        self._waiting = [without_text(EncodedDocument(**row)) for row in rows]
