"""Any source -> raw Arrow data sets by split: read in parallel, unique ids, missing splits carved."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError

from textvae.data.document import SourceDocument
from textvae.data.plan import spread
from textvae.data.sources import python_docs
from textvae.data.sources.files import read_file
from textvae.data.sources.folder import SPLITS, PassedOver, file_kind, find_files
from textvae.data.sources.hub import from_all_shards, load_hub_splits, parse_rows
from textvae.data.sources.records import FieldNames

_STRINGS = ("id", "title", "label", "text", "place")
_JSON = ("paragraphs", "units", "extra", "unread")
RAW_FEATURES = datasets.Features({name: datasets.Value("string") for name in (*_STRINGS, *_JSON)})


@dataclass(frozen=True)
class CorpusOptions:
    """What to read, and how."""

    source: str
    """A file, a folder, `python-docs`, or a Hub data set, `NAME` or `NAME:CONFIGURATION`."""
    fields: FieldNames = field(default_factory=FieldNames)
    limit: int | None = None
    """Read at most this many documents of each split."""
    spread: bool = False
    """With a limit: documents from all over a split, not those at its beginning."""
    num_proc: int = 1


@dataclass(frozen=True)
class Corpus:
    """What a source holds."""

    splits: Mapping[str, Iterable[SourceDocument]]
    passed_over: tuple[PassedOver, ...] = ()


@dataclass(frozen=True)
class SourceOptions:
    """How an evaluation reads a source that is not prepared; hierarchy and longest sentence are its model's."""

    fields: FieldNames = field(default_factory=FieldNames)
    language: str | None = None
    """None: the model's."""
    max_document_sentences: int | None = None
    """Longer documents are cut into sections `ID#1`, `ID#2`, ...; None leaves them whole."""

    def __post_init__(self) -> None:
        if self.max_document_sentences is not None and self.max_document_sentences < 1:
            raise ValueError(f"max_document_sentences is {self.max_document_sentences}; it must be 1 or more")


@dataclass(frozen=True)
class CarveOptions:
    """Shares of `train` that become the splits which the source lacks."""

    validation_fraction: float
    test_fraction: float
    seed: int


def to_row(document: SourceDocument) -> dict[str, str | None]:
    """A document as a raw row; what has no fixed shape is stored as JSON."""
    values = {name: getattr(document, name) for name in RAW_FEATURES}
    # Escaped, so that what `str` makes of a foreign value can be stored whatever it holds.
    return values | {n: None if values[n] is None else json.dumps(values[n], default=str) for n in _JSON}


def from_row(row: dict[str, Any]) -> SourceDocument:
    """The document that `to_row` stored."""
    values = row | {name: None if row[name] is None else json.loads(row[name]) for name in _JSON}
    return SourceDocument(**values | {"unread": tuple(values["unread"])})


def read_corpus(options: CorpusOptions) -> Corpus:
    """The documents of every split of the source, one after the other, in this process.

    Raises ValueError naming the source (and file and line, when iterated) for what cannot be found or read.
    """
    source = options.source
    if source == python_docs.NAME:
        corpus = Corpus({"train": python_docs.python_docs(options.num_proc)})
    elif Path(source).exists():
        files = find_files(source)
        splits = {
            split: _read_files([str(path) for path in paths], source, options.fields)
            for split, paths in files.splits.items()
        }
        corpus = Corpus(splits, files.passed_over)
    else:
        return _read_hub(options)
    if options.limit is None:
        return corpus
    take = evenly if options.spread else islice
    return replace(corpus, splits={name: take(split, options.limit) for name, split in corpus.splits.items()})


def evenly(documents: Iterable[SourceDocument], count: int) -> Iterator[SourceDocument]:
    """At most `count` of the documents, spread over all of them; twice as many are held while they are read."""
    kept: list[SourceDocument] = []
    step = 1
    for number, document in enumerate(documents):
        if number % step == 0:
            kept.append(document)
        if len(kept) > 2 * count:
            kept, step = kept[::2], 2 * step
    yield from (kept[number] for number in spread(count, len(kept)))


def _read_files(files: list[str], root: str, fields: FieldNames) -> Iterator[SourceDocument]:
    for file in files:
        yield from read_file(Path(file), Path(root), fields)


