"""Indexes compared, and embedded from sources of a few words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow

from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.text_vae import HierarchicalTextVAE

WORDS = ("boat", "wind", "light", "wall", "soup", "night", "sail")
SOURCES = [
    SourceDocument(
        id=f"d{number}", text=f"A {word} came at {number}. So.\n\nThe {word} rose.", label=WORDS[number % 2], title=word
    )
    for number, word in enumerate(WORDS)
]


def documents_of(model: HierarchicalTextVAE, sources: Sequence[SourceDocument] = SOURCES) -> Documents:
    return Documents.of(model.process(sources))


def differing(one: Path, other: Path) -> list[str]:
    """Names of the files that differ, or that only one folder has.

    Numbers may differ in their last digits: where in memory a matrix begins decides in which order some processors sum.
    Checksums of files that hold such numbers are not compared then.
    """
    ours, theirs = (
        {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        for folder in (one, other)
    )
    same = {name for name in ours.keys() & theirs.keys() if _same(ours[name], theirs[name])}
    return sorted((ours.keys() | theirs.keys()) - same)


def _same(one: Path, other: Path) -> bool:
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix == ".json":
        return _alike(*(json.loads(path.read_text(encoding="utf-8")) for path in (one, other)))
    ours, theirs = (pyarrow.ipc.open_stream(path.read_bytes()).read_all() for path in (one, other))
    return ours.schema == theirs.schema and all(
        _alike(ours[c].to_pylist(), theirs[c].to_pylist()) for c in ours.column_names
    )


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(
            name == "sha256" or name.startswith("shard-") or _alike(one[name], other[name]) for name in one
        )
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        # Features are rounded to half precision.
        return bool(np.isclose(one, other, rtol=2e-3, atol=2e-5))
    return bool(one == other)
