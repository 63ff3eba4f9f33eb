"""A shard of an index as it is written: every level's units as they come.

Shapes: Z latent size, F size of the encoder's features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow

from textvae.damage import sha256_of
from textvae.search.moments import Moments
from textvae.search.postings import WordCounter, postings_file, with_title
from textvae.search.storage import ShardDescription, ShardLevel
from textvae.search.units import UnitRows, unit_schema, units_file


@dataclass(frozen=True)
class LevelSize:
    latent: int
    """Z"""
    features: int
    """F"""


class ShardWriter:
    """Writes a shard of levels of these sizes, top first, into `folder`; a context, within which it is finished."""

    def __init__(self, folder: Path, sizes: Mapping[str, LevelSize], language: str) -> None:
        """`language`: of the texts, as in `postings.words_of`."""
        self.folder = folder
        self._stack = ExitStack()
        top = next(iter(sizes))
        self._levels = {
            name: self._stack.enter_context(_LevelWriter(folder, name, size, language, titled=name == top))
            for name, size in sizes.items()
        }

    def units(self, level: str) -> int:
        """That were written of a level."""
        return self._levels[level].moments.count

    def write(self, level: str, rows: UnitRows) -> None:
        self._levels[level].write(rows)

    def finish(self, documents: int, content: str | None = None) -> None:
        """Describe it; what is said of its documents is as in `ShardDescription`."""
        self._stack.close()
        levels = {name: writer.described() for name, writer in self._levels.items()}
        ShardDescription(documents, content, levels).write(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


class _LevelWriter:
    def __init__(self, shard: Path, name: str, size: LevelSize, language: str, titled: bool) -> None:
        """`titled`: whether the words of a unit are those of its document's title, too."""
        self.titled = titled
        self.path, self.postings, self.size = units_file(shard, name), postings_file(shard, name), size
        self.schema = unit_schema(size.latent, size.features)
        self.moments = Moments.of(np.empty((0, size.latent)))
        self.words = WordCounter(language)
        self._file = pyarrow.OSFile(str(self.path), "wb")
        self._stream = pyarrow.ipc.new_stream(self._file, self.schema)

    def write(self, rows: UnitRows) -> None:
        titles, texts = (_listed(rows.columns[name]) for name in ("title", "text"))
        if self.titled:
            texts = list(map(with_title, titles, texts))
        lengths = self.words.add(texts)
        columns = {**rows.columns, "length": pyarrow.array(lengths)}
        self._stream.write_batch(replace(rows, columns=columns).batch(self.schema))
        self.moments += Moments.of(rows.embeddings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()
        self._file.close()

    def described(self) -> ShardLevel:
        """Of files that are closed."""
        self.words.write(self.postings)
        return ShardLevel(
            self.moments.count,
            self.moments.mean.tolist(),
            self.moments.squares.tolist(),
            self.size.features,
            sha256_of(self.path),
            sha256_of(self.postings),
        )


def _listed(column: Sequence[Any] | pyarrow.Array) -> list[Any]:
    return column.to_pylist() if isinstance(column, pyarrow.Array) else list(column)
