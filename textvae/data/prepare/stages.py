"""Raw rows -> encoded rows -> rows with features, a part at a time, and the account of what became of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import datasets
import numpy as np
import pyarrow

from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.prepare.parts import hash_of
from textvae.data.prepare.summary import Account
from textvae.data.sources.corpus import unique_names
from textvae.data.text.processor import DocumentProcessor

FeatureFunction = Callable[[list[list[int]]], np.ndarray]
"""Encoder tokens of S sentences -> [S, D]."""

ARRAYS = ("encoder_ids", "encoder_lengths", "decoder_ids", "decoder_lengths")
_INTS = datasets.Sequence(datasets.Value("int32"))
FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("id", "source_id", "title", "label", "extra")}
    | {"sentences": datasets.Sequence(datasets.Value("string")), "structure": datasets.Sequence(_INTS)}
    | dict.fromkeys(ARRAYS, _INTS)
    | {name: datasets.Value("int64") for name in ("num_tokens", "num_words", "num_bytes")}
)
"""The columns of prepared data."""
WITH_STATES = datasets.Features({**FEATURES, "features": datasets.Sequence(datasets.Value("float16"))})
"""The same where the encoder's states are cached."""
# What the rows carry until it has been counted: a document is counted at its first section.
_OF_DOCUMENT = ("cut", "sentences_split", "empty_units", "unread_fields")
COUNTED = (*_OF_DOCUMENT, "num_sentences", "num_tokens", "num_words", "num_bytes")
_FEATURE_ROWS = 64
"""Whose sentences are encoded at a time."""


def section_rows(
    source: SourceDocument,
    processor: DocumentProcessor,
    max_sentences: int | None,
    held_out: Collection[int] = (),
) -> list[dict[str, Any]]:
    """A document's sections as rows that also carry its account; one row without a sentence if it is set aside.

    held_out: `text_hash` of sections; a document that holds nothing else is set aside.

    Raises ValueError as `DocumentProcessor.process` does.
    """
    processed = processor.process(source, max_sentences)
    sections = processed.sections
    reason = None if sections else _reason_against(source)
    if sections and held_out and all(text_hash(section.sentences) in held_out for section in sections):
        sections, reason = (), "its text is held out, in validation or test"
    counts = {
        "cut": int(len(sections) > 1),
        "sentences_split": processed.num_sentences_split,
        "empty_units": processed.num_empty_units,
        "unread_fields": len(source.unread),
    }
    rows = []
    for section in sections or (_nothing(source.id),):
        account = {**counts, "num_sentences": len(section.sentences), "set_aside": reason}
        rows.append({name: getattr(section, name) for name in FEATURES} | account)
        counts = dict.fromkeys(_OF_DOCUMENT, 0)
    return rows


def text_hash(sentences: Iterable[str]) -> int:
    """What stands for the text of a section."""
    return hash_of("".join(sentences))


def _reason_against(source: SourceDocument) -> str:
    if source.text is None and source.paragraphs is None and source.units is None:
        return "its text is null" if source.title is None else "it has a title, but its text is null"
    return "it holds no sentence" if source.title is None else "it has a title, but no sentence"


def _nothing(name: str) -> EncodedDocument:
    """Stands for a document without text until it has been counted."""
    return EncodedDocument(name, name, None, None, "{}", [], [], [], [], [], [], 0, 0, 0)


def encode_documents(
    sources: Iterable[SourceDocument],
    processor: DocumentProcessor,
    max_sentences: int | None,
    held_out: Collection[int] = (),
) -> tuple[list[EncodedDocument], Account]:
    """What `prepare` makes of few documents, in memory: their sections, and the account."""
    documents = list(sources)
    names = unique_names([document.id for document in documents])
    renamed = [replace(document, id=name) for document, name in zip(documents, names, strict=True)]
    rows = [row for document in renamed for row in section_rows(document, processor, max_sentences, held_out)]
    kept = [EncodedDocument(**{name: row[name] for name in FEATURES}) for row in rows if not row["set_aside"]]
    num_renamed = sum(document.id != name for document, name in zip(documents, names, strict=True))
    return kept, Account.of(rows, COUNTED, len(documents), num_renamed)


def kept_rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those of `section_rows` that hold text, as they are stored."""
    return [{name: row[name] for name in FEATURES} for row in rows if not row["set_aside"]]


def count_batch(counts: np.ndarray, batch: pyarrow.RecordBatch, end_id: int) -> None:
    """Add to `counts`, [decoder tokens], how often every one is to be predicted in encoded rows, ends included."""
    words = batch.column("decoder_ids").flatten().to_numpy()
    counts += np.bincount(words, minlength=len(counts))
    counts[end_id] += int(np.sum(batch.column("num_tokens").to_numpy())) - len(words)


def with_features(batch: pyarrow.RecordBatch, feature_fn: FeatureFunction) -> Iterator[pyarrow.RecordBatch]:
    """Encoded rows with a column `features`, float16 [S * D] each. Raises ValueError for what `feature_fn` must not
    give."""
    for start in range(0, len(batch), _FEATURE_ROWS):
        rows = batch.slice(start, _FEATURE_ROWS)
        lengths = rows.column("encoder_lengths").to_pylist()
        features = _features(rows.column("encoder_ids").to_pylist(), lengths, feature_fn)
        ends = np.cumsum([0, *map(len, lengths)]) * features.shape[1]
        values = pyarrow.array(features.ravel())
        column = pyarrow.ListArray.from_arrays(pyarrow.array(ends.astype(np.int32)), values)
        yield pyarrow.RecordBatch.from_arrays([*rows.columns, column], schema=WITH_STATES.arrow_schema)


def _features(ids: list[list[int]], lengths: list[list[int]], feature_fn: FeatureFunction) -> np.ndarray:
    sentences = [
        document[start:end]
        for document, counts in zip(ids, lengths, strict=True)
        for start, end in pairwise(accumulate(counts, initial=0))
    ]
    features = np.asarray(feature_fn(sentences))
    if features.ndim != 2 or len(features) != len(sentences):
        raise ValueError(f"feature_fn gave an array of shape {features.shape} for {len(sentences)} sentences")
    return features.astype(np.float16)
