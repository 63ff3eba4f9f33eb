"""The training documents of a source in shards: parts that are read one by one, in any order, as often as one likes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from textvae.data.document import SourceDocument
from textvae.data.sources import python_docs
from textvae.data.sources.files import DamagedRecord, read_records
from textvae.data.sources.folder import PassedOver, find_files
from textvae.data.sources.hub import load_hub_splits, parse_rows
from textvae.data.sources.records import FieldNames

_UNREAD = "not of train"


@dataclass(frozen=True)
class Shard:
    name: str
    num_bytes: int
    """Of the file; 0 where that is not known."""
    read: Callable[[], Iterator[SourceDocument | DamagedRecord]]
    """Its documents, one after the other, the same every time. Raises ValueError as `read_records` does."""


@dataclass(frozen=True)
class ShardedSource:
    shards: tuple[Shard, ...]
    passed_over: tuple[PassedOver, ...] = ()


def open_shards(source: str, fields: FieldNames) -> ShardedSource:
    """The shards of the split `train`: a file each, or those of a Hub data set, which is streamed.

    Raises ValueError naming the source if it cannot be found or has other splits alone.
    """
    if source == python_docs.NAME:
        return ShardedSource((Shard(source, 0, python_docs.python_docs),))
    root = Path(source)
    if root.exists():
        files = find_files(root)
        _check_train(source, files.splits)
        found = [
            Shard(
                (file.relative_to(root) if file != root else Path(file.name)).as_posix(),
                file.stat().st_size,
                partial(read_records, file, root, fields),
            )
            for file in files.splits["train"]
        ]
        return ShardedSource(tuple(found), (*files.passed_over, *_unread(files.splits)))
    splits, passed_over = load_hub_splits(source, stream=True)
    _check_train(source, splits)
    rows = splits["train"]
    names = [f"{source}/train-{number:05}" for number in range(rows.num_shards)]
    of_hub = [Shard(name, 0, partial(_read_rows, rows, number, name, fields)) for number, name in enumerate(names)]
    return ShardedSource(tuple(of_hub), (*passed_over, *_unread(splits)))


def _read_rows(rows: Any, number: int, name: str, fields: FieldNames) -> Iterator[SourceDocument]:
    return parse_rows(rows.shard(num_shards=rows.num_shards, index=number), rows.features, name, fields)


def _check_train(source: str, splits: dict[str, Any]) -> None:
    if "train" not in splits:
        raise ValueError(f"'{source}' has no split 'train' to train on; it has {', '.join(splits)}")


def _unread(splits: dict[str, Any]) -> list[PassedOver]:
    return [PassedOver(split, _UNREAD) for split in splits if split != "train"]
