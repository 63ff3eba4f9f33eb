"""Search by latents: cosines of embeddings that are standardised by those of the corpus.

Shapes: U units, Z latent size.
"""

from __future__ import annotations

import numpy as np

from textvae.search.storage import LevelDescription

SMALLEST_LENGTH = 1e-12
"""That a vector is divided by."""


def similarities(corpus: np.ndarray, sought: np.ndarray, level: LevelDescription) -> np.ndarray:
    """[U] cosines of the corpus's embeddings [U, Z] and the query's [Z], standardised, in [-1, 1]."""
    corpus, sought = level.standardised(corpus), level.standardised(sought)
    lengths = np.linalg.norm(corpus, axis=1) * np.linalg.norm(sought)
    return np.clip(corpus @ sought / np.maximum(lengths, SMALLEST_LENGTH), -1, 1)
