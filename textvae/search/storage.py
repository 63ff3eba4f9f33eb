"""The files of an index.

INDEX/index.json                            the model that made it; units, mean and deviation of every level
INDEX/LEVEL/shard-00000-of-00002.arrow      Arrow stream, a row per unit in the order of the data, a shard per process

Shapes: U units of a level, Z latent size, F size of the encoder's features.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow
import pyarrow.compute
from pydantic import Field, NonNegativeInt, TypeAdapter, ValidationError

from textvae.damage import verify
from textvae.search.origin import ModelOrigin

INDEX_FILE = "index.json"
FORMAT = 6
_LEVEL_NAME = re.compile(r"\w[\w-]*")

SMALLEST_DEVIATION = 1e-6
"""Of a dimension that varies."""

Numbers = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]


def unit_schema(size: int, feature_size: int = 0) -> pyarrow.Schema:
    """Columns of a level whose latents have `size` dimensions; of the lowest with its `feature_size` features."""
    features = {"features": pyarrow.list_(pyarrow.float16(), feature_size)} if feature_size else {}
    return pyarrow.schema(
        features
        | {
            "row": pyarrow.int64(),  # of the document in the data
            "document": pyarrow.string(),  # its id
            "source_id": pyarrow.string(),
            "title": pyarrow.string(),
            "label": pyarrow.string(),
            "parent": pyarrow.int64(),  # row of the unit of the next level above, in the same shard; null at the top
            "text": pyarrow.string(),
            "normaliser": pyarrow.float32(),  # of its words (`search.words`); null for a model without topics
            "embedding": pyarrow.list_(pyarrow.float32(), size),
        }
    )


@dataclass(frozen=True)
class LevelDescription:
    units: list[NonNegativeInt]
    """Of every shard."""
    mean: Numbers
    """[Z] of the embeddings of all units."""
    std: Numbers
    """[Z] their standard deviation; zero where there is but one."""
    sha256: list[str]
    """Of every shard."""
    features: NonNegativeInt = 0
    """F of the lowest level, whose units are stored with the pretrained encoder's pooled states, too; 0 above."""

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
class IndexDescription:
    """What `index.json` says."""

    format: int
    model: ModelOrigin
    documents: int
    sources: int
    levels: Annotated[dict[str, LevelDescription], Field(min_length=1)]
    """By level, top first."""

    @classmethod
    def read(cls, folder: Path) -> IndexDescription:
        """Raises ValueError for a folder that is no index, or a damaged one."""
        path = folder / INDEX_FILE
        if not path.is_file():
            raise ValueError(f"'{folder}' is no index: it has no {INDEX_FILE}; make one with textvae embed")
        again = "make it again with textvae embed"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict) or values.get("format") != FORMAT:
                raise ValueError(f"'{folder}' is no index of this version of textvae; {again}")
            found = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(f"'{path}' is damaged ({place}: {first['msg']}); {again}") from None
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"'{path}' is not JSON ({error}); {again}") from None
        for name, level in found.levels.items():
            # Names are folders: those of a foreign index must not lead out of it.
            if not _LEVEL_NAME.fullmatch(name):
                raise ValueError(f"'{path}' names a level {name!r}, which is no name of a level; {again}")
            for one, other in (("mean", "std"), ("units", "sha256")):
                if len(getattr(level, one)) != len(getattr(level, other)):
                    raise ValueError(
                        f"'{path}' is damaged (levels.{name}: {one} and {other} differ in length); {again}"
                    )
        return found

    def write(self, folder: Path) -> None:
        (folder / INDEX_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviations of rows, which add up without loss (Chan et al. 1979)."""

    count: int
    mean: np.ndarray
    """[Z] in float64."""
    squares: np.ndarray
    """[Z] in float64."""

    @classmethod
    def of(cls, rows: np.ndarray) -> Moments:
        """rows: [R, Z], any number."""
        rows = rows.astype(np.float64)
        mean = rows.mean(0) if len(rows) else np.zeros(rows.shape[1])
        return cls(len(rows), mean, np.square(rows - mean).sum(0))

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        if not count:
            return self
        shift = other.mean - self.mean
        squares = self.squares + other.squares + np.square(shift) * (self.count * other.count / count)
        return Moments(count, self.mean + shift * (other.count / count), squares)

    @property
    def std(self) -> np.ndarray:
        """[Z], without correction: a single row has none."""
        return np.sqrt(self.squares / max(1, self.count))


class ShardWriter:
    """One process's rows of one level, written as they come."""

    def __init__(self, folder: Path, process: int, num_processes: int, size: int, feature_size: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.schema = unit_schema(size, feature_size)
        self.moments = Moments.of(np.empty((0, size)))
        self.path = _shard(folder, process, num_processes)
        self._file = pyarrow.OSFile(str(self.path), "wb")
        self._stream = pyarrow.ipc.new_stream(self._file, self.schema)

    def write(
        self, embeddings: np.ndarray, columns: Mapping[str, Sequence[Any]], features: np.ndarray | None = None
    ) -> None:
        """embeddings: [R, Z] in float32; features: [R, F] in float16, where the schema has them; columns: the rest."""
        vectors = {"embedding": _rows(embeddings)} | ({} if features is None else {"features": _rows(features)})
        arrays = [vectors[f.name] if f.name in vectors else pyarrow.array(columns[f.name], f.type) for f in self.schema]
        self._stream.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=self.schema))
        self.moments += Moments.of(embeddings)

    def close(self) -> None:
        self._stream.close()
        self._file.close()


