"""A source -> raw parts: Arrow files of some megabytes each, and two numbers of every document.

A task reads a few files, or what is no files as a whole. Its folder is whole or not there, and says in `read.json`
what it was read from and which parts it holds: `part-00000.arrow`, rows as `corpus.to_row` makes them, and
`part-00000.npy`, of every row the hash of its id and its place among the splits.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from textvae.atomic import whole_folder
from textvae.data.document import SourceDocument
from textvae.data.sources import python_docs
from textvae.data.sources.corpus import RAW_FIELDS, CorpusOptions, read_corpus, read_files, to_row
from textvae.data.sources.folder import PassedOver, find_files

PART_DOCUMENTS, PART_BYTES = 8192, 8 * 2**20
"""A part ends with the batch that reaches either."""
TASK_BYTES = 64 * 2**20
"""Of the files that one task reads; a larger file is a task of its own."""
_BATCH_DOCUMENTS, _BATCH_BYTES = 256, 2**20
_READ_FILE = "read.json"
_SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in RAW_FIELDS])


@dataclass(frozen=True)
class Reading:
    """What one task reads of a split, and the number of the task."""

    split: str
    number: int
    files: tuple[str, ...] = ()
    """None where the source is no files."""

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06}"

    @property
    def stamp(self) -> list[list[Any]]:
        """Name, size and time of change of the files: other ones are read again."""
        facts = ((name, Path(name).stat()) for name in self.files)
        return [[name, fact.st_size, fact.st_mtime_ns] for name, fact in facts]


@dataclass(frozen=True)
class RawPart:
    """Documents that lie one after the other in a split of the source."""

    name: str
    split: str
    path: Path
    first: int
    """Row in the split of its first document."""
    documents: int
    num_bytes: int
    """Of its rows, as text."""

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.documents)

    def numbers(self) -> np.ndarray:
        """[documents, 2] hash of the id, and place, of every document."""
        return np.load(self.path.with_suffix(".npy"), allow_pickle=False)

    def read(self, chosen: np.ndarray | None = None) -> Iterator[dict[str, Any]]:
        """The rows, a batch of them in memory at a time. chosen: some of the part's rows, ascending."""
        if chosen is not None and not len(chosen):
            return
        start = 0
        with pyarrow.OSFile(str(self.path)) as file, pyarrow.ipc.open_stream(file) as batches:
            for batch in batches:
                end = start + len(batch)
                if chosen is not None:
                    batch = batch.take(pyarrow.array(chosen[(chosen >= start) & (chosen < end)] - start))
                yield from batch.to_pylist()
                start = end

    def ids(self) -> list[str]:
        with pyarrow.OSFile(str(self.path)) as file, pyarrow.ipc.open_stream(file) as batches:
            return list(chain.from_iterable(batch.column("id").to_pylist() for batch in batches))


def readings(options: CorpusOptions) -> tuple[list[Reading], tuple[PassedOver, ...]]:
    """The tasks of a source, in the order of its documents, and what is passed over.

    Raises ValueError as `read_corpus` and `find_files` do.
    """
    if options.source == python_docs.NAME or not Path(options.source).exists():
        corpus = read_corpus(options)
        return [Reading(split, 0) for split in corpus.splits], corpus.passed_over
    found = find_files(options.source)
    tasks = []
    for split, files in found.splits.items():
        # A limit counts from the beginning of a split, which then is one task.
        groups = [files] if options.limit is not None else list(_grouped(files))
        tasks += [Reading(split, number, tuple(map(str, group))) for number, group in enumerate(groups)]
    return tasks, found.passed_over


def _grouped(files: Sequence[Path]) -> Iterator[list[Path]]:
    group: list[Path] = []
    total = 0
    for file in files:
        size = file.stat().st_size
        if group and total + size > TASK_BYTES:
            yield group
            group, total = [], 0
        group.append(file)
        total += size
    yield group


