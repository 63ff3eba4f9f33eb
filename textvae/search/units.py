"""The units of an index: one Arrow stream for a level of a shard, a row per unit in the order of the data.

Shapes: R rows, U units of a level, Z latent size, F size of the encoder's features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import torch

from textvae.damage import verify
from textvae.search.storage import AGAIN, IndexDescription, ShardLevel


def unit_schema(size: int, feature_size: int) -> pyarrow.Schema:
    """Columns of a level whose latents have `size` dimensions, the encoder's features `feature_size`."""
    return pyarrow.schema(
        {
            "direction": pyarrow.list_(pyarrow.float16(), feature_size),  # of the encoder's features, of length 1
            "row": pyarrow.int64(),  # number of the document among all that were ever embedded
            "document": pyarrow.string(),  # its id
            "source_id": pyarrow.string(),
            "title": pyarrow.string(),
            "label": pyarrow.string(),
            "parent": pyarrow.int64(),  # row of the unit of the next level above, in the same shard; null at the top
            "text": pyarrow.string(),
            "start": pyarrow.int64(),  # of the text in its document's, in characters
            "end": pyarrow.int64(),
            "length": pyarrow.int32(),  # words that BM25 counts, at the top of the title, too
            "normaliser": pyarrow.float32(),  # of its words (`search.words`); null for a model without topics
            "embedding": pyarrow.list_(pyarrow.float32(), size),
        }
    )


@dataclass(frozen=True)
class UnitRows:
    """Units of one level, as they are written."""

    embeddings: np.ndarray
    """[R, Z] in float32."""
    directions: np.ndarray
    """[R, F] in float16."""
    columns: Mapping[str, Sequence[Any] | pyarrow.Array]
    """By name, the columns of `unit_schema` that are no vectors; `length` is counted when they are written."""

    def batch(self, schema: pyarrow.Schema) -> pyarrow.RecordBatch:
        vectors = {"embedding": _vectors(self.embeddings), "direction": _vectors(self.directions)}
        arrays = [vectors[field.name] if field.name in vectors else self._column(field) for field in schema]
        return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)

    def _column(self, field: pyarrow.Field) -> pyarrow.Array:
        values = self.columns[field.name]
        return values if isinstance(values, pyarrow.Array) else pyarrow.array(values, field.type)


def _vectors(values: np.ndarray) -> pyarrow.FixedSizeListArray:
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), values.shape[1])


def units_file(shard: Path, level: str) -> Path:
    return shard / f"{level}.arrow"


def read_level(folder: Path, index: IndexDescription, name: str) -> pyarrow.Table:
    """All units of a level, mapped from the files, not read; `parent` is a row of the level above.

    Raises ValueError for files that are missing or damaged.
    """
    names = list(index.levels)
    above = names[names.index(name) - 1] if name != names[0] else None
    parts, before = [], 0
    for shard in index.shards:
        described = index.shard(folder, shard)
        table = read_units(folder, shard, name, described.levels[name])
        parents = pyarrow.compute.add(table.column("parent"), before)
        parts.append(table.set_column(table.schema.get_field_index("parent"), "parent", parents))
        before += described.levels[above].units if above is not None else 0
    found = pyarrow.concat_tables(parts)
    if len(found) != index.levels[name].units:
        raise ValueError(f"'{folder}' is damaged ({len(found)} {name}s, not {index.levels[name].units}); {AGAIN}")
    return found


def read_units(folder: Path, shard: str, name: str, level: ShardLevel) -> pyarrow.Table:
    """One level of a shard of the index `folder`, mapped; `parent` is a row of the same shard.

    Raises ValueError for a file that is missing or damaged.
    """
    path = units_file(folder / shard, name)
    verify(folder, {path.relative_to(folder).as_posix(): level.sha256}, AGAIN)
    try:
        table = mapped(folder / shard, name)
        if table.schema != unit_schema(len(level.mean), level.features) or len(table) != level.units:
            raise pyarrow.ArrowInvalid(f"{len(table)} rows of {', '.join(table.schema.names)}, not {level.units}")
        for column in ("parent", "embedding", "direction"):
            table.column(column).validate(full=True)
        if any(table.column(column).null_count for column in ("length", "embedding", "direction")):
            raise pyarrow.ArrowInvalid("a vector or a length is null")
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"'{path}' is damaged ({reason}); {AGAIN}") from None
    return table


def mapped(shard: Path, level: str) -> pyarrow.Table:
    """The file of a level, not checked."""
    with pyarrow.memory_map(str(units_file(shard, level))) as file:
        return pyarrow.ipc.open_stream(file).read_all()


def ancestors(levels: Mapping[str, pyarrow.Table]) -> dict[str, np.ndarray]:
    """By level, for every unit of the lowest, the row of the unit that it is in: rising, as units are in reading order.

    `levels`: the units of levels that follow each other, top first, as `read_level` gives them.
    """
    names = list(levels)[::-1]
    found = {names[0]: np.arange(len(levels[names[0]]))}
    for below, above in pairwise(names):
        found[above] = levels[below].column("parent").to_numpy()[found[below]]
    return found


def embeddings_of(units: pyarrow.Table) -> Iterator[np.ndarray]:
    """[R, Z] in float32, a view of the file, one part of the units after the other."""
    return _rows_of(units, "embedding")


class Directions:
    """[U, F] in float16, those of the encoder's features of all units of a level, which stay in their files."""

    def __init__(self, units: pyarrow.Table) -> None:
        self.parts = list(_rows_of(units, "direction"))
        self._first = np.cumsum([0, *map(len, self.parts)])
        self.size = units.schema.field("direction").type.list_size

    def __len__(self) -> int:
        return int(self._first[-1])

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """[R, F] in float32, at most `size` rows at a time."""
        for part in self.parts:
            for at in range(0, len(part), size):
                # By PyTorch, which is faster; copied, for it asks for memory that may be written to.
                yield torch.from_numpy(part[at : at + size].copy()).float().numpy()

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """[n, F] in float32 of the rows [n]."""
        found = np.empty((len(rows), self.size), dtype=np.float32)
        part_of = np.searchsorted(self._first, rows, side="right") - 1
        for number in np.unique(part_of):
            here = part_of == number
            found[here] = self.parts[number][rows[here] - self._first[number]]
        return found


def _rows_of(units: pyarrow.Table, column: str) -> Iterator[np.ndarray]:
    for chunk in units.column(column).chunks:
        yield chunk.flatten().to_numpy().reshape(len(chunk), -1)