def _rows(values: np.ndarray) -> pyarrow.FixedSizeListArray:
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), values.shape[1])


def read_level(folder: Path, index: IndexDescription, name: str) -> pyarrow.Table:
    """All units of a level, mapped from the files, not read; `parent` is a row of the level above.

    Raises ValueError for files that are missing or damaged.
    """
    level, names = index.levels[name], list(index.levels)
    above = index.levels[names[names.index(name) - 1]].units if name != names[0] else [0] * len(level.units)
    parts = []
    for number, count in enumerate(level.units):
        path = _shard(folder / name, number, len(level.units))
        verify(folder, {path.relative_to(folder).as_posix(): level.sha256[number]}, "make it again with textvae embed")
        try:
            with pyarrow.memory_map(str(path)) as file:
                table = pyarrow.ipc.open_stream(file).read_all()
            if table.schema != unit_schema(len(level.mean), level.features) or len(table) != count:
                raise pyarrow.ArrowInvalid(f"{len(table)} rows of {', '.join(table.schema.names)}, not {count}")
            vectors = ("embedding", "features") if level.features else ("embedding",)
            for column in ("parent", *vectors):
                table.column(column).validate(full=True)
            if any(table.column(column).null_count for column in vectors):
                raise pyarrow.ArrowInvalid("an embedding is null")
        except (pyarrow.ArrowException, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"'{path}' is damaged ({reason}); make the index again with textvae embed") from None
        parents = pyarrow.compute.add(table.column("parent"), sum(above[:number]))
        parts.append(table.set_column(table.schema.get_field_index("parent"), "parent", parents))
    return pyarrow.concat_tables(parts)


def ancestors(levels: Mapping[str, pyarrow.Table]) -> dict[str, np.ndarray]:
    """By level, for every unit of the lowest, the row of the unit that it is in: rising, as units are in reading order.

    `levels`: the units of levels that follow each other, top first, as `read_level` gives them.
    """
    names = list(levels)[::-1]
    found = {names[0]: np.arange(len(levels[names[0]]))}
    for below, above in pairwise(names):
        found[above] = levels[below].column("parent").to_numpy()[found[below]]
    return found


def embeddings_of(units: pyarrow.Table, column: str = "embedding") -> Iterator[np.ndarray]:
    """[R, Z] in float32 (`features`: [R, F] in float16), a view of the file, one part of the units after the other."""
    for chunk in units.column(column).chunks:
        yield chunk.flatten().to_numpy().reshape(len(chunk), -1)


def _shard(folder: Path, process: int, num_processes: int) -> Path:
    return folder / f"shard-{process:05}-of-{num_processes:05}.arrow"
