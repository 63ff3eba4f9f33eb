"""How much of what sentences say is settled at every level.

Shapes: D documents, S sentences of a document, F size of a sentence's features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from statistics import fmean

import numpy as np

from textvae.data.document import EncodedDocument


def variance_shares(
    features: Sequence[np.ndarray], documents: Sequence[EncodedDocument], hierarchy: Sequence[str]
) -> dict[str, float]:
    """Shares of the variance of sentences' features (D arrays [S, F]), by level: of what tells its units from one
    another, those of one parent. They add up to 1.

    A variance is half the mean squared distance of two sentences; shares are differences between the variances of
    sentences of different documents, of one document but of different units of the next level, and so on down. Unlike
    sums of squares they do not grow with fewer sentences a unit. NaN where no two sentences tell; below 0 where units
    are less alike than chance has it.
    """
    by_level = [
        list(chain.from_iterable(_within(*pair, depth) for pair in zip(features, documents, strict=True)))
        for depth in range(len(hierarchy) - 1)
    ]
    variances = [_between(features), *(fmean(values) if values else math.nan for values in by_level), 0.0]
    total = variances[0] or math.nan
    return {name: (wide - close) / total for name, (wide, close) in zip(hierarchy, pairwise(variances), strict=True)}


def _between(features: Sequence[np.ndarray]) -> float:
    """Half the mean squared distance of sentences of two documents, every pair of documents counting the same."""
    means = np.stack([rows.mean(0) for rows in features]).astype(np.float64)
    squares = fmean(float((rows.astype(np.float64) ** 2).sum(1).mean()) for rows in features)
    products = (means.sum(0) ** 2).sum() - (means**2).sum()
    return squares - float(products) / (len(means) * (len(means) - 1))


def _within(features: np.ndarray, document: EncodedDocument, depth: int) -> Iterator[float]:
    """For each unit of a depth whose sentences are of several children: half the mean squared distance of such."""
    unit, child = _ancestors(document, depth), _ancestors(document, depth + 1)
    for number in range(unit[-1] + 1):
        rows, of = features[unit == number].astype(np.float64), child[unit == number]
        apart = of[:, None] != of
        if apart.any():
            squared = (rows**2).sum(1)
            distances = squared[:, None] + squared - 2 * rows @ rows.T
            yield float(distances[apart].mean()) / 2


def _ancestors(document: EncodedDocument, depth: int) -> np.ndarray:
    """[S] number of the unit of a depth that each sentence is of."""
    unit = np.arange(len(document.sentences))
    for counts in reversed(list(document.structure)[depth:]):
        unit = np.repeat(np.arange(len(counts)), np.asarray(counts))[unit]
    return unit
