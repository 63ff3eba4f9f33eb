"""Queries, as the model reads them: their latents and the pretrained encoder's states.

Shapes: Q queries, Z latent size, F size of the encoder's features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from textvae.data.batch import DocumentBatch
from textvae.data.document import SourceDocument
from textvae.data.plan import fill
from textvae.data.text.segmentation import normalise, split_paragraphs
from textvae.model.unit_transformer import segment_mean
from textvae.search.similarity import SMALLEST_LENGTH
from textvae.text_vae import HierarchicalTextVAE


def checked_query(query: str) -> str:
    """In normal form. Raises ValueError for a query without text."""
    text = normalise(query)
    if not text.strip():
        raise ValueError("the query is empty: give some words to search for")
    return text


def one_sentence(query: str, hierarchy: Sequence[str]) -> SourceDocument:
    """The query as a document of one unit at every level of `hierarchy`, all of it in one sentence (or, where it is too
    long for one, in several of one parent). Raises ValueError for a query without text."""
    text = checked_query(query)
    if len(hierarchy) == 1:
        return SourceDocument("query", text=text)
    units: list[Any] = [text]
    for _ in hierarchy[2:]:
        units = [units]
    return SourceDocument("query", units=units)


def segmented(query: str, hierarchy: Sequence[str]) -> SourceDocument:
    """The query as a document of its own paragraphs and sentences, in one unit of every level above."""
    if len(hierarchy) <= 3:
        return SourceDocument("query", text=query)
    units: list[Any] = split_paragraphs(query)
    for _ in hierarchy[3:]:
        units = [units]
    return SourceDocument("query", units=units)


class Queries:
    """Queries, as the model reads them: all of them together, once, and only when a search first needs it."""

    def __init__(self, model: HierarchicalTextVAE, texts: Sequence[str], batch_tokens: int = 8192) -> None:
        """`batch_tokens`: read at a time. Raises ValueError for a query without text, and a plain language model."""
        if model.encoder is None:
            raise ValueError("a plain language model has no encoder to read queries with; search with one with levels")
        self.model, self.batch_tokens = model, batch_tokens
        self.texts = [checked_query(text) for text in texts]
        """In normal form."""
        self._feature_size = model.encoder.feature_size

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[Asked]:
        return (Asked(self, number) for number in range(len(self)))

    @cached_property
    @torch.no_grad()
    def features(self) -> np.ndarray:
        """[Q, F] in float32: the mean of the encoder's states of each query's sentences."""
        found = np.empty((len(self), self._feature_size), np.float32)
        for rows, batch in self._batches([segmented(text, self.model.config.hierarchy) for text in self.texts]):
            states = self.model.sentence_features(batch)
            found[rows] = segment_mean(states, batch.levels[-1].document, len(rows)).cpu()
        return found

    def latents(self, level: str) -> np.ndarray:
        """[Q, Z] in float32: those of each query as `one_sentence` makes a document of it (the mean, where it is
        several units). Raises ValueError for a level that the model does not have."""
        if level not in self.model.level_names:
            raise ValueError(f"the model has no level '{level}'; it has {', '.join(self.model.level_names)}")
        return self._latents[level]

    @cached_property
    def _latents(self) -> dict[str, np.ndarray]:
        stack = self.model.hierarchy.stack
        found = {name: np.empty((len(self), stack[name].latent_size), np.float32) for name in self.model.level_names}
        for rows, batch in self._batches([one_sentence(text, self.model.config.hierarchy) for text in self.texts]):
            for name, units in self.model.latents(batch).items():
                found[name][rows] = segment_mean(units.mean, units.document, len(rows)).cpu()
        return found

    def _batches(self, sources: Sequence[SourceDocument]) -> Iterator[tuple[np.ndarray, DocumentBatch]]:
        """Those of similar length together, with their numbers."""
        documents = self.model.process(sources)
        counts = np.asarray([document.num_tokens for document in documents], dtype=np.int64)
        for rows in fill(np.argsort(counts, kind="stable"), counts, self.batch_tokens):
            yield rows, self.model.batch([documents[row] for row in rows])


@dataclass(frozen=True)
class Asked:
    """One of several queries."""

    queries: Queries
    number: int

    @classmethod
    def of(cls, model: HierarchicalTextVAE, query: str) -> Asked:
        """One alone. Raises ValueError for a query without text."""
        return cls(Queries(model, [query]), 0)

    @property
    def text(self) -> str:
        return self.queries.texts[self.number]

    @property
    def direction(self) -> np.ndarray:
        """[F] that of the encoder's features, of length 1."""
        features: np.ndarray = self.queries.features[self.number]
        return features / max(float(np.linalg.norm(features)), SMALLEST_LENGTH)

    def latents(self, level: str) -> np.ndarray:
        """[Z]"""
        return self.queries.latents(level)[self.number]


def embed_query(model: HierarchicalTextVAE, query: str, level: str) -> np.ndarray:
    """[Z]: `Queries.latents` of one."""
    return Queries(model, [query]).latents(level)[0]


def query_features(model: HierarchicalTextVAE, query: str) -> np.ndarray:
    """[F]: `Queries.features` of one."""
    return Queries(model, [query]).features[0]
