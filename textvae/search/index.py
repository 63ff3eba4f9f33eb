"""Search an embedded corpus: the units of a level nearest to a query.

Shapes: U units, Z latent size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
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
from textvae.search.neighbours import Neighbours
from textvae.search.passages import Passages, Some
from textvae.search.postings import read_postings
from textvae.search.query import Asked, Queries
from textvae.search.results import Passage, SearchResult
from textvae.search.similarity import similarities
from textvae.search.storage import AGAIN, SMALLEST_DEVIATION, IndexDescription, LevelDescription
from textvae.search.units import ancestors, embeddings_of, read_level
from textvae.search.words import topic_head, unit_topics, word_scores
from textvae.text_vae import HierarchicalTextVAE

By = Literal["hybrid", "encoder", "bm25", "latents", "words", "both"]
"""What a unit is found by: `latents`, the cosine of standardised embeddings, in [-1, 1]; `words`, those of the query
under the unit's topics (`search.words`), nats per token; `encoder`, the passages that it is made of, as the pretrained
encoder reads them (`search.passages`), in [-1, 1]; `bm25`, the query's very words (`search.lexical`); `both`, latents
and words, and `hybrid`, encoder and BM25, each in standard deviations over the level's units, added by `WEIGHTS`."""

PARTS: dict[By, tuple[By, By]] = {"both": ("latents", "words"), "hybrid": ("encoder", "bm25")}
"""What is added."""
WEIGHTS: dict[By, tuple[float, float]] = {"both": (1.0, 1.0), "hybrid": (3.0, 1.0)}
"""By what is added: how often the first and the second count. Most units hold no word of a query, so that the few that
do lie more deviations above the mean by BM25 than the best do by the encoder, and would decide alone."""

CANDIDATES = 200
"""Units (at least; ten for each that is wanted) that each of neighbours and words proposes where not all are looked at.
"""
FEW = 4096
"""Units that a filter leaves, all of which are looked at."""
SAMPLE = 8192
"""Passages of the units that the encoder's mean and deviation are then taken from."""


