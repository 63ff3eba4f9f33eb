"""Prepared data sets read back, and documents for evaluation from those or any source that `prepare` takes."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from textvae.atomic import PARTIAL
from textvae.damage import read_json_object, reading, verify
from textvae.data.column import StoredColumn
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.fingerprint import DataFingerprint, EncoderFingerprint, data_fingerprint
from textvae.data.plan import spread
from textvae.data.prepare.source import encode_into
from textvae.data.prepare.stages import ARRAYS, count_batch
from textvae.data.prepare.summary import SplitSummary
from textvae.data.sources.corpus import Corpus, CorpusOptions, SourceOptions, read_corpus
from textvae.data.sources.folder import PassedOver, listed
from textvae.data.sources.records import FieldNames
from textvae.data.text.processor import DocumentProcessor

METADATA_FILE = "textvae_data.json"
WORD_COUNTS_FILE = "word_counts.npy"


@dataclass(frozen=True)
class PreparedSplit:
    """One split of a prepared data set."""

    dataset: datasets.Dataset
    """A row per document, in the fields of `EncodedDocument`; number sequences come as NumPy arrays."""
    processor: DocumentProcessor
    metadata: dict[str, Any]
    """What `textvae_data.json` says."""
    stored_word_counts: np.ndarray | None = None
    """Those that `prepare` counted, of the training split."""

    def __len__(self) -> int:
        return len(self.dataset)

    @cached_property
    def token_counts(self) -> np.ndarray:
        """[documents] predicted tokens of each."""
        return self.dataset.data.column("num_tokens").to_numpy()

    @property
    def word_counts(self) -> np.ndarray:
        """[decoder tokens] how often every one is to be predicted, sentence ends included."""
        if self.stored_word_counts is not None:
            return self.stored_word_counts
        return count_words(self.dataset, self.processor.decoder_tokenizer)

    @cached_property
    def fingerprint(self) -> DataFingerprint:
        """What tells this split from others, for a checkpoint that must go on with the same data."""
        return data_fingerprint(self.column("id"), self.token_counts)

    @property
    def has_features(self) -> bool:
        """Whether the frozen encoder's sentence features are cached."""
        return "features" in self.dataset.column_names

    @property
    def feature_encoder(self) -> EncoderFingerprint | None:
        """Whose the cached features are; None if that is not known."""
        values = self.metadata.get("features")
        return None if values is None else EncoderFingerprint(**values | {"layers": tuple(values["layers"])})

    def without_features(self) -> PreparedSplit:
        return replace(self, dataset=self.dataset.remove_columns("features"))

    @property
    def read(self) -> Callable[[int], EncodedDocument]:
        """Row -> document; pickled, it is the names of files."""
        return partial(_read_row, self.dataset)

    @property
    def source_options(self) -> SourceOptions:
        """How `prepare` read the source; the defaults where that was not recorded."""
        options = self.metadata.get("options", {})
        fields = FieldNames(**options.get("fields", {}))
        return SourceOptions(fields, self.processor.language, options.get("max_document_sentences"))

    @property
    def documents(self) -> Documents:
        """The rows as documents to evaluate."""
        return Documents(self.read, self.token_counts, self.column("id"), self.column("source_id"))

    def column(self, name: str) -> StoredColumn:
        """Of strings."""
        return StoredColumn(self.dataset.data.column(name))


def _read_row(dataset: datasets.Dataset, row: int) -> EncodedDocument:
    return EncodedDocument(**dataset[row])


