"""What an index says of itself, in JSON.

INDEX/index.json                    the model that made it; units, mean and deviation of every level; its shards
INDEX/embedding.json                what was embedded into it last, and how (`search.resume`)
INDEX/SHARD/shard.json              a shard: its documents, in the order of the data; of every level units and moments
INDEX/SHARD/LEVEL.arrow             the units of a level (`search.units`)
INDEX/SHARD/LEVEL.postings.arrow    their words (`search.postings`)
INDEX/neighbours/                   made of all this, and not part of it (`search.neighbours`)

A shard is whole or not there, and is part of the index once `index.json` names it.

Shapes: Z latent size, F size of the encoder's features.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from textvae.atomic import write_json
from textvae.damage import verify
from textvae.search.moments import Moments
from textvae.search.origin import ModelOrigin

T = TypeVar("T")

INDEX_FILE = "index.json"
SHARD_FILE = "shard.json"
FORMAT = 9
AGAIN = "make it again with textvae embed"
"""What to do about a damaged file."""
_LEVEL_NAME = re.compile(r"\w[\w-]*")
_SHARD_NAME = re.compile(r"shard-\d{12}(-\d+)?")

SMALLEST_DEVIATION = 1e-6
"""Of a dimension that varies."""

Numbers = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]


@dataclass(frozen=True)
class LevelDescription:
    units: NonNegativeInt
    mean: Numbers
    """[Z] of the embeddings of all units."""
    std: Numbers
    """[Z] their standard deviation; zero where there is but one."""

    @property
    def varies(self) -> bool:
        """Whether anything tells the units apart. A single one is compared as it is."""
        return any(deviation > SMALLEST_DEVIATION for deviation in self.std)

    def standardised(self, embeddings: np.ndarray) -> np.ndarray:
        """[.., Z] in float32, to be compared by their cosines: less the mean, in units of the deviation.

        All posterior means share a large common part; what tells units apart is what is left of it, in units of its
        spread. Dimensions that do not vary become 0.
        """
        if not self.varies:
            return embeddings
        centre, spread = np.asarray(self.mean, dtype=np.float32), np.asarray(self.std, dtype=np.float32)
        varies = spread > SMALLEST_DEVIATION
        return (embeddings - centre) * np.where(varies, 1 / np.where(varies, spread, 1), 0).astype(np.float32)


@dataclass(frozen=True)
class ShardLevel:
    """One level's units of a shard."""

    units: NonNegativeInt
    mean: Numbers
    """[Z] of their embeddings."""
    squares: Numbers
    """[Z] summed squared deviations from it."""
    features: PositiveInt
    """F"""
    sha256: str
    """Of its file."""
    postings: str
    """SHA-256 of that of its words."""

    @property
    def moments(self) -> Moments:
        return Moments(self.units, np.asarray(self.mean), np.asarray(self.squares))


@dataclass(frozen=True)
class ShardDescription:
    """What `shard.json` says."""

    documents: PositiveInt
    content: str | None
    """SHA-256 of the documents as they were read (`search.resume.Content`); None for a shard that was rewritten."""
    levels: Annotated[dict[str, ShardLevel], Field(min_length=1)]
    """By level, top first."""

    @classmethod
    def read(cls, shard: Path) -> ShardDescription:
        """Raises ValueError for a damaged one."""
        return parse(cls, read_json(shard / SHARD_FILE), shard / SHARD_FILE)

    def write(self, shard: Path) -> None:
        write_json(shard / SHARD_FILE, asdict(self))


@dataclass(frozen=True)
class IndexDescription:
    """What `index.json` says."""

    format: int
    model: ModelOrigin
    dtype: str
    """Of its weights when it embedded."""
    language: str
    """Whose most common words BM25 does not count."""
    rows: PositiveInt
    """Documents that were ever embedded: every one has a number of its own, which is not given again."""
    documents: PositiveInt
    sources: PositiveInt
    levels: Annotated[dict[str, LevelDescription], Field(min_length=1)]
    """By level, top first."""
    shards: Annotated[dict[str, str], Field(min_length=1)]
    """SHA-256 of its `shard.json` by the name of every shard, in the order of the documents."""

    @classmethod
    def read(cls, folder: Path) -> IndexDescription:
        """Raises ValueError for a folder that is no index, or a damaged one."""
        path = folder / INDEX_FILE
        if not path.is_file():
            raise ValueError(f"'{folder}' is no index: it has no {INDEX_FILE}; make one with textvae embed")
        values = read_json(path)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"'{folder}' is no index of this version of textvae; {AGAIN}")
        found = parse(cls, values, path)
        # Names are folders and files: those of a foreign index must not lead out of it.
        for kind, pattern, names in (("level", _LEVEL_NAME, found.levels), ("shard", _SHARD_NAME, found.shards)):
            for name in names:
                if not pattern.fullmatch(name):
                    raise ValueError(f"'{path}' names a {kind} {name!r}, which is no name of a {kind}; {AGAIN}")
        for name, level in found.levels.items():
            if len(level.mean) != len(level.std):
                raise ValueError(f"'{path}' is damaged (levels.{name}: mean and std differ in length); {AGAIN}")
        return found

    def shard(self, folder: Path, name: str) -> ShardDescription:
        """One of `shards`, verified. Raises ValueError for a damaged one."""
        verify(folder, {f"{name}/{SHARD_FILE}": self.shards[name]}, AGAIN)
        found = ShardDescription.read(folder / name)
        if list(found.levels) != list(self.levels):
            raise ValueError(f"'{folder / name / SHARD_FILE}' is damaged: its levels are not the index's; {AGAIN}")
        return found

    def write(self, folder: Path) -> None:
        write_json(folder / INDEX_FILE, asdict(self))


def shard_name(first_row: int) -> str:
    """Of the shard whose first document had the number `first_row` when it was embedded."""
    return f"shard-{first_row:012}"


def rewritten_name(name: str) -> str:
    """Of the shard that takes the place of the shard `name`, which counts how often that happened."""
    kind, first_row, *times = name.split("-")
    return f"{kind}-{first_row}-{int(*times) + 1}"


def read_json(path: Path) -> Any:
    """Raises ValueError for a file that is not there, or no JSON."""
    if not path.is_file():
        raise ValueError(f"'{path}' is missing; {AGAIN}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"'{path}' is not JSON ({error}); {AGAIN}") from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Making one takes longer than what it is made for, and there may be many shards."""
    return TypeAdapter(kind)


def parse(kind: type[T], values: Mapping[str, Any], path: Path) -> T:
    """The dataclass that `values`, which were read from `path`, describe. Raises ValueError for another one's."""
    try:
        return cast(T, _adapter(cast(Hashable, kind)).validate_python(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"'{path}' is damaged ({place}: {first['msg']}); {AGAIN}") from None
