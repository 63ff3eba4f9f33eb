"""Raw rows -> encoded rows, in parallel, and the account of what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.prepare.summary import SetAside, SplitSummary, summarise
from textvae.data.sources.corpus import from_row, unique_names
from textvae.data.text.processor import DocumentProcessor

FeatureFunction = Callable[[list[list[int]]], np.ndarray]
"""Encoder tokens of S sentences -> [S, D]."""

ARRAYS = ("encoder_ids", "encoder_lengths", "decoder_ids", "decoder_lengths")
_INTS = datasets.Sequence(datasets.Value("int32"))
_FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("id", "source_id", "title", "label", "extra")}
    | {"sentences": datasets.Sequence(datasets.Value("string")), "structure": datasets.Sequence(_INTS)}
    | dict.fromkeys(ARRAYS, _INTS)
    | {name: datasets.Value("int64") for name in ("num_tokens", "num_words", "num_bytes")}
)
# What the rows carry until it has been counted: a document is counted at its first section.
_OF_DOCUMENT = ("cut", "sentences_split", "empty_units", "unread_fields")
_COUNTS = {name: datasets.Value("int32") for name in (*_OF_DOCUMENT, "num_sentences")}
_ACCOUNT = _COUNTS | {"set_aside": datasets.Value("string")}
COUNTED = (*_COUNTS, "num_tokens", "num_words", "num_bytes")


def encode_rows(
    rows: datasets.Dataset,
    processor: DocumentProcessor,
    max_sentences: int | None,
    num_proc: int,
    cache: Path,
) -> datasets.Dataset:
    """One row for every section of every document, in order; a document without text makes an empty row.

    The Arrow file is written at `cache`. Raises ValueError as `DocumentProcessor.process` does.
    """
    return rows.map(
        _encode_batch,
        batched=True,
        batch_size=32,
        fn_kwargs={"processor": processor, "max_sentences": max_sentences},
        remove_columns=rows.column_names,
        features=datasets.Features(_FEATURES | _ACCOUNT),
        cache_file_name=str(cache),
        new_fingerprint=cache.stem,
        writer_batch_size=256,
        num_proc=num_proc if num_proc > 1 else None,
        desc=f"tokenising {cache.stem}",
    )


def _encode_batch(
    columns: dict[str, list[Any]], processor: DocumentProcessor, max_sentences: int | None
) -> dict[str, list[Any]]:
    rows = [
        row
        for values in zip(*columns.values(), strict=True)
        for row in section_rows(from_row(dict(zip(columns, values, strict=True))), processor, max_sentences)
    ]
    return {name: [row[name] for row in rows] for name in _FEATURES | _ACCOUNT}


def section_rows(
    source: SourceDocument, processor: DocumentProcessor, max_sentences: int | None
) -> list[dict[str, Any]]:
    """A document's sections as rows that also carry its account; one row without a sentence if it is set aside.

    Raises ValueError as `DocumentProcessor.process` does.
    """
    processed = processor.process(source, max_sentences)
    counts = {
        "cut": int(len(processed.sections) > 1),
        "sentences_split": processed.num_sentences_split,
        "empty_units": processed.num_empty_units,
        "unread_fields": len(source.unread),
    }
    reason = None if processed.sections else _reason_against(source)
    rows = []
    for section in processed.sections or (_nothing(source.id),):
        account = {**counts, "num_sentences": len(section.sentences), "set_aside": reason}
        rows.append({name: getattr(section, name) for name in _FEATURES} | account)
        counts = dict.fromkeys(_OF_DOCUMENT, 0)
    return rows


def _reason_against(source: SourceDocument) -> str:
    if source.text is None and source.paragraphs is None and source.units is None:
        return "its text is null" if source.title is None else "it has a title, but its text is null"
    return "it holds no sentence" if source.title is None else "it has a title, but no sentence"


def _nothing(name: str) -> EncodedDocument:
    """Stands for a document without text until it has been counted."""
    return EncodedDocument(name, name, None, None, "{}", [], [], [], [], [], [], 0, 0, 0)


def count_rows(rows: datasets.Dataset, documents_read: int, ids_renamed: int) -> tuple[datasets.Dataset, SplitSummary]:
    """The rows of `encode_rows` that hold text, as they are stored, and the account of the split."""
    columns = {name: rows.data.column(name).to_numpy() for name in COUNTED}
    empty = rows.select(np.flatnonzero(columns["num_sentences"] == 0))
    set_aside = [SetAside(*entry) for entry in zip(empty["id"], empty["set_aside"], strict=True)]
    kept = rows.select(np.flatnonzero(columns["num_sentences"])) if set_aside else rows
    return kept.remove_columns(list(_ACCOUNT)), summarise(columns, set_aside, documents_read, ids_renamed)


def encode_documents(
    sources: Iterable[SourceDocument], processor: DocumentProcessor, max_sentences: int | None
) -> tuple[list[EncodedDocument], SplitSummary]:
    """What `encode_rows` and `count_rows` make of few documents, in memory: their sections, and the account."""
    documents = list(sources)
    names = unique_names([document.id for document in documents])
    renamed = [replace(document, id=name) for document, name in zip(documents, names, strict=True)]
    rows = [row for document in renamed for row in section_rows(document, processor, max_sentences)]
    columns = {name: np.asarray([row[name] for row in rows], dtype=np.int64) for name in COUNTED}
    set_aside = [SetAside(row["id"], row["set_aside"]) for row in rows if row["set_aside"]]
    kept = [EncodedDocument(**{name: row[name] for name in _FEATURES}) for row in rows if not row["set_aside"]]
    num_renamed = sum(document.id != name for document, name in zip(documents, names, strict=True))
    return kept, summarise(columns, set_aside, len(documents), num_renamed)


def add_features(rows: datasets.Dataset, feature_fn: FeatureFunction, cache: Path) -> datasets.Dataset:
    """The rows with a column `features`, float16 [S * D] each; `feature_fn` runs in this process."""
    return rows.map(
        _feature_batch,
        batched=True,
        batch_size=64,
        fn_kwargs={"feature_fn": feature_fn},
        input_columns=["encoder_ids", "encoder_lengths"],
        features=datasets.Features({**rows.features, "features": datasets.Sequence(datasets.Value("float16"))}),
        cache_file_name=str(cache),
        new_fingerprint=cache.stem,
        writer_batch_size=256,
        desc=f"encoding {cache.stem}",
    )


def _feature_batch(
    ids: list[list[int]], lengths: list[list[int]], feature_fn: FeatureFunction
) -> dict[str, list[np.ndarray]]:
    sentences = [
        document[start:end]
        for document, counts in zip(ids, lengths, strict=True)
        for start, end in pairwise(accumulate(counts, initial=0))
    ]
    features = np.asarray(feature_fn(sentences))
    if features.ndim != 2 or len(features) != len(sentences):
        raise ValueError(f"feature_fn gave an array of shape {features.shape} for {len(sentences)} sentences")
    ends = list(accumulate(map(len, lengths), initial=0))
    return {"features": [features[start:end].astype(np.float16).ravel() for start, end in pairwise(ends)]}
