"""Documents for evaluation and embedding, from a prepared data set or any source that `prepare` takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textvae.data.corpus import CorpusOptions, read_corpus
from textvae.data.document import EncodedDocument
from textvae.data.preparation import METADATA_FILE, load_prepared
from textvae.data.processing import DocumentProcessor


@dataclass(frozen=True)
class Documents:
    read: Callable[[int], EncodedDocument]
    """Document number -> document."""
    token_counts: np.ndarray
    """[documents] predicted tokens of each."""

    def __len__(self) -> int:
        return len(self.token_counts)


def open_documents(
    data: str, processor: DocumentProcessor, split: str = "validation", limit: int | None = None
) -> Documents:
    """The first `limit` documents of `data`, tokenised as `processor` does.

    A source that is not prepared is segmented and tokenised now; one without splits is taken whole, and
    documents without text are left out. Raises ValueError for data that cannot be read, that were prepared for
    another model, or that hold no document.
    """
    if (Path(data) / METADATA_FILE).is_file():
        prepared = load_prepared(data, split)
        _check_same(prepared.processor, processor, data)
        counts = prepared.token_counts[:limit]
        found = Documents(prepared.read, counts)
    else:
        splits = read_corpus(CorpusOptions(data, limit=limit))
        if split not in splits and len(splits) > 1:
            raise ValueError(f"'{data}' has no split '{split}'; it has {', '.join(splits)}")
        sources = splits[split] if split in splits else next(iter(splits.values()))
        rows = [section for source in sources for section in processor.process(source).sections]
        found = Documents(rows.__getitem__, np.asarray([row.num_tokens for row in rows], dtype=np.int64))
    if not len(found):
        raise ValueError(f"'{data}' holds no document with text in split '{split}'")
    return found


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