def _read_hub(options: CorpusOptions) -> Corpus:
    if file_kind(Path(options.source)) or options.source.startswith((".", "/")):
        raise ValueError(f"source '{options.source}': there is no such file or folder")
    limit = options.limit
    found, passed_over = load_hub_splits(options.source, stream=limit is not None)
    splits = {}
    for split, rows in found.items():
        chosen = rows
        if limit is not None:
            chosen = from_all_shards(rows, limit) if options.spread else rows.take(limit)
        place = f"{options.source.partition(':')[0]}/{split}"
        splits[split] = parse_rows(chosen, rows.features, place, options.fields)
    return Corpus(splits, passed_over)


def store_corpus(options: CorpusOptions, cache: Path) -> tuple[dict[str, datasets.Dataset], tuple[PassedOver, ...]]:
    """The corpus as raw Arrow data sets by split, written below `cache`, and what was passed over.

    Raises ValueError as `read_corpus` does, and if a split is without any document.
    """
    source = options.source
    if source != python_docs.NAME and Path(source).exists() and options.limit is None:
        found = find_files(source)
        stored = {
            split: _store(
                _rows_of_files,
                {"files": [str(path) for path in paths], "root": source, "fields": options.fields},
                cache / split,
                min(options.num_proc, len(paths)),
            )
            for split, paths in found.splits.items()
        }
        return stored, found.passed_over
    corpus = read_corpus(options)
    stored = {
        split: _store(_rows_of_split, {"options": options, "split": split}, cache / split) for split in corpus.splits
    }
    return stored, corpus.passed_over


def _rows_of_files(files: list[str], root: str, fields: FieldNames) -> Iterator[dict[str, str | None]]:
    return (to_row(document) for document in _read_files(files, root, fields))


def _rows_of_split(options: CorpusOptions, split: str) -> Iterator[dict[str, str | None]]:
    return (to_row(document) for document in read_corpus(options).splits[split])


def _store(
    generate: Callable[..., Iterator[dict[str, str | None]]],
    arguments: dict[str, Any],
    cache: Path,
    num_proc: int = 1,
) -> datasets.Dataset:
    """Several processes share the files among themselves; the rows keep the order of the files."""
    if next(generate(**arguments), None) is None:
        raise ValueError(f"there is no document to read in {arguments}")
    try:
        return datasets.Dataset.from_generator(
            generate,
            features=RAW_FEATURES,
            gen_kwargs=arguments,
            cache_dir=str(cache),
            num_proc=num_proc if num_proc > 1 else None,
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError | OSError):
            raise error.__cause__ from None
        raise


def with_unique_ids(rows: datasets.Dataset) -> tuple[datasets.Dataset, int]:
    """The rows with `unique_names` for ids, and how many ids were changed so."""
    ids = rows.data.column("id").to_pylist()
    unique = unique_names(ids)
    renamed = sum(old != new for old, new in zip(ids, unique, strict=True))
    return (rows.remove_columns("id").add_column("id", unique) if renamed else rows), renamed


def unique_names(names: list[str]) -> list[str]:
    """The names, with "~2", "~3", ... after one that came before."""
    taken = set(names)
    if len(taken) == len(names):
        return names
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        new = name
        while seen[name] > 1 and (new := f"{name}~{seen[name]}") in taken:
            seen[name] += 1
        taken.add(new)
        unique.append(new)
    return unique


def carve_splits(splits: dict[str, datasets.Dataset], options: CarveOptions) -> dict[str, datasets.Dataset]:
    """All three splits: a missing one is taken from `train`, by a hash of the ids, so that it stays the same
    documents when others come or go. At least one document goes to every split whose share is not 0.

    Raises ValueError if there is no `train` to take from, or too little of it.
    """
    shares = {"validation": options.validation_fraction, "test": options.test_fraction}
    missing = {split: share for split, share in shares.items() if split not in splits and share > 0}
    if "train" not in splits:
        raise ValueError(f"the source has the splits {list(splits)}, but no 'train'")
    if not missing:
        return splits
    ids = splits["train"].data.column("id").to_pylist()
    places = [_place(name, options.seed) for name in ids]
    order = sorted(range(len(ids)), key=places.__getitem__)
    carved: dict[str, list[int]] = {}
    threshold = 0.0
    for split, share in missing.items():
        threshold += share
        count = max(1, sum(places[index] < threshold for index in order))
        carved[split], order = sorted(order[:count]), order[count:]
    if not order:
        raise ValueError(
            f"{len(ids)} documents are too few to take {' and '.join(missing)} from; set validation_fraction "
            "and test_fraction to 0, or give these splits as files of their own"
        )
    parts = {"train": sorted(order), **carved}
    taken = splits | {split: splits["train"].select(indices) for split, indices in parts.items()}
    return {split: taken[split] for split in SPLITS if split in taken}


def _place(name: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the id and the seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") / 2**64
