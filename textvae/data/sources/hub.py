"""Data sets of the Hugging Face Hub -> `SourceDocument`s; of a few documents, only as much as holds them is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetNotFoundError

from textvae.data.document import SourceDocument
from textvae.data.sources.folder import SPLITS, PassedOver, file_kind
from textvae.data.sources.records import FieldNames, parse_record


def load_hub_splits(source: str, stream: bool) -> tuple[dict[str, Any], tuple[PassedOver, ...]]:
    """The splits of the data set `NAME` or `NAME:CONFIGURATION`, as `datasets` gives them, and what is none of ours.

    A single split of another name is taken as `train`. Raises ValueError naming the source if it looks like a file, if
    the Hub does not give it, or if it has several splits of which none has a name that we know.
    """
    if file_kind(Path(source)) or source.startswith((".", "/")):
        raise ValueError(f"source '{source}': there is no such file or folder")
    name, _, configuration = source.partition(":")
    try:
        found = datasets.load_dataset(name, configuration or None, streaming=stream)
    except (DatasetNotFoundError, OSError) as error:
        raise ValueError(
            f"source '{source}' is neither a built-in corpus, nor a file or folder here, nor a data set that the "
            f"Hugging Face Hub gives ({str(error).strip().splitlines()[0]})"
        ) from None
    if len(found) == 1:
        (split,) = found
        return {split if split in SPLITS else "train": found[split]}, ()
    splits = {split: found[split] for split in SPLITS if split in found}
    if not splits:
        raise ValueError(f"Hub data set '{source}' has the splits {list(found)}, none of {SPLITS}")
    others = tuple(PassedOver(split, f"other than {', '.join(SPLITS)}") for split in found if split not in SPLITS)
    return splits, others


def from_all_shards(rows: datasets.IterableDataset, count: int) -> Iterator[dict[str, Any]]:
    """At most `count` rows, as many from the beginning of every shard: no shard is read further."""
    shards = min(rows.num_shards, count)
    for number in range(shards):
        share = count // shards + (number < count % shards)
        yield from rows.shard(num_shards=shards, index=number).take(share)


def parse_rows(
    rows: Iterable[dict[str, Any]], features: datasets.Features | None, place: str, fields: FieldNames
) -> Iterator[SourceDocument]:
    """The rows of any data set as documents; class labels by their names."""
    label = (features or {}).get(fields.label)
    for number, row in enumerate(rows):
        if isinstance(label, datasets.ClassLabel) and row[fields.label] is not None:
            # -1 stands for a label that is held back
            row[fields.label] = label.int2str(row[fields.label]) if row[fields.label] >= 0 else None
        yield parse_record(row, f"{place}:{number}", f"{place}, row {number}", fields)
