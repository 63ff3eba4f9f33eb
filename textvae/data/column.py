"""Strings of a prepared data set, one a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import pyarrow
import pyarrow.compute


class StoredColumn(Sequence[str]):
    """A column of strings, which stays in its file: of a large corpus there are more than memory holds."""

    def __init__(self, values: pyarrow.ChunkedArray) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[number] for number in range(len(self))[row]]
        return self._values[int(row)].as_py()

    @property
    def num_distinct(self) -> int:
        return pyarrow.compute.count_distinct(self._values).as_py()

    def __iter__(self) -> Iterator[str]:
        for chunk in self._values.chunks:
            yield from chunk.to_pylist()
