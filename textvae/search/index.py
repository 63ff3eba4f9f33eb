"""Search an embedded corpus: the units of a level nearest to a query."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch

from textvae.data.document import SourceDocument
from textvae.text_vae import HierarchicalTextVAE

INDEX_FILE = "index.json"


@dataclass(frozen=True)
class SearchResult:
    score: float
    """Cosine similarity of centred embeddings, in [-1, 1]."""
    document: str
    title: str | None
    text: str


class Index:
    """An embedded corpus, ready to be searched.

    Raises ValueError for a folder that is no index.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX_FILE).is_file():
            raise ValueError(f"'{folder}' is no index: it has no {INDEX_FILE}; make one with textvae embed")
        description = json.loads((self.folder / INDEX_FILE).read_text(encoding="utf-8"))
        self.run: str = description["run"]
        self.levels: dict[str, int] = description["levels"]

    def search(
        self, model: HierarchicalTextVAE, query: str, level: str | None = None, k: int = 10
    ) -> list[SearchResult]:
        """The `k` units of `level` (default: the top) nearest to the query, a one-sentence document."""
        level = level or next(iter(self.levels))
        if level not in self.levels:
            raise ValueError(f"the index has no level '{level}'; it has {', '.join(self.levels)}")
        units = datasets.load_from_disk(str(self.folder / level)).with_format("numpy", columns=["embedding"])
        corpus = torch.from_numpy(np.stack(units["embedding"][:]))
        sought = model.encode([SourceDocument(id="query", text=query)])[level].mean.float().cpu()
        # All posterior means share a large common part; what tells units apart is what is left of it.
        centre, spread = corpus.mean(0), corpus.std(0).clamp(min=1e-6)
        scores = torch.nn.functional.cosine_similarity((corpus - centre) / spread, (sought[:1] - centre) / spread)
        best = scores.topk(min(k, len(scores)))
        plain = units.with_format(None)
        found = []
        for score, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row = plain[number]
            found.append(SearchResult(score, row["document"], row["title"], row["text"]))
        return found
