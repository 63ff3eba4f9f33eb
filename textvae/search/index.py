"""Search an embedded corpus: the units of a level nearest to a query.

Shapes: U units, Z latent size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.compute
import torch
from torch import Tensor

from textvae.search.embedder import TextEmbedder
from textvae.search.filters import Only, left_by
from textvae.search.lexical import Lexical
from textvae.search.passages import Asked, Passages
from textvae.search.postings import read_postings
from textvae.search.query import checked_query, embed_query, query_features
from textvae.search.results import Passage, SearchResult
from textvae.search.similarity import similarities
from textvae.search.storage import SMALLEST_DEVIATION, IndexDescription, LevelDescription
from textvae.search.units import ancestors, embeddings_of, read_level
from textvae.search.words import topic_head, unit_topics, word_scores
from textvae.text_vae import HierarchicalTextVAE

By = Literal["hybrid", "encoder", "bm25", "latents", "words", "both"]
"""What a unit is found by: `latents`, the cosine of standardised embeddings, in [-1, 1]; `words`, those of the query
under the unit's topics (`search.words`), nats per token; `encoder`, the passages that it is made of, as the pretrained
encoder reads them (`search.passages`), in [-1, 1]; `bm25`, the query's very words (`search.lexical`); `both`, latents
and words, and `hybrid`, encoder and BM25, each in standard deviations over the level's units, added by `WEIGHTS`."""

WEIGHTS: dict[By, tuple[float, float]] = {"both": (1.0, 1.0), "hybrid": (3.0, 1.0)}
"""By what is added: how often the first and the second count. Most units hold no word of a query, so that the few that
do lie more deviations above the mean by BM25 than the best do by the encoder, and would decide alone."""


