"""Which words are in which units, how often: what BM25 counts, stored with every shard.

Counts add up over shards. So nothing is made anew, and nothing is built when an index is opened, whatever was appended
to it or deleted from it. The words of a title count for whole documents, as if it stood before the text. Words are
found by the library bm25s: what lies between spaces and punctuation, two letters or more. In a language without spaces,
such as Chinese, nothing is found by it.

Shapes: U units of a level in a shard, W words, P units that a word is in.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import pyarrow

from textvae.damage import verify
from textvae.search.storage import AGAIN

SCHEMA = pyarrow.schema(
    {
        "word": pyarrow.large_string(),  # in the order of code points, none twice
        "units": pyarrow.large_list(pyarrow.int32()),  # rows of the units of this shard that it is in, rising
        "counts": pyarrow.large_list(pyarrow.int32()),  # how often it is in each of them
    }
)


def words_of(texts: Sequence[str], language: str | None = None) -> list[list[str]]:
    """In small letters; `language` decides which words are too common to count (None: none are)."""
    stopwords = "en" if language is not None and language.split("-")[0] == "en" else None
    return bm25s.tokenize(list(texts), stopwords=stopwords, show_progress=False, return_ids=False)


def with_title(title: str | None, text: str) -> str:
    """What a whole document is found by."""
    return f"{title}\n\n{text}" if title else text


class WordCounter:
    """Counts the words of units that come in parts."""

    def __init__(self, language: str) -> None:
        """As in `words_of`."""
        self.language = language
        self._numbers: dict[str, int] = {}
        self._words, self._lengths = array("q"), array("i")

    def add(self, texts: Sequence[str]) -> np.ndarray:
        """[R] int32: how many words of each text count."""
        found = words_of(texts, self.language)
        for words in found:
            self._words.extend(self._numbers.setdefault(word, len(self._numbers)) for word in words)
        lengths = list(map(len, found))
        self._lengths.extend(lengths)
        return np.asarray(lengths, dtype=np.int32)

    @property
    def lengths(self) -> np.ndarray:
        """[U] int32, of all texts."""
        return np.asarray(self._lengths, dtype=np.int32)

    def table(self) -> pyarrow.Table:
        """A row for each of the W words, as `SCHEMA` says."""
        vocabulary = sorted(self._numbers)
        rank = np.empty(len(vocabulary), dtype=np.int64)
        rank[[self._numbers[word] for word in vocabulary]] = np.arange(len(vocabulary))
        num_units = max(1, len(self._lengths))
        places = np.repeat(np.arange(len(self._lengths)), self.lengths)
        pairs, counts = np.unique(rank[np.asarray(self._words)] * num_units + places, return_counts=True)
        offsets = pyarrow.array(np.searchsorted(pairs // num_units, np.arange(len(vocabulary) + 1)))
        lists = [
            pyarrow.LargeListArray.from_arrays(offsets, pyarrow.array(values.astype(np.int32)))
            for values in (pairs % num_units, counts)
        ]
        return pyarrow.Table.from_arrays([pyarrow.array(vocabulary, pyarrow.large_string()), *lists], schema=SCHEMA)

    def write(self, path: Path) -> None:
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, SCHEMA) as stream:
            stream.write_table(self.table())


@dataclass(frozen=True)
class Postings:
    """The words of one level of a shard."""

    words: pyarrow.LargeStringArray
    units: pyarrow.LargeListArray
    counts: pyarrow.LargeListArray
    lengths: np.ndarray
    """[U] words of each unit that count."""
    name: str
    """What errors call it."""

    @classmethod
    def of(cls, table: pyarrow.Table, lengths: np.ndarray, name: str) -> Postings:
        """`table`: of `SCHEMA`. Raises ValueError for one that does not fit it."""
        try:
            if table.schema != SCHEMA:
                raise pyarrow.ArrowInvalid(f"its columns are {', '.join(table.schema.names)}")
            table.validate(full=True)
            # Of a mapped file's single batch, nothing is copied.
            words, units, counts = (column.combine_chunks() for column in table.columns)
            if any(part.null_count for part in (words, units, counts, units.values, counts.values)):
                raise pyarrow.ArrowInvalid("a value is null")
            if not units.offsets.equals(counts.offsets):
                raise pyarrow.ArrowInvalid("units and counts differ in number")
        except pyarrow.ArrowException as error:
            raise ValueError(f"{name} is damaged ({str(error).splitlines()[0]}); {AGAIN}") from None
        return cls(words, units, counts, lengths, name)

    def find(self, word: str) -> tuple[np.ndarray, np.ndarray]:
        """[P] the rows of the units that a word is in, and [P] how often. Raises ValueError for what cannot be."""
        first, after = 0, len(self.words)
        while first < after:
            middle = (first + after) // 2
            if self.words[middle].as_py() < word:
                first = middle + 1
            else:
                after = middle
        if first == len(self.words) or self.words[first].as_py() != word:
            return np.empty(0, np.int32), np.empty(0, np.int32)
        units, counts = self.units[first].values.to_numpy(), self.counts[first].values.to_numpy()
        if len(units) and (units.min() < 0 or units.max() >= len(self.lengths) or counts.min() < 1):
            raise ValueError(f"{self.name} is damaged (of '{word}'); {AGAIN}")
        return units, counts


def postings_file(shard: Path, level: str) -> Path:
    return shard / f"{level}.postings.arrow"


def read_postings(folder: Path, shard: str, level: str, sha256: str, lengths: np.ndarray) -> Postings:
    """Of one level of a shard of the index `folder`, mapped, not read. Raises ValueError for a file that is missing or
    damaged."""
    path = postings_file(folder / shard, level)
    verify(folder, {path.relative_to(folder).as_posix(): sha256}, AGAIN)
    try:
        with pyarrow.memory_map(str(path)) as file:
            table = pyarrow.ipc.open_stream(file).read_all()
    except (pyarrow.ArrowException, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"'{path}' is damaged ({reason}); {AGAIN}") from None
    return Postings.of(table, lengths, f"'{path}'")