class Index:
    """An embedded corpus, ready to be searched.

    A level is opened and checked once, and stays mapped. Where neighbours were made of it (`search.neighbours`), a
    search by the encoder, or by it and words, looks at what they propose, and at everything where not (`exact`).
    Raises ValueError for a folder that is no index.
    """

    def __init__(self, folder: str | Path, exact: bool = False) -> None:
        self.folder = Path(folder)
        self.description = IndexDescription.read(self.folder)
        self._neighbours = None if exact else Neighbours.of(self.folder)
        self._open: dict[str, pyarrow.Table] = {}
        self._known_topics: dict[str, tuple[Tensor, Tensor]] = {}
        self._known_words: dict[str, Lexical] = {}
        self._known_samples: dict[str, Some] = {}

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
        self._check_model(model)
        self._check(level, 1)
        return TextEmbedder(model, level, self.description.levels)

    def search(
        self,
        model: HierarchicalTextVAE,
        query: str | Asked,
        level: str | None = None,
        k: int = 10,
        by: By = "hybrid",
        only: Only | None = None,
    ) -> list[SearchResult]:
        """The `k` units (or all, if there are fewer; by `bm25`, all that have a word of the query) of `level` (default:
        the top) that fit the query best, found `by` what that says among those that `only` leaves, each with its
        passage that is nearest to the query.

        `model`: the one of `find_model`. Raises ValueError for another one, for an empty query, for words where the
        model has no topics, and as `nearest` does.
        """
        level = self.levels[0] if level is None else level
        self._check(level, k)
        left = left_by(only, self._units(level), str(self.folder))
        asked = self._asked(model, query)
        words = self._lexical(level).scores(asked.text) if self._neighbours is not None and by == "hybrid" else None
        units = self._proposed(asked, level, k, by, left, words)
        if units is not None:
            return self._results(self._scores_of(asked, level, units, words), level, k, units, asked)
        scores = self.scores(model, asked, level, by)
        if by == "bm25":
            left = scores > 0 if left is None else left & (scores > 0)
        units = np.arange(len(scores)) if left is None else np.flatnonzero(left)
        return self._results(scores[units], level, k, units, asked)

    def scores(self, model: HierarchicalTextVAE, query: str | Asked, level: str, by: By) -> np.ndarray:
        """[U] of all units of a level, in their order, each of them looked at. Raises ValueError as `search` does."""
        return self._scores(self._asked(model, query), level, [by])[by]

    def scores_of(self, queries: Queries, level: str, kinds: Sequence[By]) -> Iterator[dict[By, np.ndarray]]:
        """For one query after the other, by each of `kinds`, the scores [U] that `scores` gives; what several kinds
        have in common is found once."""
        self._check_model(queries.model)
        for asked in queries:
            yield self._scores(asked, level, kinds)

    def _scores(self, asked: Asked, level: str, kinds: Sequence[By]) -> dict[By, np.ndarray]:
        wanted = {part for by in kinds for part in PARTS.get(by, (by,))}
        found: dict[By, np.ndarray] = {}
        if "latents" in wanted:
            found["latents"] = self._similarities(asked.latents(level), level)
        if "words" in wanted:
            model = asked.queries.model
            found["words"] = word_scores(model, *self._topics(model, level), asked.text).cpu().numpy()
        if "encoder" in wanted:
            found["encoder"] = self._passages.scores(asked.direction, level)
        if "bm25" in wanted:
            found["bm25"] = self._lexical(level).scores(asked.text)
        added = {by: [found[part] for part in PARTS[by]] for by in kinds if by in PARTS}
        return {by: _added(by, added[by], added[by]) if by in added else found[by] for by in kinds}

    def _asked(self, model: HierarchicalTextVAE, query: str | Asked) -> Asked:
        self._check_model(model)
        return query if isinstance(query, Asked) else Asked.of(model, query)

    def _proposed(
        self, asked: Asked, level: str, k: int, by: By, left: np.ndarray | None, words: np.ndarray | None
    ) -> np.ndarray | None:
        """[n] the units of `level` to look at, rising; None where it is all. `words`: [U] scores by BM25, where they
        count, too."""
        neighbours, number = self._neighbours, max(CANDIDATES, 10 * k)
        if neighbours is None or by not in ("encoder", "hybrid") or self.description.levels[level].units <= number:
            return None
        if left is not None and left.sum() <= max(FEW, number):
            return np.flatnonzero(left)
        proposed = [neighbours.nearest(level, asked.direction, number, left)]
        passages = self._passages
        if level != passages.lowest:
            of_passages = None if left is None else np.repeat(left, np.diff(passages.first[level]))
            near = neighbours.nearest(passages.lowest, asked.direction, number, of_passages)
            proposed.append(passages.unit_of(level, near))
        if 2 * min(map(len, proposed)) < number:  # lost in what the filter leaves
            return None
        if words is not None:
            scores = words if left is None else np.where(left, words, 0)
            holding = np.flatnonzero(scores)
            best = np.argsort(-scores[holding], kind="stable")[:number]
            proposed.append(holding[best])
        found = np.unique(np.concatenate(proposed))
        return found if len(found) >= k else None

    def _scores_of(self, asked: Asked, level: str, units: np.ndarray, words: np.ndarray | None) -> np.ndarray:
        """[n] of the `units` [n], by the encoder or, with the scores by BM25 [U] of all, `hybrid`: as of `scores`, but
        for the encoder's deviations, which are those of a sample."""
        scores = self._passages.some(level, units).scores(asked.direction)
        if words is None:
            return scores
        sample = self._sample(level).scores(asked.direction)
        return _added("hybrid", [scores, words[units]], [sample, words])

    def _sample(self, level: str) -> Some:
        """Units of a level that stand for all: as many as have `SAMPLE` passages together, the same every time."""
        if level not in self._known_samples:
            sizes = np.diff(self._passages.first[level])
            drawn = np.random.default_rng(0).permutation(len(sizes))
            number = max(1, int(np.searchsorted(np.cumsum(sizes[drawn]), SAMPLE, side="right")))
            self._known_samples[level] = self._passages.some(level, np.sort(drawn[:number]))
        return self._known_samples[level]

    def nearest(self, sought: np.ndarray, level: str, k: int = 10, only: Only | None = None) -> list[SearchResult]:
        """The `k` units of `level` nearest to an embedding [Z], among those that `only` leaves.

        Raises ValueError for a level or a field that is not there, where nothing is left, a `k` below 1, an embedding
        of another size and a damaged index.
        """
        self._check(level, k)
        scores, left = self._similarities(sought, level), left_by(only, self._units(level), str(self.folder))
        units = np.arange(len(scores)) if left is None else np.flatnonzero(left)
        return self._results(scores[units], level, k, units)

    def _similarities(self, sought: np.ndarray, level: str) -> np.ndarray:
        described = self._check(level, 1)
        if len(sought) != len(described.mean):
            raise ValueError(
                f"the model has {len(sought)} dimensions at level '{level}', the index {len(described.mean)}: search "
                "with the model that made it"
            )
        scores = np.concatenate([similarities(part, sought, described) for part in embeddings_of(self._units(level))])
        if not np.isfinite(scores).all():
            raise ValueError(f"'{self.folder / level}' is damaged: embeddings are not finite; {AGAIN}")
        return scores

    def _results(
        self, scores: np.ndarray, level: str, k: int, units: np.ndarray, asked: Asked | None = None
    ) -> list[SearchResult]:
        """The best of the `units` [n] with these `scores` [n]; `asked`: the query, where there is one for passages to
        be near to."""
        best = torch.from_numpy(scores).topk(min(k, len(units)))
        found = []
        for score, number in zip(best.values.tolist(), units[best.indices.numpy()].tolist(), strict=True):
            row, passage = self._row(level, number), None
            if asked is not None and level != self.levels[-1]:
                passage = self._passage(self._passages.best(asked.direction, level, number), level, number)
            columns = {name: row[name] for name in ("document", "source_id", "title", "label", "text", "start", "end")}
            found.append(SearchResult(score, **columns, place=self._passages.place(level, number), passage=passage))
        return found

    def _passage(self, number: int, level: str, unit: int) -> Passage:
        """The passage `number` of the index, which is in a unit of `level`."""
        row, lowest = self._row(self.levels[-1], number), self.levels[-1]
        within = number - int(self._passages.first[level][unit]) + 1
        return Passage(within, row["text"], self._passages.place(lowest, number), row["start"], row["end"])

    @cached_property
    def _passages(self) -> Passages:
        return Passages({name: self._units(name) for name in self.levels}, self.folder)

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
                raise ValueError(f"'{self.folder / level}' is damaged: normalisers are not finite; {AGAIN}")
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

    def check(self, level: str | None, k: int, only: Only | None = None) -> None:
        """Raises ValueError for what `search` would refuse of these, before a model is loaded."""
        level = self.levels[0] if level is None else level
        self._check(level, k)
        left_by(only, self._units(level), str(self.folder))

    def _check_model(self, model: HierarchicalTextVAE) -> None:
        if model.weights_sha256 and self.description.model.sha256 not in model.weights_sha256:
            raise ValueError(
                f"the model of '{model.name_or_path}' is not the one that made '{self.folder}': load Index.find_model()"
            )

    def _check(self, level: str, k: int) -> LevelDescription:
        if level not in self.levels:
            raise ValueError(f"the index has no level '{level}'; it has {', '.join(self.levels)}")
        if k < 1:
            raise ValueError(f"k is {k}; it must be 1 or more")
        return self.description.levels[level]

    def _row(self, level: str, number: int) -> dict[str, Any]:
        part = self._units(level).slice(number, 1)
        try:
            part.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"'{self.folder}' is damaged ({reason}); {AGAIN}") from None
        return part.to_pylist()[0]


def _added(by: By, scores: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> np.ndarray:
    """Each of `scores` in standard deviations of the `known` ones, added by `WEIGHTS`."""
    standard = [
        (values - of.mean()) / max(of.std(), SMALLEST_DEVIATION) for values, of in zip(scores, known, strict=True)
    ]
    return sum(weight * values for weight, values in zip(WEIGHTS[by], standard, strict=True))
