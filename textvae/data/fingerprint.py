"""What data and cached features were made of, so that a stranger's are not taken for one's own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DataFingerprint:
    """Tells one prepared split from another, in values that JSON holds."""

    rows: int
    tokens: int
    """Predicted tokens, sentence ends included."""
    sha256: str
    """Of the ids and token counts of all rows, in their order."""


@dataclass(frozen=True)
class StreamFingerprint:
    """The same of a source that is read while training."""

    shards: int
    bytes: int
    """Of files, as they lie; 0 where that is not known."""
    sha256: str
    """Of the names and sizes of all shards, and of how they are read."""


@dataclass(frozen=True)
class EncoderFingerprint:
    """Tells whose features were cached. The weights and the layers decide; the rest is for people."""

    name: str
    revision: str | None
    """Commit of the Hub repository, where that is known."""
    layers: tuple[int, ...]
    """Hidden states that are pooled."""
    sha256: str
    """Of the weights."""
    dtype: str | None = None
    """What it multiplied in, where that is known."""

    def computes_as(self, other: EncoderFingerprint) -> bool:
        return (self.sha256, self.layers) == (other.sha256, other.layers)

    def __str__(self) -> str:
        return f"'{self.name}' (layers {list(self.layers)}, weights {self.sha256[:8]})"


def data_fingerprint(ids: Iterable[str], token_counts: np.ndarray) -> DataFingerprint:
    """`token_counts`: [documents] predicted tokens of each."""
    digest = hashlib.sha256(np.ascontiguousarray(token_counts, dtype="<i8").tobytes())
    for name in ids:
        encoded = name.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return DataFingerprint(len(token_counts), int(token_counts.sum()), digest.hexdigest())
