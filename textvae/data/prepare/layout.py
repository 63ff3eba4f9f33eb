"""The finished folder, as `datasets.load_from_disk` reads it: SPLIT/data-00000-of-00001.arrow, and what says so."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textvae.data.prepare.parts import RawPart
from textvae.data.prepare.stages import FEATURES, WITH_STATES
from textvae.data.prepare.tasks import Places, Shard

SHARD_BYTES = 500 * 10**6
"""A shard ends with the file that reaches it."""


def shards_of(split: str, parts: Sequence[RawPart], places: Places, has_features: bool) -> list[Shard]:
    """Those of one split, which the parts hold some documents of."""
    folder = places.featured if has_features else places.encoded
    groups: list[list[Path]] = []
    size = SHARD_BYTES
    for path in (folder / part.name / f"{split}.arrow" for part in parts):
        if path.is_file():
            if size >= SHARD_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(path)
            size += path.stat().st_size
    names = (f"data-{number:05}-of-{len(groups):05}.arrow" for number in range(len(groups)))
    return [Shard(places.done / split / name, tuple(group)) for name, group in zip(names, groups, strict=True)]


def describe(done: Path, shards: dict[str, list[Shard]], has_features: bool) -> None:
    """Write what `datasets` asks for beside the shards of every split."""
    features = WITH_STATES if has_features else FEATURES
    for split, found in shards.items():
        names = [shard.path.name for shard in found]
        sizes = [f"{shard.path.name} {shard.path.stat().st_size}" for shard in found]
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": hashlib.sha256(" ".join((split, *sizes)).encode()).hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        _write(done / split / "state.json", state)
        _write(done / split / "dataset_info.json", {"features": features.to_dict()})
    _write(done / "dataset_dict.json", {"splits": list(shards)})


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
