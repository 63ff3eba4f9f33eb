"""Documents taken out of an index: the shards that hold them are written again without them.

Nothing of them stays, neither in a file nor in a statistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute

from textvae.atomic import whole_folder
from textvae.lock import locked
from textvae.search.manifest import describe
from textvae.search.neighbours import remove_neighbours
from textvae.search.resume import Embedding, remove_shards
from textvae.search.shard import LevelSize, ShardWriter
from textvae.search.storage import IndexDescription, ShardDescription, rewritten_name
from textvae.search.units import Directions, UnitRows, embeddings_of, read_level, read_units


def delete_documents(folder: str | Path, ids: Sequence[str]) -> int:
    """Take the documents with these ids, and the sections of the sources with these ids, out of the index `folder`;
    gives how many they were.

    All of them go at once; where this is killed before, all of them stay. Raises ValueError, and takes nothing, for an
    id that is not there, where nothing would be left, where another process writes to the index, and for a damaged one.
    """
    folder = Path(folder)
    IndexDescription.read(folder)  # which refuses what is no index
    with locked(folder):
        return _delete(folder, IndexDescription.read(folder), ids)


def _delete(folder: Path, index: IndexDescription, ids: Sequence[str]) -> int:
    begun = Embedding.read(folder)
    # What an append that was killed has done is no part of the index yet, and is still to be gone on with.
    unfinished = begun.shards if begun is not None and begun.first_row == index.rows else {}
    remove_shards(folder, but={*index.shards, *unfinished})
    gone = _rows_of(folder, index, ids)
    if len(gone) == index.documents:
        raise ValueError(f"that would leave nothing in '{folder}': remove the folder")
    shards = [
        left
        for name in index.shards
        if (left := _without(folder, name, index.shard(folder, name), index.language, gone))
    ]
    remove_neighbours(folder)
    describe(folder, index.model, index.dtype, index.language, index.rows, shards).write(folder)
    remove_shards(folder, but={*shards, *unfinished})
    return len(gone)


def _rows_of(folder: Path, index: IndexDescription, ids: Sequence[str]) -> pyarrow.Array:
    """Numbers of the documents."""
    units = read_level(folder, index, next(iter(index.levels)))
    sought = pyarrow.array(list(dict.fromkeys(ids)), pyarrow.string())
    found = pyarrow.array(np.zeros(len(units), dtype=bool))
    known: set[str] = set()
    for column in (units.column("document"), units.column("source_id")):
        fits = pyarrow.compute.is_in(column, sought).combine_chunks()
        found = pyarrow.compute.or_(found, fits)
        known.update(column.filter(fits).unique().to_pylist())
    for name in sought.to_pylist():
        if name not in known:
            raise ValueError(f"'{folder}' holds no document with the id '{name}': nothing was deleted")
    return pyarrow.compute.unique(units.column("row").filter(found).combine_chunks())


def _without(folder: Path, name: str, shard: ShardDescription, language: str, gone: pyarrow.Array) -> str | None:
    """The name of a shard without the documents `gone`: its own, where it holds none of them, or that of a new one;
    None where nothing is left of it."""
    tables = {level: read_units(folder, name, level, described) for level, described in shard.levels.items()}
    kept = {
        level: ~pyarrow.compute.is_in(table.column("row"), gone).to_numpy(zero_copy_only=False)
        for level, table in tables.items()
    }
    top = next(iter(tables))
    if kept[top].all():
        return name
    if not kept[top].any():
        return None
    sizes = {level: LevelSize(len(described.mean), described.features) for level, described in shard.levels.items()}
    numbers: np.ndarray | None = None
    new = folder / rewritten_name(name)
    with whole_folder(new) as path, ShardWriter(path, sizes, language) as writer:
        for level, table in tables.items():
            first = 0
            for batch in table.to_batches():
                here = kept[level][first : first + len(batch)]
                first += len(batch)
                if here.any():
                    writer.write(level, _rows(pyarrow.table(batch).filter(here), numbers))
            numbers = np.cumsum(kept[level]) - 1
        writer.finish(documents=len(tables[top].column("row").filter(kept[top]).unique()))
    return new.name


def _rows(units: pyarrow.Table, numbers: np.ndarray | None) -> UnitRows:
    """Units of a shard for its successor; `numbers`: there, the row of every unit of the level above that stays."""
    units = units.combine_chunks()
    (embeddings,), (directions,) = embeddings_of(units), Directions(units).parts
    columns = {name: units.column(name).combine_chunks() for name in units.column_names}
    if numbers is not None:
        columns["parent"] = pyarrow.array(numbers[columns["parent"].to_numpy()])
    return UnitRows(embeddings, directions, columns)
