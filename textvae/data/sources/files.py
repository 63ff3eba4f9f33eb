"""Reading a file of any kind -> `SourceDocument`s, with errors that name file and line."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from textvae.data.document import SourceDocument
from textvae.data.sources.folder import file_kind
from textvae.data.sources.records import FieldNames, parse_record


def _open_zstandard(path: Path, mode: str) -> Any:
    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


_OPENERS: dict[str, Callable[..., Any]] = {
    ".xz": lzma.open,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".zst": _open_zstandard,
}
_MARK = "\ufeff"
# The longer first: UTF-32's mark begins with that of UTF-16.
_MARKED_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class DamagedRecord:
    """What should be a record, beside others that may be whole."""

    id: str
    reason: str
    """With file and line."""


def read_document(file: str | Path, fields: FieldNames | None = None) -> SourceDocument:
    """The one document of a file of any kind that `read_file` knows; of another kind, it is taken for text.

    Raises ValueError naming the file if it holds several, none, or no text; else as `read_file`.
    """
    path = Path(file)
    found = list(islice(read_file(path, path, fields or FieldNames()), 2))
    if len(found) > 1:
        raise ValueError(f"'{path}' holds several documents; give a file with one")
    if not found or not found[0].has_text:
        raise ValueError(f"'{path}' holds no text")
    return found[0]


def read_file(path: Path, root: Path, fields: FieldNames) -> Iterator[SourceDocument]:
    """The documents of one file below `root`. One without an id gets its place: `name:line`, or a text's path.

    Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. Raises ValueError naming the file and the line (or
    byte) for what cannot be read.
    """
    for record in read_records(path, root, fields):
        if isinstance(record, DamagedRecord):
            raise ValueError(record.reason)
        yield record


def read_records(path: Path, root: Path, fields: FieldNames) -> Iterator[SourceDocument | DamagedRecord]:
    """As `read_file`, but reading goes on behind a line of JSON that is no record, or no valid text."""
    name = _base_name(path.relative_to(root) if path != root else Path(path.name))
    kind = file_kind(path)
    with _damage_named(path):
        if kind == "json":
            yield from _read_json(path, name, fields)
        elif kind == "parquet":
            yield from _read_parquet(path, name, fields)
        else:
            with _open(path) as file:
                text = _decode(file.read(), str(path))
            yield SourceDocument(id=name, text=text, place=str(path))


def _base_name(relative: Path) -> str:
    """The path without the suffixes that say how to read it."""
    if relative.suffix.lower() in _OPENERS:
        relative = relative.with_suffix("")
    return relative.with_suffix("").as_posix()


def _open(path: Path) -> Any:
    return _OPENERS.get(path.suffix.lower(), open)(path, "rb")


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} is not a valid Parquet file: {error}") from None
    except (lzma.LZMAError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file could not be opened or read at all, and is named
        raise ValueError(f"{path} is damaged or not what its ending says: {error}") from None


def _read_json(path: Path, name: str, fields: FieldNames) -> Iterator[SourceDocument | DamagedRecord]:
    """Objects, one a line; a `.json` file may also hold one value over many lines: an object or a list of them."""
    lines = ((number, line) for number, line in _text_lines(path) if isinstance(line, ValueError) or line.strip())
    first = next(lines, None)
    if first is None:
        return
    if _base_suffix(path) == ".json" and not _is_object(first[1]):
        records = enumerate(_whole_json(path, [line for _, line in chain([first], lines)]), 1)
        found = ((number, f"{path}, item {number}", record) for number, record in records)
    else:
        places = ((number, f"{path}, line {number}", line) for number, line in chain([first], lines))
        found = ((number, place, _parse_json(line, place)) for number, place, line in places)
    for number, place, record in found:
        try:
            if isinstance(record, ValueError):
                raise record
            if not isinstance(record, dict):
                raise ValueError(f"{place}: a JSON {type(record).__name__}, but each must be one JSON object")
            yield parse_record(record, f"{name}:{number}", place, fields)
        except ValueError as error:
            yield DamagedRecord(f"{name}:{number}", str(error))


def _base_suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix.lower() in _OPENERS else path).suffix.lower()


def _is_object(line: str | ValueError) -> bool:
    try:
        return isinstance(line, str) and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _whole_json(path: Path, lines: list[str | ValueError]) -> list[Any]:
    for line in lines:
        if isinstance(line, ValueError):
            raise line
    try:
        value = json.loads("".join(map(str, lines)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: neither a JSON object a line, nor one JSON value ({error})") from None
    return value if isinstance(value, list) else [value]


def _parse_json(line: str | ValueError, place: str) -> Any:
    """The value, or what is wrong with it."""
    if isinstance(line, ValueError):
        return line
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # numbers of too many digits, lists nested too deep
        return ValueError(f"{place}: not valid JSON ({error}); each line must hold one JSON object")


def _text_lines(path: Path) -> Iterator[tuple[int, str | ValueError]]:
    """Numbered lines; one whose bytes are no text, as the error that says so."""
    with _open(path) as file:
        encoding = _marked_encoding(file.read(4))
    with _open(path) as file:
        if encoding is None:
            for number, line in enumerate(file, 1):
                try:
                    yield number, _decode(line, f"{path}, line {number}").lstrip(_MARK)
                except ValueError as error:
                    yield number, error
        else:
            # Nor are these lines split where JSON's strings may hold what Python takes for a line break.
            text = _decode(file.read(), str(path))
            yield from enumerate(io.StringIO(text, newline="\n"), 1)


def _marked_encoding(content: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKED_ENCODINGS if content.startswith(mark)), None)


def _decode(content: bytes, place: str) -> str:
    encoding = _marked_encoding(content)
    try:
        return content.decode(encoding or "utf-8").removeprefix(_MARK)
    except UnicodeDecodeError as error:
        said = f"{place}: not valid {(encoding or 'utf-8').upper()} at byte {error.start}"
        raise ValueError(
            f"{said} (0x{content[error.start]:02x}); convert the file, for instance with "
            "`iconv -f latin1 -t utf-8`, or remove it"
        ) from None


def _read_parquet(path: Path, name: str, fields: FieldNames) -> Iterator[SourceDocument]:
    row = 0
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=256):
        try:
            records = batch.to_pylist()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, rows {row} to {row + len(batch) - 1}: not valid UTF-8 ({error})") from None
        for record in records:
            yield parse_record(record, f"{name}:{row}", f"{path}, row {row}", fields)
            row += 1
