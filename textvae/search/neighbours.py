"""The nearest units without looking at all of them: approximate indexes of the encoder's directions, by faiss.

INDEX/neighbours/neighbours.json    of which index they are, and their files
INDEX/neighbours/LEVEL.faiss        one of a level's units, by their numbers, eight bits a dimension

They are made of an index and hold nothing that it does not: whoever changes the index removes them. What they find is
scored by the index itself, so that they decide what is looked at and not what it is worth.

`hnsw`: a graph of neighbours (Malkov & Yashunin 2018, "Efficient and robust approximate nearest neighbor search using
Hierarchical Navigable Small World graphs"), more exact; `ivf`: lists around centroids (Jegou et al. 2011, "Product
Quantization for Nearest Neighbor Search", the inverted file), smaller and made in a quarter of the time.

Shapes: U units of a level, F size of the encoder's features, n units that are found.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from textvae.atomic import PARTIAL, remove, whole_folder, write_json
from textvae.damage import checksums, reading, sha256_of, verify
from textvae.lock import locked
from textvae.search.storage import INDEX_FILE, IndexDescription, parse, read_json
from textvae.search.units import Directions, read_level

logger = logging.getLogger("textvae")

Kind = Literal["hnsw", "ivf"]

FOLDER = "neighbours"
DESCRIPTION_FILE = "neighbours.json"
AGAIN = "make it again with textvae neighbours"

LINKS, BUILD_WIDTH = 16, 80
"""Of a unit in a graph, and candidates when it is put in."""
SEARCH_WIDTH = 2
"""Candidates of a search in a graph, times those that are wanted."""
LISTS, PROBED = 4.0, 0.15
"""Centroids for each square root of the units; the share of them whose lists are read."""
TRAINING = 40
"""Units that each centroid is fitted to."""
BLOCK = 1 << 14
"""Directions that are put in at a time."""


@dataclass(frozen=True)
class NeighboursDescription:
    """What `neighbours.json` says."""

    index: str
    """SHA-256 of the `index.json` that they were made of."""
    kind: Kind
    files: Annotated[dict[str, str], Field(min_length=1)]
    """SHA-256 of the file of every level."""


def build_neighbours(folder: str | Path, kind: Kind) -> None:
    """Make those of the index `folder`, in place of any others.

    Raises ValueError as `Index` does, without faiss, and where another process writes to the index.
    """
    folder, faiss = Path(folder), _faiss()
    IndexDescription.read(folder)  # which refuses what is no index
    with locked(folder):
        described = IndexDescription.read(folder)
        _remove(folder)
        with whole_folder(folder / FOLDER) as aside:
            for level in described.levels:
                directions = Directions(read_level(folder, described, level))
                faiss.write_index(_built(faiss, directions, kind), str(aside / f"{level}.faiss"))
            files = {name.removesuffix(".faiss"): sha for name, sha in checksums(aside, aside.iterdir()).items()}
            of = NeighboursDescription(sha256_of(folder / INDEX_FILE), kind, files)
            write_json(aside / DESCRIPTION_FILE, asdict(of))


def remove_neighbours(folder: Path) -> None:
    """Of an index that is to be changed: they may hold what goes, and lack what comes."""
    had = (folder / FOLDER).exists()
    _remove(folder)
    if had:
        logger.warning("'%s' has changed: to search it without looking at everything, run textvae neighbours", folder)


def _remove(folder: Path) -> None:
    """Those that killed makers began, too."""
    remove(folder / FOLDER)
    for path in folder.glob(f"{FOLDER}*{PARTIAL}"):
        shutil.rmtree(path)


class Neighbours:
    """Those of an index, mapped from their files."""

    def __init__(self, kind: Kind, indexes: Mapping[str, Any]) -> None:
        """`indexes`: faiss's own, by level."""
        self.kind, self.indexes = kind, indexes

    @classmethod
    def of(cls, folder: Path) -> Neighbours | None:
        """Of the index `folder` as it is now; None where there are none, or (with a warning) where they are of what it
        was. Raises ValueError for damaged ones, and without faiss."""
        path = folder / FOLDER / DESCRIPTION_FILE
        if not path.is_file():
            return None
        described = parse(NeighboursDescription, read_json(path), path)
        if described.index != sha256_of(folder / INDEX_FILE):
            logger.warning("'%s' has changed since its neighbours were found: all of it is searched; %s", folder, AGAIN)
            return None
        return cls(described.kind, {level: _read(path.parent, level, sha) for level, sha in described.files.items()})

    def nearest(self, level: str, query: np.ndarray, number: int, left: np.ndarray | None = None) -> np.ndarray:
        """[n] at most `number` units of a level whose directions are near to `query` [F], among those that `left` [U]
        leaves."""
        faiss, index = _faiss(), self.indexes[level]
        selector = None
        if left is not None:
            bits = np.packbits(left, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        if self.kind == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=SEARCH_WIDTH * number, sel=selector)
        else:
            parameters = faiss.SearchParametersIVF(nprobe=max(1, math.ceil(PROBED * index.nlist)), sel=selector)
        (found,) = index.search(query[None].astype(np.float32), number, params=parameters)[1]
        return found[found >= 0]


def _read(folder: Path, level: str, sha256: str) -> Any:
    faiss, path = _faiss(), folder / f"{level}.faiss"
    verify(folder, {path.name: sha256}, AGAIN)
    with reading(path, AGAIN):
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)


def _built(faiss: ModuleType, directions: Directions, kind: Kind) -> Any:
    number, size = len(directions), directions.size
    bits, product = faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        index = faiss.IndexHNSWSQ(size, bits, LINKS, product)
        index.hnsw.efConstruction = BUILD_WIDTH
        seen = number
    else:
        lists = max(1, min(round(LISTS * math.sqrt(number)), number // TRAINING))
        index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(size), size, lists, bits, product)
        index.cp.min_points_per_centroid = 1
        seen = TRAINING * lists
    drawn = np.random.default_rng(0).choice(number, min(number, seen, 1 << 18), replace=False)
    index.train(directions[np.sort(drawn)])
    for block in directions.blocks(BLOCK):
        index.add(block)
    return index


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError:
        raise ValueError(
            "neighbours need faiss: pip install 'textvae[neighbours]', or search with --exact, which does without them"
        ) from None
    return faiss
