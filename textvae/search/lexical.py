"""Search by the very words of a query: BM25 (Robertson & Zaragoza 2009), by the library bm25s.

Words are what lies between spaces and punctuation: in a language without them, such as Chinese, nothing is found by it.

Shapes: U texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np


class Lexical:
    """Texts, ready to be searched; `language` decides which words are too common to count."""

    def __init__(self, texts: Sequence[str], language: str) -> None:
        self.number = len(texts)
        self.stopwords = "en" if language.split("-")[0] == "en" else None
        corpus = bm25s.tokenize(list(texts), stopwords=self.stopwords, show_progress=False)
        self.index = None
        if corpus.vocab:
            self.index = bm25s.BM25()
            self.index.index(corpus, show_progress=False)

    def scores(self, query: str) -> np.ndarray:
        """[U]; all 0 where the query has no word that counts."""
        (words,) = bm25s.tokenize([query], stopwords=self.stopwords, show_progress=False, return_ids=False)
        if self.index is None or not words:
            return np.zeros(self.number, dtype=np.float32)
        return self.index.get_scores(words)
