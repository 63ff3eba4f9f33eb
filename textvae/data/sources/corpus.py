"""Any source -> its documents by split, one after the other; as raw rows; with unique names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from textvae.data.document import SourceDocument
from textvae.data.plan import spread
from textvae.data.sources import python_docs
from textvae.data.sources.files import read_file
from textvae.data.sources.folder import PassedOver, find_files
from textvae.data.sources.hub import from_all_shards, load_hub_splits, parse_rows
from textvae.data.sources.records import FieldNames

_STRINGS = ("id", "title", "label", "text", "place")
_JSON = ("paragraphs", "units", "extra", "unread")
RAW_FIELDS = (*_STRINGS, *_JSON)


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


def to_row(document: SourceDocument) -> dict[str, str | None]:
    """A document as a raw row; what has no fixed shape is stored as JSON."""
    values = {name: getattr(document, name) for name in RAW_FIELDS}
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
            split: read_files([str(path) for path in paths], source, options.fields)
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


def read_files(files: Iterable[str], root: str, fields: FieldNames) -> Iterator[SourceDocument]:
    """The documents of files below `root`, in order. Raises ValueError as `read_file` does."""
    for file in files:
        yield from read_file(Path(file), Path(root), fields)


def _read_hub(options: CorpusOptions) -> Corpus:
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
