"""A query, as the model reads it: its latents and the pretrained encoder's states.

Shapes: Z latent size, F size of the encoder's features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from textvae.data.document import SourceDocument
from textvae.data.text.segmentation import normalise, split_paragraphs
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


class Asked:
    """A query and what the model reads in it, once, whatever it is then compared with.

    Raises ValueError for a query without text.
    """

    def __init__(self, model: HierarchicalTextVAE, query: str) -> None:
        self.model, self.text = model, checked_query(query)
        self._latents: dict[str, np.ndarray] = {}

    @cached_property
    def direction(self) -> np.ndarray:
        """[F] that of the encoder's features."""
        features = query_features(self.model, self.text)
        return features / max(float(np.linalg.norm(features)), SMALLEST_LENGTH)

    def latents(self, level: str) -> np.ndarray:
        """[Z] as `embed_query` gives them."""
        if level not in self._latents:
            self._latents[level] = embed_query(self.model, self.text, level)
        return self._latents[level]


def embed_query(model: HierarchicalTextVAE, query: str, level: str) -> np.ndarray:
    """[Z] in float32: that of the query as `one_sentence` makes a document of it (the mean, where it is several
    units). Raises ValueError for a query without text and for a level that the model does not have."""
    if level not in model.level_names:
        raise ValueError(f"the model has no level '{level}'; it has {', '.join(model.level_names)}")
    source = one_sentence(query, model.config.hierarchy)
    latents = model.latents(model.batch(model.process([source])))
    return latents[level].mean.float().mean(0).cpu().numpy()


@torch.no_grad()
def query_features(model: HierarchicalTextVAE, query: str) -> np.ndarray:
    """[F] in float32: the mean of the encoder's states of the query's sentences. Raises ValueError for a query without
    text."""
    text, hierarchy = checked_query(query), model.config.hierarchy
    source = SourceDocument("query", text=text)
    if len(hierarchy) > 3:
        units: list[Any] = split_paragraphs(text)
        for _ in hierarchy[3:]:
            units = [units]
        source = SourceDocument("query", units=units)
    batch = model.batch(model.process(source))
    return model.sentence_features(batch).float().mean(0).cpu().numpy()
