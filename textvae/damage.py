"""Files that are not as they were written: known by their SHA-256, and told of in one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import OutOfMemoryError

CHECKSUMS_FILE = "checksums.json"


@contextmanager
def reading(path: str | Path, remedy: str) -> Iterator[None]:
    """Whatever goes wrong inside, where `path` is read, is a ValueError that names it and says what to do.

    The readers of other packages raise all there is for a damaged file, bare `Exception` included. What names the path
    already is passed on as it is, and so is everything where there is no such path (but a name of the Hub's).
    """
    try:
        yield
    except (MemoryError, OutOfMemoryError):
        raise
    except Exception as error:
        if not Path(path).exists() or (isinstance(error, ValueError | OSError) and str(path) in str(error)):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"'{path}' is damaged, or cannot be read here ({reason[:300]}); {remedy}") from error


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """Raises ValueError for a file that holds none."""
    with reading(path, remedy):
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds no JSON object, but {type(values).__name__}")
        return values


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of `files`, by their names as seen from `folder`."""
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(files)}


def verify(folder: Path, expected: Mapping[str, str], remedy: str) -> None:
    """`expected`: by file, its SHA-256, or several between spaces, of which it may have any. Raises ValueError naming
    the first file that is missing or has none of them."""
    for name, sha256 in expected.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"'{file}' is missing; {remedy}")
        if sha256_of(file) not in str(sha256).split():
            raise ValueError(f"'{file}' is damaged, it has not its SHA-256; {remedy}")