def load_prepared(folder: str | os.PathLike[str], split: str) -> PreparedSplit:
    """One split of what `prepare` wrote. Raises ValueError if the folder is incomplete or lacks the split, and for a
    file that is not as it was written."""
    folder = Path(folder)
    remedy = f"prepare it again: textvae prepare SOURCE --out {folder}"
    if not (folder / METADATA_FILE).is_file():
        raise ValueError(f"'{folder}' is no complete prepared data set, it has no {METADATA_FILE}; {remedy}")
    described = read_json_object(folder / METADATA_FILE, remedy)
    with reading(folder / METADATA_FILE, remedy):
        splits = {name: int(counts["sections"]) for name, counts in described["splits"].items()}
        others = splits.keys() - {split}
        # Data that were prepared by an earlier version have none.
        known = described.get("files", {}).items()
        files = {name: sha256 for name, sha256 in known if Path(name).parts[0] not in others}
    if split not in splits:
        raise ValueError(f"'{folder}' has no split '{split}'; it has {', '.join(splits)}")
    verify(folder, files, remedy)
    with reading(folder / split, remedy):
        rows = datasets.load_from_disk(str(folder / split))
    if len(rows) != splits[split]:
        raise ValueError(f"split '{split}' of '{folder}' has {len(rows)} rows, not {splits[split]}; {remedy}")
    counts = folder / WORD_COUNTS_FILE
    stored = np.load(counts, allow_pickle=False) if split == "train" and counts.is_file() else None
    return PreparedSplit(_with_arrays(rows), DocumentProcessor.from_pretrained(folder), described, stored)


def _with_arrays(rows: datasets.Dataset) -> datasets.Dataset:
    """Number sequences as NumPy arrays."""
    arrays = [name for name in (*ARRAYS, "features") if name in rows.column_names]
    return rows.with_format("numpy", columns=arrays, output_all_columns=True)


def count_words(rows: datasets.Dataset, decoder: PreTrainedTokenizerBase) -> np.ndarray:
    """[decoder tokens] how often every one is to be predicted in `rows`, sentence ends included."""
    counts = np.zeros(len(decoder), dtype=np.int64)
    for table in rows.with_format("arrow").iter(batch_size=1024):
        for batch in table.to_batches():
            count_batch(counts, batch, decoder.eos_token_id)
    return counts


@dataclass(frozen=True)
class Documents:
    """Documents of one data set, read by row."""

    read: Callable[[int], EncodedDocument]
    """Row -> document."""
    token_counts: np.ndarray
    """[documents] predicted tokens of each."""
    ids: Sequence[str]
    source_ids: Sequence[str]
    """Of the source document that each is a section of: what belongs to one source is not independent."""
    account: SplitSummary | None = None
    """What became of the source, where it was read now."""
    passed_over: tuple[PassedOver, ...] = ()
    """Files and splits of the source that were not read."""
    remark: str = ""
    """What else is worth knowing, in a line."""

    @classmethod
    def of(cls, members: Sequence[EncodedDocument]) -> Documents:
        return cls(
            members.__getitem__,
            np.asarray([member.num_tokens for member in members], dtype=np.int64),
            [member.id for member in members],
            [member.source_id for member in members],
        )

    def __len__(self) -> int:
        return len(self.token_counts)

    @property
    def num_sources(self) -> int:
        known = self.source_ids
        return known.num_distinct if isinstance(known, StoredColumn) else len(set(known))

    def __str__(self) -> str:
        """How many there are, and what was not taken: a line or a few."""
        sections = f"{len(self):,} documents"
        if self.num_sources != len(self):
            sections = f"{len(self):,} sections of {self.num_sources:,} documents"
        read = [] if self.account is None else [f"  read: {self.account.listed()}"]
        passed_over = [f"  {listed(self.passed_over)}"] if self.passed_over else []
        return "\n".join([sections, *read, *passed_over, *([f"  {self.remark}"] if self.remark else [])])

    def select(self, rows: Sequence[int] | np.ndarray) -> Documents:
        """The documents in `rows`, in that order."""
        chosen, read = [int(row) for row in rows], self.read
        return Documents(
            lambda row: read(chosen[row]),
            self.token_counts[chosen],
            [self.ids[row] for row in chosen],
            [self.source_ids[row] for row in chosen],
            self.account,
            self.passed_over,
            self.remark,
        )