def read(reading: Reading, options: CorpusOptions, seed: int, raw: Path) -> None:
    """Write the parts of `reading` below `raw`. Raises ValueError naming the file and place of what cannot be read."""
    with whole_folder(raw / reading.name) as folder:
        stamp = reading.stamp
        parts = write_parts(_documents(reading, options), folder, seed)
        said = {"stamp": stamp, "parts": parts}
        (folder / _READ_FILE).write_text(json.dumps(said) + "\n", encoding="utf-8")


def write_parts(documents: Iterator[SourceDocument], folder: Path, seed: int) -> list[tuple[int, int]]:
    """Into `folder`; of each its documents and the bytes of their text."""
    return [_write_part(batches, folder, number, seed) for number, batches in _parts(documents)]


def _documents(reading: Reading, options: CorpusOptions) -> Iterator[SourceDocument]:
    if reading.files:
        documents = read_files(reading.files, options.source, options.fields)
        return documents if options.limit is None else islice(documents, options.limit)
    return iter(read_corpus(options).splits[reading.split])


_Batch = list[dict[str, str | None]]


def _parts(documents: Iterator[SourceDocument]) -> Iterator[tuple[int, Iterator[_Batch]]]:
    """Numbered parts of batches of rows; each must be exhausted before the next."""
    batches = _batches(map(to_row, documents))
    for number, first in enumerate(batches):
        yield number, _until_full(chain([first], batches))


def _until_full(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    documents = size = 0
    for batch in batches:
        yield batch
        documents, size = documents + len(batch), size + sum(map(_size, batch))
        if documents >= PART_DOCUMENTS or size >= PART_BYTES:
            return


def _batches(rows: Iterator[dict[str, str | None]]) -> Iterator[_Batch]:
    batch: _Batch = []
    size = 0
    for row in rows:
        batch.append(row)
        size += _size(row)
        if len(batch) == _BATCH_DOCUMENTS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(row: dict[str, str | None]) -> int:
    return sum(len(value) for value in row.values() if value is not None)


def _write_part(batches: Iterator[_Batch], folder: Path, number: int, seed: int) -> tuple[int, int]:
    """Documents of the part, and bytes of their text."""
    path = part_file(folder, number)
    numbers: list[tuple[int, int]] = []
    num_bytes = 0
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, _SCHEMA) as writer:
        for batch in batches:
            record_batch = pyarrow.RecordBatch.from_pylist(batch, schema=_SCHEMA)
            writer.write_batch(record_batch)
            num_bytes += record_batch.nbytes
            numbers += ((hash_of(str(row["id"])), place_of(str(row["id"]), seed)) for row in batch)
    save_array(path.with_suffix(".npy"), np.asarray(numbers, dtype=np.uint64))
    return len(numbers), num_bytes


def part_file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05}.arrow"


def hash_of(name: str) -> int:
    """Eight bytes that stand for an id: among a thousand million, two are alike once in forty corpora."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def place_of(name: str, seed: int) -> int:
    """A number below 2**64 that depends on nothing but the id and the seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")


def save_array(path: Path, array: np.ndarray) -> None:
    """As np.save, which does not say why it failed on a full disk."""
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getbuffer())


def is_read(reading: Reading, raw: Path) -> bool:
    """Whether its parts are there, and of the files as they are now."""
    path = raw / reading.name / _READ_FILE
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["stamp"] == reading.stamp


def parts_of(found: Sequence[Reading], raw: Path) -> list[RawPart]:
    """All parts of what was read, in order."""
    parts: list[RawPart] = []
    ends: dict[str, int] = {}
    for reading in found:
        folder = raw / reading.name
        sizes = json.loads((folder / _READ_FILE).read_text(encoding="utf-8"))["parts"]
        starts = accumulate((documents for documents, _ in sizes), initial=ends.get(reading.split, 0))
        for number, ((documents, num_bytes), first) in enumerate(zip(sizes, starts, strict=False)):
            name, path = f"{reading.name}-{number:05}", part_file(folder, number)
            parts.append(RawPart(name, reading.split, path, first, documents, num_bytes))
            ends[reading.split] = first + documents
    return parts
