"""`index.json` made of shards: what an index says of itself after one was made, appended to or taken from."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import add
from pathlib import Path

from textvae.damage import sha256_of
from textvae.search.origin import ModelOrigin
from textvae.search.storage import FORMAT, SHARD_FILE, IndexDescription, LevelDescription, ShardDescription
from textvae.search.units import mapped


def describe(
    folder: Path, model: ModelOrigin, dtype: str, language: str, rows: int, shards: Iterable[str]
) -> IndexDescription:
    """An index that consists of `shards` of `folder`, in that order, which are taken as they are: what was not written
    just now is to be verified before. `rows`: documents that were ever embedded into it."""
    described = {name: ShardDescription.read(folder / name) for name in shards}
    parts, levels = list(described.values()), {}
    for name in parts[0].levels:
        total = reduce(add, (part.levels[name].moments for part in parts))
        levels[name] = LevelDescription(total.count, total.mean.tolist(), total.std.tolist())
    return IndexDescription(
        FORMAT,
        model,
        dtype,
        language,
        rows,
        sum(part.documents for part in parts),
        _num_sources(folder, described, next(iter(levels))),
        levels,
        {name: sha256_of(folder / name / SHARD_FILE) for name in described},
    )


def _num_sources(folder: Path, shards: Iterable[str], top: str) -> int:
    """Source documents that the shards hold sections of."""
    found: set[str] = set()
    for shard in shards:
        found.update(mapped(folder / shard, top).column("source_id").unique().to_pylist())
    return len(found)
