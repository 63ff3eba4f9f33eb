"""Which documents of a split are renamed, and which go to validation and test: of every document sixteen bytes are
read, and some forty are in memory for a moment.

`DIVISION/SPLIT.destination.npy`   uint8, for every row of the split the number of its destination in `SPLITS`
`DIVISION/SPLIT.renamed.npy`       int64, the rows whose id another row had before, ascending
`DIVISION/SPLIT.number.npy`        int64, for each of those what is appended to its id
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from textvae.data.prepare.parts import RawPart, hash_of, place_of, save_array
from textvae.data.sources.folder import SPLITS


@dataclass(frozen=True)
class CarveOptions:
    """Shares of `train` that become the splits which the source lacks."""

    validation_fraction: float
    test_fraction: float
    seed: int


@dataclass(frozen=True)
class PartDivision:
    destination: np.ndarray
    """[documents of the part] number in `SPLITS`."""
    numbers: Mapping[int, int]
    """Row in the part -> what is appended to its id."""

    def name(self, row: int, name: str) -> str:
        """The id of a row that was called `name`."""
        return f"{name}~{self.numbers[row]}" if row in self.numbers else name


def divide(parts: Sequence[RawPart], options: CarveOptions, folder: Path) -> None:
    """Write the division of all splits into `folder`. A missing split is carved from `train`, by places that depend on
    ids and seed alone, so that it stays the same documents when others come or go; at least one document goes to each
    whose share is not 0.

    Raises ValueError if there is no `train` to take from, or too little of it.
    """
    splits = list(dict.fromkeys(part.split for part in parts))
    shares = {"validation": options.validation_fraction, "test": options.test_fraction}
    missing = {split: share for split, share in shares.items() if split not in splits and share > 0}
    if "train" not in splits:
        raise ValueError(f"the source has the splits {splits}, but no 'train'")
    for split in splits:
        of_split = [part for part in parts if part.split == split]
        names = _Names(of_split)
        hashes, places = np.concatenate([part.numbers() for part in of_split]).T
        renamed, numbers = repeated(hashes, names)
        for row, number in zip(renamed.tolist(), numbers.tolist(), strict=True):
            places[row] = place_of(f"{names(row)}~{number}", options.seed)
        destination = carve(places, missing if split == "train" else {}, split)
        for name, values in (("destination", destination), ("renamed", renamed), ("number", numbers)):
            save_array(folder / f"{split}.{name}.npy", values)


def division_of(part: RawPart, folder: Path) -> PartDivision:
    """What `divide` wrote into `folder` about the documents of one part."""
    destination, renamed, numbers = (
        np.load(folder / f"{part.split}.{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in ("destination", "renamed", "number")
    )
    first, last = np.searchsorted(renamed, (part.rows.start, part.rows.stop))
    rows = (renamed[first:last] - part.first).tolist()
    return PartDivision(np.asarray(destination[part.rows]), dict(zip(rows, numbers[first:last].tolist(), strict=True)))


def repeated(hashes: np.ndarray, name_of: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
    """The rows, ascending, whose hash an earlier row has, and for each a number from 2 on, so that "NAME~NUMBER" is
    nobody else's: as `corpus.unique_names`.

    hashes: [rows] of the names that `name_of` gives, which is asked for repeated rows alone, ascending.
    """
    order = np.argsort(hashes, kind="stable")
    known = hashes[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = known[1:] != known[:-1]
    again = np.flatnonzero(~is_first)
    starts = np.flatnonzero(is_first)
    rank = again - starts[np.searchsorted(starts, again) - 1]
    by_row = np.argsort(order[again])
    rows, numbers = order[again][by_row], rank[by_row] + 1
    shifted: dict[int, int] = {}
    for index, row in enumerate(rows.tolist()):
        name, own = name_of(row), int(hashes[row])
        number = int(numbers[index]) + shifted.get(own, 0)
        while _holds(known, hash_of(f"{name}~{number}")):
            shifted[own] = shifted.get(own, 0) + 1
            number += 1
        numbers[index] = number
    return rows, numbers


def _holds(ordered: np.ndarray, value: int) -> bool:
    place = np.searchsorted(ordered, np.uint64(value))
    return bool(place < len(ordered) and int(ordered[place]) == value)


def carve(places: np.ndarray, shares: Mapping[str, float], split: str = "train") -> np.ndarray:
    """[rows] number in `SPLITS` of the destination of each: the shares in the order of the places, the rest in `split`.

    places: [rows] below 2**64. Raises ValueError where nothing is left.
    """
    destination = np.full(len(places), SPLITS.index(split), dtype=np.uint8)
    if not shares:
        return destination
    fractions = places / 2.0**64
    order = np.argsort(fractions, kind="stable")
    taken, threshold = 0, 0.0
    for name, share in shares.items():
        threshold += share
        below = int(np.count_nonzero(fractions < threshold))
        count = max(1, below - taken)
        destination[order[taken : taken + count]] = SPLITS.index(name)
        taken += count
    if taken >= len(places):
        raise ValueError(
            f"{len(places)} documents are too few to take {' and '.join(shares)} from; set validation_fraction "
            "and test_fraction to 0, or give these splits as files of their own"
        )
    return destination


class _Names:
    """The ids of rows, of which those of one part are in memory: cheap where rows ascend."""

    def __init__(self, parts: Sequence[RawPart]) -> None:
        self._parts = parts
        self._ends = np.cumsum([part.documents for part in parts])
        self._read = -1
        self._ids: list[str] = []

    def __call__(self, row: int) -> str:
        number = int(np.searchsorted(self._ends, row, side="right"))
        if number != self._read:
            self._read, self._ids = number, self._parts[number].ids()
        return self._ids[row - self._parts[number].first]
