"""An embedding that was killed goes on where it stood: what it embeds and how, and which of its shards are whole.

`embedding.json` says the first before anything is embedded; a shard's folder, which is whole or not there, the second.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from textvae.atomic import write_json
from textvae.data.document import EncodedDocument
from textvae.data.fingerprint import DataFingerprint
from textvae.search.storage import ShardDescription, parse, read_json, shard_name

EMBEDDING_FILE = "embedding.json"
MOST_DOCUMENTS, FEWEST_DOCUMENTS, SHARES = 8192, 64, 16
"""Of a shard, where nobody says how many: so few that several processes share a corpus, so many that batches are full.
"""


@dataclass(frozen=True)
class Embedding:
    """What must be the same for an embedding to go on, so that it ends as if it had not been killed."""

    format: int
    model: str
    """SHA-256 of its weights."""
    dtype: str
    """Of its weights as they were loaded."""
    language: str
    """Whose most common words BM25 does not count."""
    data: DataFingerprint
    batch_tokens: int
    shard_documents: PositiveInt
    first_row: NonNegativeInt
    """Number of its first document in the index."""

    @classmethod
    def read(cls, folder: Path) -> Embedding | None:
        """The last one into `folder`, whole or not. Raises ValueError for a damaged file."""
        path = folder / EMBEDDING_FILE
        return parse(cls, read_json(path), path) if path.is_file() else None

    def write(self, folder: Path) -> None:
        write_json(folder / EMBEDDING_FILE, asdict(self))

    def changed(self, begun: Embedding) -> list[str]:
        """What differs from one that was begun, in a user's words."""
        names = {
            "format": "the version of textvae",
            "model": "the model",
            "dtype": "--dtype",
            "language": "the language of the model's data",
            "data": "the data",
            "batch_tokens": f"--batch-tokens (then {begun.batch_tokens})",
            "shard_documents": f"--shard-documents (then {begun.shard_documents})",
        }
        # Shards of a default size follow from the data.
        hidden = ("shard_documents",) if begun.data != self.data else ()
        return [
            said for name, said in names.items() if getattr(self, name) != getattr(begun, name) and name not in hidden
        ]

    @property
    def shards(self) -> dict[str, range]:
        """By name, the rows in the data of every shard's documents."""
        ends = range(0, self.data.rows, self.shard_documents)
        return {
            shard_name(self.first_row + first): range(first, min(first + self.shard_documents, self.data.rows))
            for first in ends
        }


def default_shard_documents(documents: int) -> int:
    """Of a corpus of so many documents."""
    return min(MOST_DOCUMENTS, max(FEWEST_DOCUMENTS, math.ceil(documents / SHARES)))


def begun_in(folder: Path, embedding: Embedding, start_over: bool) -> bool:
    """Whether `embedding` was begun in `folder`, and is to go on.

    Raises ValueError where another one was begun and not finished, unless it is to be forgotten (`start_over`).
    """
    begun = None if start_over else Embedding.read(folder)
    # A finished one's numbers are taken: what comes after it has others.
    if begun is None or begun.first_row != embedding.first_row:
        return False
    if changed := embedding.changed(begun):
        raise ValueError(
            f"'{folder}' holds the beginning of an embedding that differs in {', '.join(changed)}: go on as it was "
            "begun, or leave it with --start-over"
        )
    return True


def remove_shards(folder: Path, but: Container[str]) -> None:
    """Delete what is no part of the index in `folder`: all shards and beginnings of shards, `but` these."""
    for path in folder.glob("shard-*"):
        if path.name not in but:
            shutil.rmtree(path)


class Content:
    """SHA-256 of all that an index takes from documents."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, document: EncodedDocument) -> None:
        structure = [np.asarray(counts).tolist() for counts in document.structure]
        said = [document.id, document.source_id, document.title, document.label, list(document.sentences), structure]
        encoded = json.dumps(said, ensure_ascii=False).encode()
        self._digest.update(len(encoded).to_bytes(8, "little") + encoded)
        if document.features is not None:
            self._digest.update(np.ascontiguousarray(document.features, dtype="<f2").tobytes())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def changed_shards(folder: Path, shards: Mapping[str, range], read: Callable[[int], EncodedDocument]) -> list[str]:
    """Names of those of these whole shards, given with their rows in the data, whose documents are not what `read`
    gives now: an id and a length may stay where a word or a label changes."""
    changed = []
    for name, rows in shards.items():
        content = Content()
        for row in rows:
            content.update(read(row))
        if content.hexdigest() != ShardDescription.read(folder / name).content:
            changed.append(name)
    return changed
