"""Reading corpora: files of several kinds -> `SourceDocument`s, with errors that name file and line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from textvae.data.document import SourceDocument

SPLITS = ("train", "validation", "test")
_OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_JSON_LINES = (".jsonl", ".json")


@dataclass(frozen=True)
class FieldNames:
    """Where a record keeps what; `paragraphs` and `units` go by those names."""

    text: str | None = None
    """None: the first of `units`, `paragraphs` and `text` that is there; a name: that field and no other."""
    id: str = "id"
    title: str = "title"
    label: str = "label"


def find_files(source: str | Path) -> dict[str, list[Path]]:
    """The corpus files at `source` by split, in order of their names; all of them are `train` if none names
    one.

    A split is named by a subfolder (`test/a.txt`) or, other than for text files, which are documents, by the
    file (`test.jsonl`, `test-00001.parquet`). Raises ValueError if there are no files that can be read, or if
    some name a split and some do not.
    """
    source = Path(source)
    if source.is_file():
        if file_kind(source) is None:
            raise ValueError(f"'{source}' is of no known kind: .txt, .jsonl, .json (also .xz, .gz, .bz2) or .parquet")
        return {"train": [source]}
    files = sorted(path for path in source.rglob("*") if path.is_file() and file_kind(path) is not None)
    if not files:
        raise ValueError(f"'{source}' holds no .txt, .jsonl, .json (also .xz, .gz, .bz2) or .parquet file")
    by_split: dict[str | None, list[Path]] = {}
    for path in files:
        by_split.setdefault(_split_of(path.relative_to(source)), []).append(path)
    unnamed = by_split.pop(None, [])
    if unnamed and by_split:
        raise ValueError(
            f"'{source}' mixes files that name a split ({', '.join(map(str, by_split))}) with others, such "
            f"as '{unnamed[0].name}': move those away, or put every file into train/, validation/ or test/"
        )
    return {"train": unnamed} if unnamed else {split: by_split[split] for split in SPLITS if split in by_split}


def file_kind(path: Path) -> str | None:
    suffixes = [suffix for suffix in path.suffixes[-2:] if suffix not in _OPENERS]
    last = suffixes[-1] if suffixes else ""
    if last in _JSON_LINES:
        return "json"
    return {".txt": "text", ".parquet": "parquet"}.get(last) if last == path.suffix else None


def _split_of(relative: Path) -> str | None:
    if len(relative.parts) == 1 and relative.suffix == ".txt":
        return None
    first = relative.parts[0]
    for split in SPLITS:
        if first.startswith(split) and not first[len(split) : len(split) + 1].isalpha():
            return split
    return None


def read_file(path: Path, root: Path, fields: FieldNames) -> Iterator[SourceDocument]:
    """The documents of one file below `root`. One without an id gets its place: `name:line`, or a text's
    path.

    Raises ValueError naming the file and the line (or byte) for what cannot be read.
    """
    name = path.relative_to(root).with_suffix("").as_posix() if path != root else path.stem
    kind = file_kind(path)
    if kind == "text":
        yield SourceDocument(id=name, text=_decode(path.read_bytes(), str(path)).removeprefix("\ufeff"))
    elif kind == "json":
        yield from _read_json_lines(path, name.split(".")[0], fields)
    else:
        yield from _read_parquet(path, name, fields)


def _read_json_lines(path: Path, name: str, fields: FieldNames) -> Iterator[SourceDocument]:
    """Lines without any character are passed over."""
    opener = _OPENERS.get(path.suffix, open)
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    place = f"{path}, line {number}"
                    yield parse_record(_parse_json(line, place), f"{name}:{number}", place, fields)
    except (lzma.LZMAError, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or not what its ending says: {error}") from None


def _parse_json(line: bytes, place: str) -> dict[str, Any]:
    text = _decode(line, place)
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not valid JSON ({error}); each line must hold one JSON object") from None
    if not isinstance(record, dict):
        raise ValueError(f"{place}: a JSON {type(record).__name__}, but each line must hold one JSON object")
    return record


def _decode(content: bytes, place: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: not valid UTF-8 at byte {error.start} (0x{content[error.start]:02x}); convert the "
            "file, for instance with `iconv -f latin1 -t utf-8`, or remove it"
        ) from None


def _read_parquet(path: Path, name: str, fields: FieldNames) -> Iterator[SourceDocument]:
    try:
        row = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=256):
            for record in batch.to_pylist():
                yield parse_record(record, f"{name}:{row}", f"{path}, row {row}", fields)
                row += 1
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a valid Parquet file: {error}") from None


def parse_record(record: Mapping[str, Any], default_id: str, place: str, fields: FieldNames) -> SourceDocument:
    """A record with `units`, `paragraphs` or the text field (the first of them that is there) as a document.

    An `_id` (BEIR) stands in for a missing id. Raises ValueError naming `place` if no text is there or its
    type is wrong.
    """
    rest = {key: value for key, value in record.items() if value is not None}
    given_id = rest.pop(fields.id, None)
    if given_id is None:
        given_id = rest.pop("_id", default_id)
    title, label = rest.pop(fields.title, None), rest.pop(fields.label, None)
    content: dict[str, Any] = {}
    for target, key, kind in (
        ("units", "units", list),
        ("paragraphs", "paragraphs", list),
        ("text", fields.text or "text", str),
    ):
        value = rest.pop(key, None)
        if value is None or content:
            continue
        if not isinstance(value, kind):
            raise ValueError(f"{place}: field '{key}' is of type {type(value).__name__}, not {kind.__name__}")
        content[target] = value
    if not content:
        raise ValueError(
            f"{place}: no field '{fields.text or 'text'}', 'paragraphs' or 'units' among {sorted(record)}; name the "
            "field that holds the text (--text-field)"
        )
    return SourceDocument(
        id=str(given_id),
        title=None if title is None else str(title),
        label=None if label is None else str(label),
        extra=rest,
        **content,
    )
