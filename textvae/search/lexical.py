"""Search by the very words of a query: BM25 (Robertson & Zaragoza 2009), in the variant of Lucene (Kamphuis et al.
2020), which is that of the library bm25s.

Shapes: U texts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from textvae.search.postings import Postings, WordCounter, words_of

SATURATION, NORMALISATION = 1.5, 0.75
"""k1: how soon a word that comes again counts for less; b: how much it counts for less in a longer text."""


class Lexical:
    """Texts, ready to be searched by the postings of the shards that they are in."""

    def __init__(self, shards: Sequence[Postings]) -> None:
        self.shards = shards
        self.number = sum(len(shard.lengths) for shard in shards)
        self.mean_length = sum(int(shard.lengths.sum()) for shard in shards) / max(1, self.number)

    @classmethod
    def of(cls, texts: Sequence[str], language: str) -> Lexical:
        """`language`: decides which words are too common to count."""
        counter = WordCounter(language)
        counter.add(texts)
        return cls([Postings.of(counter.table(), counter.lengths, "postings in memory")])

    def scores(self, query: str) -> np.ndarray:
        """[U] in float32; all 0 where the query has no word that counts."""
        scores = np.zeros(self.number, dtype=np.float32)
        (words,) = words_of([query])
        for word, times in Counter(words).items():
            found = [shard.find(word) for shard in self.shards]
            holders = sum(len(units) for units, _ in found)
            rarity = math.log(1 + (self.number - holders + 0.5) / (holders + 0.5))
            first = 0
            for shard, (units, counts) in zip(self.shards, found, strict=True):
                relative = shard.lengths[units] / (self.mean_length or 1)
                damping = SATURATION * (1 - NORMALISATION + NORMALISATION * relative)
                scores[first + units] += times * rarity * counts / (counts + damping)
                first += len(shard.lengths)
        return scores