def open_documents(
    data: str,
    processor: DocumentProcessor,
    split: str = "validation",
    limit: int | None = None,
    options: SourceOptions | None = None,
    encoder: Callable[[], EncoderFingerprint | None] | None = None,
    scratch: str | os.PathLike[str] | None = None,
) -> Documents:
    """At most `limit` documents spread evenly over `data`, tokenised as `processor` does.

    A source that is not prepared is segmented and tokenised now, as `options` say; one without splits is taken
    whole, and what had to be set aside is in the `account`. It lies in a file below `scratch` (default: where the
    system keeps temporary files) while it is used, for memory may not hold it. Cached features are used only if they
    are of the model's `encoder`. Raises ValueError for data that cannot be read, that were prepared for another model,
    or that hold no document.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be 1 or more")
    if (Path(data) / METADATA_FILE).is_file():
        prepared = load_prepared(data, split)
        _check_same(prepared.processor, processor, data)
        found = _without_foreign_features(prepared, encoder)
        if limit is not None:
            found = found.select(spread(limit, len(found)))
    else:
        found = _read_source(data, processor, split, limit, options or SourceOptions(), scratch)
    if not len(found):
        account = f":\n  {found.account.listed()}" if found.account else ""
        raise ValueError(f"'{data}' holds no document with text in split '{split}'{account}")
    return found


def ids_in(data: str, split: str, fields: FieldNames) -> set[str]:
    """Of all documents of a source, as `open_documents` reads it, those without text too; of prepared data, of all that
    `prepare` kept or names as set aside. Raises ValueError as `open_documents` does."""
    if (Path(data) / METADATA_FILE).is_file():
        prepared = load_prepared(data, split)
        set_aside = prepared.metadata["splits"][split].get("set_aside", ())
        return {*prepared.column("source_id"), *(entry["id"] for entry in set_aside)}
    return {document.id for document in _of_split(read_corpus(CorpusOptions(data, fields)), split, data)}


def _without_foreign_features(
    prepared: PreparedSplit, encoder: Callable[[], EncoderFingerprint | None] | None
) -> Documents:
    if not prepared.has_features:
        return prepared.documents
    cached, own = prepared.feature_encoder, encoder() if encoder is not None else None
    if cached is not None and own is not None and cached.computes_as(own):
        return prepared.documents
    model = "trained, or unknown" if own is None else str(own)
    remark = f"cached features of {cached or 'an unknown encoder'} are left: the model's encoder is {model}"
    return replace(prepared.without_features().documents, remark=remark)


def _read_source(
    data: str,
    processor: DocumentProcessor,
    split: str,
    limit: int | None,
    options: SourceOptions,
    scratch: str | os.PathLike[str] | None,
) -> Documents:
    corpus = read_corpus(CorpusOptions(data, options.fields, limit, spread=True))
    sources = _of_split(corpus, split, data)
    if options.language is not None:
        processor = processor.with_language(options.language)
    folder = Path(tempfile.mkdtemp(prefix=".textvae-", suffix=PARTIAL, dir=scratch))
    try:
        rows, account = encode_into(folder, sources, processor, options.max_document_sentences)
        read = partial(_read_row, _with_arrays(rows))
        # Mapped until then.
        weakref.finalize(read, shutil.rmtree, folder, ignore_errors=True)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    columns = {name: StoredColumn(rows.data.column(name)) for name in ("id", "source_id")}
    found = Documents(
        read,
        rows.data.column("num_tokens").to_numpy(),
        columns["id"],
        columns["source_id"],
        account.summary(),
        corpus.passed_over,
    )
    return found if limit is None else found.select(spread(limit, len(found)))


def _of_split(corpus: Corpus, split: str, data: str) -> Iterable[SourceDocument]:
    splits = corpus.splits
    if split not in splits and len(splits) > 1:
        raise ValueError(f"'{data}' has no split '{split}'; it has {', '.join(splits)}")
    return splits[split] if split in splits else next(iter(splits.values()))


def _check_same(prepared: DocumentProcessor, model: DocumentProcessor, data: str) -> None:
    """Token ids of prepared data only mean something to the model that they were prepared for."""
    for what, ours, theirs in (
        ("hierarchy", model.hierarchy, prepared.hierarchy),
        ("decoder tokenizer", model.decoder_tokenizer.get_vocab(), prepared.decoder_tokenizer.get_vocab()),
        ("encoder tokenizer", model.encoder_tokenizer.get_vocab(), prepared.encoder_tokenizer.get_vocab()),
    ):
        if ours != theirs:
            raise ValueError(
                f"'{data}' was prepared with another {what} than the model's; give the source itself, or prepare "
                "it with --decoder RUN"
            )
