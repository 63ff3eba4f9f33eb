"""What is done to each raw part, by any process that sees the folder: encoded, given features, merged into shards.

A task writes a folder or a file that is whole or not there, the same bytes whoever does it and however often.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow

from textvae.atomic import partial, rename, sync, whole_folder
from textvae.data.prepare.division import division_of
from textvae.data.prepare.parts import RawPart, save_array
from textvae.data.prepare.stages import (
    COUNTED,
    FEATURES,
    WITH_STATES,
    FeatureFunction,
    count_batch,
    kept_rows,
    section_rows,
    with_features,
)
from textvae.data.prepare.summary import Account
from textvae.data.sources.corpus import from_row
from textvae.data.sources.folder import SPLITS
from textvae.data.text.processor import DocumentProcessor

ACCOUNT_FILE, WORDS_FILE = "account.json", "words.npy"
_ROWS, _BYTES = 256, 4 * 2**20
"""Of a batch of encoded rows: whichever is reached first."""
_SHARD_ROWS, _SHARD_BATCH = 1024, 16 * 2**20
"""The same of a batch in a finished shard."""


@dataclass(frozen=True)
class Places:
    """Where everything is that a task reads or writes."""

    root: Path

    @property
    def raw(self) -> Path:
        return self.root / "raw"

    @property
    def division(self) -> Path:
        return self.root / "division"

    @property
    def processor(self) -> Path:
        return self.root / "processor"

    @property
    def encoded(self) -> Path:
        return self.root / "encoded"

    @property
    def featured(self) -> Path:
        return self.root / "featured"

    @property
    def done(self) -> Path:
        return self.root / "done"


def encode(part: RawPart, places: Places, processor_sha256: str, max_sentences: int | None) -> None:
    """`encoded/PART/`: the sections of the part's documents by split, `SPLIT.arrow`; the accounts; how often every
    token is to be predicted in `train`.

    Raises ValueError as `DocumentProcessor.process` does.
    """
    processor = _processor(str(places.processor), processor_sha256)
    division = division_of(part, places.division)
    accounts: dict[str, Account] = {}
    tokenizer = processor.decoder_tokenizer
    words = np.zeros(len(tokenizer), dtype=np.int64)
    with whole_folder(places.encoded / part.name) as folder, ExitStack() as stack:
        writers: dict[str, RowWriter] = {}
        for number, raw in enumerate(part.read()):
            split = SPLITS[division.destination[number]]
            document = from_row(raw)
            document = replace(document, id=division.name(number, document.id))
            rows = section_rows(document, processor, max_sentences)
            account = Account.of(rows, COUNTED, 1, int(number in division.numbers))
            accounts[split] = accounts[split] + account if split in accounts else account
            if kept := kept_rows(rows):
                if split not in writers:
                    counts = words if split == "train" else None
                    writer = RowWriter(folder / f"{split}.arrow", counts, tokenizer.eos_token_id)
                    writers[split] = stack.enter_context(writer)
                writers[split].write(kept)
        stack.close()
        said = {split: asdict(account) for split, account in accounts.items()}
        (folder / ACCOUNT_FILE).write_text(json.dumps(said, ensure_ascii=False) + "\n", encoding="utf-8")
        save_array(folder / WORDS_FILE, words)


@lru_cache(maxsize=1)
def _processor(folder: str, sha256: str) -> DocumentProcessor:
    """One for all parts of a preparation. `sha256`: of its files, which may be others under the same name."""
    return DocumentProcessor.from_pretrained(folder)


class RowWriter:
    """Writes encoded rows in batches, and counts their words."""

    def __init__(self, path: Path, counts: np.ndarray | None, end_id: int) -> None:
        self._counts, self._end_id = counts, end_id
        self._stack = ExitStack()
        file = self._stack.enter_context(pyarrow.OSFile(str(path), "wb"))
        self._writer = self._stack.enter_context(pyarrow.ipc.new_stream(file, FEATURES.arrow_schema))
        self._rows: list[dict[str, Any]] = []
        self._size = 0

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._rows.append(dict(row))
            self._size += row["num_bytes"] + 8 * row["num_tokens"]
            if len(self._rows) == _ROWS or self._size >= _BYTES:
                self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        batch = pyarrow.RecordBatch.from_pylist(self._rows, schema=FEATURES.arrow_schema)
        if self._counts is not None:
            count_batch(self._counts, batch, self._end_id)
        self._writer.write_batch(batch)
        self._rows, self._size = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._stack.__exit__(kind, error, traceback)


def add_features(name: str, places: Places, feature_fn: FeatureFunction) -> None:
    """`featured/PART/SPLIT.arrow`: the rows of `encoded/PART/SPLIT.arrow` with the features of their sentences.

    Raises ValueError as `with_features` does.
    """
    with whole_folder(places.featured / name) as folder:
        for path in sorted((places.encoded / name).glob("*.arrow")):
            found = (rows for batch in _batches([path]) for rows in with_features(batch, feature_fn))
            _write(folder / path.name, WITH_STATES.arrow_schema, found)


def accounts_of(parts: Iterable[RawPart], places: Places) -> tuple[dict[str, Account], np.ndarray]:
    """The accounts of all encoded parts by split, and how often every token is to be predicted in `train`."""
    total: dict[str, Account] = {}
    words: np.ndarray | None = None
    for part in parts:
        folder = places.encoded / part.name
        for split, values in json.loads((folder / ACCOUNT_FILE).read_text(encoding="utf-8")).items():
            account = Account.parse(values)
            total[split] = total[split] + account if split in total else account
        counted = np.load(folder / WORDS_FILE, allow_pickle=False)
        words = counted if words is None else words + counted
    assert words is not None
    return total, words


@dataclass(frozen=True)
class Shard:
    """A file of the finished data set, and those that it is made of, in order."""

    path: Path
    files: tuple[Path, ...]


def merge(shard: Shard) -> None:
    """Write the shard, its rows in batches that are cheap to open and to read from."""
    with pyarrow.OSFile(str(shard.files[0])) as file:
        schema = pyarrow.ipc.open_stream(file).schema
    aside = partial(shard.path.with_name(f"{shard.path.name}-{uuid.uuid4().hex[:8]}"))
    try:
        _write(aside, schema, _merged(_batches(shard.files)))
        sync(aside)
        rename(aside, shard.path)
    finally:
        aside.unlink(missing_ok=True)


def _merged(batches: Iterable[pyarrow.RecordBatch]) -> Iterator[pyarrow.RecordBatch]:
    waiting: list[pyarrow.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        waiting.append(batch)
        rows, size = rows + len(batch), size + batch.nbytes
        if rows >= _SHARD_ROWS or size >= _SHARD_BATCH:
            yield pyarrow.concat_batches(waiting)
            waiting, rows, size = [], 0, 0
    if waiting:
        yield pyarrow.concat_batches(waiting)


def _batches(files: Iterable[Path]) -> Iterator[pyarrow.RecordBatch]:
    for path in files:
        with pyarrow.OSFile(str(path)) as file, pyarrow.ipc.open_stream(file) as batches:
            yield from batches


def _write(path: Path, schema: pyarrow.Schema, batches: Iterable[pyarrow.RecordBatch]) -> None:
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