class Index:
    """An embedded corpus, ready to be searched.

    A level is opened and checked once, and stays mapped. Raises ValueError for a folder that is no index.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.description = IndexDescription.read(self.folder)
        self._open: dict[str, pyarrow.Table] = {}
        self._known_topics: dict[str, tuple[Tensor, Tensor]] = {}
        self._known_words: dict[str, Lexical] = {}
        self._known_passages: Passages | None = None

    @property
    def levels(self) -> tuple[str, ...]:
        """Top first."""
        return tuple(self.description.levels)

    def find_model(self, named: str | None = None) -> str:
        """The run folder or Hub name of the model that made the index: `named`, or where it was then.

        Raises ValueError where it is not to be found, and for another model: its latents mean something else.
        """
        return self.description.model.find(self.folder, named)

    def embedder(self, model: HierarchicalTextVAE, level: str | None = None) -> TextEmbedder:
        """Texts -> vectors that are compared as units of `level` (default: the top) are; `model`: as of `search`."""
        level = self.levels[0] if level is None else level
        self._check(level, 1)
        return TextEmbedder(model, level, self.description.levels)

    def search(
        self,
        model: HierarchicalTextVAE,
        query: str,
        level: str | None = None,
        k: int = 10,
        by: By = "hybrid",
        only: Only | None = None,
    ) -> list[SearchResult]:
        """The `k` units (or all, if there are fewer) of `level` (default: the top) that fit the query best, found `by`
        what that says among those that `only` leaves, each with its passage that is nearest to the query.

        `model`: the one of `find_model`. Raises ValueError for an empty query, for words where the model has no topics,
        and as `nearest` does.
        """
        level = self.levels[0] if level is None else level
        self._check(level, k)
        left = self._left(level, only)
        asked = self._passages.ask(query_features(model, query))
        return self._best(self._scores(model, query, level, by, asked), level, k, left, asked)

    def scores(self, model: HierarchicalTextVAE, query: str, level: str, by: By) -> np.ndarray:
        """[U] of all units of a level, in their order. Raises ValueError as `search` does."""
        asked = self._passages.ask(query_features(model, query)) if by in ("encoder", "hybrid") else None
        return self._scores(model, query, level, by, asked)

    def _scores(self, model: HierarchicalTextVAE, query: str, level: str, by: By, asked: Asked | None) -> np.ndarray:
        """`asked`: the query, where it is sought by the encoder."""
        found = []
        if by in ("latents", "both"):
            found.append(self._similarities(embed_query(model, query, level), level))
        if by in ("words", "both"):
            found.append(word_scores(model, *self._topics(model, level), checked_query(query)).cpu().numpy())
        if by in ("encoder", "hybrid") and asked is not None:
            found.append(self._passages.scores(asked, level))
        if by in ("bm25", "hybrid"):
            found.append(self._lexical(level).scores(checked_query(query)))
        if len(found) == 1:
            return found[0]
        standard = [(scores - scores.mean()) / max(scores.std(), SMALLEST_DEVIATION) for scores in found]
        return sum(weight * scores for weight, scores in zip(WEIGHTS[by], standard, strict=True))

    def nearest(self, sought: np.ndarray, level: str, k: int = 10, only: Only | None = None) -> list[SearchResult]:
        """The `k` units of `level` nearest to an embedding [Z], among those that `only` leaves.

        Raises ValueError for a level or a field that is not there, where nothing is left, a `k` below 1, an embedding
        of another size and a damaged index.
        """
        self._check(level, k)
        return self._best(self._similarities(sought, level), level, k, self._left(level, only))

    def _left(self, level: str, only: Only | None) -> np.ndarray | None:
        return left_by(only, self._units(level), str(self.folder))

    def _similarities(self, sought: np.ndarray, level: str) -> np.ndarray:
        described = self._check(level, 1)
        if len(sought) != len(described.mean):
            raise ValueError(
                f"the model has {len(sought)} dimensions at level '{level}', the index {len(described.mean)}: search "
                "with the model that made it"
            )
        scores = np.concatenate([similarities(part, sought, described) for part in embeddings_of(self._units(level))])
        if not np.isfinite(scores).all():
            raise ValueError(f"'{self.folder / level}' is damaged: embeddings are not finite; embed the corpus again")
        return scores

    def _best(
        self, scores: np.ndarray, level: str, k: int, left: np.ndarray | None, asked: Asked | None = None
    ) -> list[SearchResult]:
        """`left`: [U] as `_left` gives it; `asked`: the query, where there is one for passages to be near to."""
        number = len(scores)
        if left is not None:
            scores, number = np.where(left, scores, -np.inf), int(left.sum())
        best = torch.from_numpy(scores).topk(min(k, number))
        found = []
        for score, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row, passage = self._row(self._units(level), number), None
            if asked is not None and level != self.levels[-1]:
                passage = Passage(*self._passages.best(asked, level, number))
            found.append(SearchResult(score, row["document"], row["title"], row["label"], row["text"], passage))
        return found

    @property
    def _passages(self) -> Passages:
        if self._known_passages is None:
            try:
                self._known_passages = Passages({name: self._units(name) for name in self.levels})
            except (ValueError, IndexError) as error:
                raise ValueError(f"'{self.folder}' is damaged ({error}); embed the corpus again") from None
        return self._known_passages

    def _lexical(self, level: str) -> Lexical:
        if level not in self._known_words:
            lengths, first, shards = self._units(level).column("length").to_numpy(), 0, []
            for name in self.description.shards:
                described = self.description.shard(self.folder, name).levels[level]
                of_shard = lengths[first : first + described.units]
                shards.append(read_postings(self.folder, name, level, described.postings, of_shard))
                first += described.units
            self._known_words[level] = Lexical(shards)
        return self._known_words[level]

    def _topics(self, model: HierarchicalTextVAE, level: str) -> tuple[Tensor, Tensor]:
        """Topics [U, K] of all units of a level, and their normalisers [U]."""
        if level not in self._known_topics:
            topic_head(model)
            units = {name: self._units(name) for name in self.levels[: self.levels.index(level) + 1]}
            rows = ancestors(units)
            z = {
                name: torch.from_numpy(np.concatenate(list(embeddings_of(of_level)))[rows[name]]).to(model.device)
                for name, of_level in units.items()
            }
            divisors = self._units(level).column("normaliser").to_numpy()
            if not np.isfinite(divisors).all():
                raise ValueError(
                    f"'{self.folder / level}' is damaged: normalisers are not finite; embed the corpus again"
                )
            topics = unit_topics(model, z)
            self._known_topics[level] = topics, torch.tensor(divisors, device=model.device)
        return self._known_topics[level]

    def embedding(self, document: str, level: str | None = None) -> np.ndarray:
        """[U, Z] of the units of `level` (default: the top) of the document with the id `document`, in reading order.

        Raises ValueError for a level or an id that is not there, and a damaged index.
        """
        level = self.levels[0] if level is None else level
        self._check(level, 1)
        units = self._units(level)
        found = units.filter(pyarrow.compute.equal(units.column("document"), document))
        if not len(found):
            raise ValueError(
                f"'{self.folder}' holds no document with the id '{document}'; its first is "
                f"'{units.column('document')[0].as_py()}'"
            )
        if len(found.column("row").unique()) > 1:
            raise ValueError(
                f"'{self.folder}' holds several documents with the id '{document}'; embed them with ids of their own"
            )
        return np.concatenate(list(embeddings_of(found)))

    def rows(self, level: str) -> np.ndarray:
        """[U] number, among all documents that were ever embedded, of the one that each unit of a level is of: its row
        in the data, where they were embedded at once."""
        return self._units(level).column("row").to_numpy()

    def _units(self, level: str) -> pyarrow.Table:
        if level not in self._open:
            self._open[level] = read_level(self.folder, self.description, level)
        return self._open[level]

    def _check(self, level: str, k: int) -> LevelDescription:
        if level not in self.levels:
            raise ValueError(f"the index has no level '{level}'; it has {', '.join(self.levels)}")
        if k < 1:
            raise ValueError(f"k is {k}; it must be 1 or more")
        return self.description.levels[level]

    def _row(self, units: pyarrow.Table, number: int) -> dict[str, Any]:
        part = units.slice(number, 1)
        try:
            part.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"'{self.folder}' is damaged ({reason}); embed the corpus again") from None
        return part.to_pylist()[0]
