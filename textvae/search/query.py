"""A query, as the model reads it: its latents and the pretrained encoder's states.

Shapes: Z latent size, F size of the encoder's features.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from textvae.data.document import SourceDocument
from textvae.data.text.segmentation import normalise
from textvae.text_vae import HierarchicalTextVAE


def checked_query(query: str) -> str:
    """In normal form. Raises ValueError for a query without text."""
    text = normalise(query)
    if not text.strip():
        raise ValueError("the query is empty: give some words to search for")
    return text


def embed_query(model: HierarchicalTextVAE, query: str, level: str) -> np.ndarray:
    """[Z] in float32: the query as a document of one unit at every level, all of it in one sentence (or, where it is
    too long for one, the mean of its sentences). Raises ValueError for a query without text and for a level that the
    model does not have."""
    if level not in model.level_names:
        raise ValueError(f"the model has no level '{level}'; it has {', '.join(model.level_names)}")
    text = checked_query(query)
    depth = len(model.config.hierarchy) - 1
    units: list[Any] = [text]
    for _ in range(depth - 1):
        units = [units]
    source = SourceDocument("query", units=units) if depth else SourceDocument("query", text=text)
    latents = model.latents(model.batch(model.process([source])))
    return latents[level].mean.float().mean(0).cpu().numpy()


@torch.no_grad()
def query_features(model: HierarchicalTextVAE, query: str) -> np.ndarray:
    """[F] in float32: the mean of the encoder's states of the query's sentences. Raises ValueError for a query without
    text."""
    batch = model.batch(model.process(SourceDocument("query", text=checked_query(query))))
    return model.sentence_features(batch).float().mean(0).cpu().numpy()
