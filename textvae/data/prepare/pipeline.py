"""A source -> a prepared data set: a folder of Arrow shards, the processor, an account of what was done."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import datasets
import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textvae.config import check_level_name
from textvae.damage import checksums
from textvae.data.dataset import METADATA_FILE, WORD_COUNTS_FILE, count_words
from textvae.data.fingerprint import EncoderFingerprint
from textvae.data.prepare.stages import FeatureFunction, add_features, count_rows, encode_rows
from textvae.data.prepare.summary import PreparationSummary
from textvae.data.sources.corpus import (
    CarveOptions,
    CorpusOptions,
    carve_splits,
    from_row,
    store_corpus,
    with_unique_ids,
)
from textvae.data.sources.records import FieldNames
from textvae.data.text.processor import DECODER_FOLDER, DocumentProcessor
from textvae.data.text.tokenizer import load_decoder_tokenizer, train_sentencepiece
from textvae.data.text.tree import TreeBuilder, paragraphs_of
from textvae.pretrained import resolve_backbone

_TOKENIZER_BYTES = 30_000_000


@dataclass(frozen=True)
class PrepareOptions:
    source: str
    """A file, a folder, `python-docs`, or a Hub data set, `NAME` or `NAME:CONFIGURATION`."""
    out: str
    """Folder to write; it must not exist yet."""
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    decoder: str | None = None
    """Name or folder of a tokenizer (a run or a prepared data set lends its own); None trains a SentencePiece
    vocabulary on the training split."""
    vocabulary_size: int = 8192
    """Of the vocabulary that is trained."""
    hierarchy: tuple[str, ...] = ("document", "paragraph", "sentence")
    max_sentence_tokens: int = 128
    max_document_sentences: int | None = None
    """Longer documents are cut into sections `ID#1`, `ID#2`, ...; None leaves them whole."""
    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    """Shares of `train` that become the splits which the source lacks."""
    seed: int = 0
    limit: int | None = None
    """Read at most this many documents of each split, the first."""
    num_proc: int = 1
    language: str = "en"
    fields: FieldNames = field(default_factory=FieldNames)
    cache_features: bool = False

    def __post_init__(self) -> None:
        for name in self.hierarchy:
            check_level_name(name)
        for name in ("max_document_sentences", "limit", "num_proc", "vocabulary_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        if min(self.validation_fraction, self.test_fraction) < 0 or self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction {self.validation_fraction} and test_fraction {self.test_fraction} must "
                "not be negative, and must leave something of train"
            )


def prepare(
    options: PrepareOptions, feature_fn: FeatureFunction | None = None, encoder: EncoderFingerprint | None = None
) -> PreparationSummary:
    """Write the prepared data set `options.out`, print and return what was counted.

    With `cache_features`, `feature_fn` reads the sentences; only models with the very same `encoder` will use what it
    gives. The same source and options give the same rows,
    whatever `num_proc`. The folder appears under its name when it is complete. Raises ValueError for a source
    that cannot be read or has no usable document, and if `out` exists; OSError if a backbone cannot be found.
    """
    started = time.monotonic()
    out = Path(options.out)
    if out.exists():
        raise ValueError(f"'{out}' exists already: remove it, or choose another folder (--out)")
    if options.cache_features != (feature_fn is not None):
        raise ValueError("cache_features and feature_fn go together: give both or neither")
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        summary = _prepare(options, feature_fn, partial / "work", partial / "done", started)
        _write_metadata(partial / "done", options, summary, encoder)
        os.replace(partial / "done", out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"prepared {out} in {summary.seconds:.0f} s\n{summary}")
    return summary


def _prepare(
    options: PrepareOptions, feature_fn: FeatureFunction | None, work: Path, done: Path, started: float
) -> PreparationSummary:
    encoder = AutoTokenizer.from_pretrained(resolve_backbone(options.encoder, weights=False))
    corpus = CorpusOptions(options.source, options.fields, options.limit, num_proc=options.num_proc)
    stored, passed_over = store_corpus(corpus, work)
    unique = {split: with_unique_ids(rows) for split, rows in stored.items()}
    carve = CarveOptions(options.validation_fraction, options.test_fraction, options.seed)
    raw = carve_splits({split: rows for split, (rows, _) in unique.items()}, carve)
    decoder = _decoder_tokenizer(options, raw["train"])
    processor = DocumentProcessor(options.hierarchy, encoder, decoder, options.max_sentence_tokens, options.language)
    prepared, summaries = datasets.DatasetDict(), {}
    for split, rows in raw.items():
        renamed = unique[split][1] if split in unique else 0
        encoded = encode_rows(
            rows, processor, options.max_document_sentences, options.num_proc, work / f"{split}.arrow"
        )
        prepared[split], summaries[split] = count_rows(encoded, len(rows), renamed)
        if len(prepared[split]) == 0:
            raise ValueError(f"no document of split '{split}' has any text:\n{summaries[split].listed()}")
        if feature_fn is not None:
            prepared[split] = add_features(prepared[split], feature_fn, work / f"{split}-features.arrow")
    prepared.save_to_disk(done, max_shard_size="500MB")
    np.save(done / WORD_COUNTS_FILE, count_words(prepared["train"], processor.decoder_tokenizer))
    processor.save_pretrained(done)
    summary = PreparationSummary(summaries, passed_over, time.monotonic() - started)
    return summary


def _decoder_tokenizer(options: PrepareOptions, train: datasets.Dataset) -> PreTrainedTokenizerBase:
    if options.decoder is None:
        return train_sentencepiece(_sample_paragraphs(train, options), options.vocabulary_size)
    lender = Path(options.decoder) / DECODER_FOLDER
    if lender.is_dir():
        return AutoTokenizer.from_pretrained(lender)
    return load_decoder_tokenizer(resolve_backbone(options.decoder, weights=False))


def _sample_paragraphs(rows: datasets.Dataset, options: PrepareOptions) -> Iterator[str]:
    """Normalised text of evenly spread documents, as much as training a vocabulary needs."""
    build_tree = TreeBuilder(options.hierarchy, options.language)
    # `nbytes` is that of the whole table, also where `rows` is a selection from it
    step = math.ceil(rows.data.nbytes / _TOKENIZER_BYTES)
    for index in range(0, len(rows), step):
        yield from paragraphs_of(from_row(rows[index]), build_tree)


def _write_metadata(
    folder: Path, options: PrepareOptions, summary: PreparationSummary, encoder: EncoderFingerprint | None
) -> None:
    packages = ("textvae", "datasets", "transformers", "tokenizers", "sentencepiece", "sentencex")
    content = {
        "hierarchy": options.hierarchy,
        "options": asdict(options),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in packages},
        "seconds": round(summary.seconds, 1),
        "features": None if encoder is None else asdict(encoder),
        "passed_over": [asdict(entry) for entry in summary.passed_over],
        "splits": {split: asdict(counts) for split, counts in summary.splits.items()},
        "files": checksums(folder, (path for path in folder.rglob("*") if path.is_file())),
    }
    (folder / METADATA_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
