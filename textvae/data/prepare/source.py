"""A source -> its encoded documents in a file: what is read for once does not have to fit into memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import datasets

from textvae.data.document import SourceDocument
from textvae.data.prepare.parts import RawPart, part_file, write_parts
from textvae.data.prepare.stages import COUNTED, kept_rows, section_rows
from textvae.data.prepare.summary import Account
from textvae.data.prepare.tasks import RowWriter
from textvae.data.sources.corpus import from_row, unique_names
from textvae.data.text.processor import DocumentProcessor


def encode_into(
    folder: Path, documents: Iterable[SourceDocument], processor: DocumentProcessor, max_sentences: int | None
) -> tuple[datasets.Dataset, Account]:
    """What `prepare` makes of `documents`: their sections, mapped from a file in `folder`, and the account.

    Raises ValueError as `DocumentProcessor.process` does.
    """
    raw_folder = folder / "raw"
    raw_folder.mkdir()
    sizes = write_parts(iter(documents), raw_folder, seed=0)
    parts = [RawPart("", "", part_file(raw_folder, number), 0, *size) for number, size in enumerate(sizes)]
    read = list(chain.from_iterable(part.ids() for part in parts))
    account = Account(0, 0, {}, 0, ())
    path = folder / "documents.arrow"
    with RowWriter(path, None, processor.decoder_tokenizer.eos_token_id) as writer:
        raw = chain.from_iterable(part.read() for part in parts)
        for row, name in zip(raw, unique_names(read), strict=True):
            rows = section_rows(replace(from_row(row), id=name), processor, max_sentences)
            account += Account.of(rows, COUNTED, 1, int(name != row["id"]))
            writer.write(kept_rows(rows))
    shutil.rmtree(raw_folder)
    return datasets.Dataset.from_file(str(path)), account
