"""Semantic hashing: documents of the same label found by the bits that their latents become.

The use that document VAEs are published for (Chaidaroon and Fang 2017, "Variational Deep Semantic Hashing for Text
Documents"), and its measure: the share of a query's label among the 100 nearest of the training part. Shapes: N
documents, Q queries, D features, B bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler

from textvae.evaluation.probing.examples import ENCODER, Examples
from textvae.evaluation.standard_errors import ratio_error

NEAREST = 100
ROTATIONS = 50
"""Steps of the iterative quantisation; what Gong and Lazebnik use."""


@dataclass(frozen=True)
class HashingScore:
    precision: float
    """At `NEAREST`, mean over queries."""
    precision_error: float | None
    """Standard error, clustered by the queries' sources; None where there is one source."""
    bits: int | None
    """None where the features themselves are compared, by their cosine."""


@dataclass(frozen=True)
class HashingReport:
    """What eval/hashing.py writes."""

    documents: int
    queries: int
    classes: int
    chance: float
    """Precision of a ranking that knows nothing."""
    systems: dict[str, HashingScore]


def hashing(database: Examples, queries: Examples, bits: Sequence[int], seed: int) -> HashingReport:
    """Of the highest latent level and of the encoder's mean: precision by cosine, and by `bits` bits of two kinds.

    `median`: as many principal components of the database as bits (the dimensions themselves where there are as many),
    each cut at its median, as published for VDSH. `itq`: the components rotated so that cutting them at zero loses
    least (Gong and Lazebnik 2011). Everything is fitted on the database, without labels. Raises ValueError for fewer
    than `NEAREST` documents and for more bits than features.
    """
    if len(database.labels) < NEAREST:
        raise ValueError(f"precision is of the {NEAREST} nearest, and there are {len(database.labels)} documents")
    is_relevant = queries.labels[:, None] == database.labels
    sources = queries.sources.tolist()
    top, systems = next(iter(database.features)), {}
    scaler = StandardScaler().fit(database.features[top])
    for name, asked, found in (
        (top, scaler.transform(queries.features[top]), scaler.transform(database.features[top])),
        (ENCODER, queries.features[ENCODER], database.features[ENCODER]),
    ):
        systems[name] = _score(-cosine_similarity(asked, found), is_relevant, sources, None)
        for count in bits:
            for kind, (asked_bits, found_bits) in _codes(asked, found, count, name, seed):
                distances = _hamming(asked_bits, found_bits)
                systems[f"{name}_{count}_{kind}"] = _score(distances, is_relevant, sources, count)
    names, sizes = np.unique(database.labels, return_counts=True)
    share = dict(zip(names.tolist(), (sizes / sizes.sum()).tolist(), strict=True))
    chance = float(np.mean([share.get(label, 0.0) for label in queries.labels]))
    return HashingReport(len(database.labels), len(queries.labels), len(names), chance, systems)


def precision_at(distances: np.ndarray, is_relevant: np.ndarray, depth: int) -> np.ndarray:
    """[Q] the share of relevant documents among the `depth` nearest, from [Q, N] and [Q, N].

    Bits leave many documents equally near: of those that tie for the last places it is the expectation over their
    orders, so that the order of the data does not matter.
    """
    last = np.partition(distances, depth - 1, axis=1)[:, depth - 1 : depth]
    nearer, tied = distances < last, distances == last
    places = depth - nearer.sum(1)
    found = (nearer & is_relevant).sum(1) + places * (tied & is_relevant).sum(1) / tied.sum(1)
    return found / depth


def rotation(values: np.ndarray, seed: int) -> np.ndarray:
    """[B, B] the orthogonal matrix R for which sign(values R) is near to values R, of centred values [N, B].

    Alternates between the signs and the rotation that fits them best (Gong and Lazebnik 2011, "Iterative Quantization",
    section 2.2).
    """
    drawn = np.random.default_rng(seed).normal(size=(values.shape[1], values.shape[1]))
    found = np.linalg.qr(drawn)[0]
    for _ in range(ROTATIONS):
        found = orthogonal_procrustes(values, np.where(values @ found > 0, 1.0, -1.0))[0]
    return found


def _codes(
    asked: np.ndarray, found: np.ndarray, bits: int, name: str, seed: int
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
    """By kind the bits [Q, B] of the queries and [N, B] of the database."""
    size, rank = found.shape[1], min(found.shape)
    if bits > rank:
        raise ValueError(f"--bits is {bits}, and {name} has {size} dimensions in {len(found)} documents: give fewer")
    pca = PCA(bits, random_state=seed).fit(found)
    components = (pca.transform(asked), pca.transform(found))
    cut = (asked, found) if bits == size else components
    median = np.median(cut[1], axis=0)
    yield "median", (cut[0] > median, cut[1] > median)
    turned = rotation(components[1], seed)
    yield "itq", (components[0] @ turned > 0, components[1] @ turned > 0)


def _hamming(asked: np.ndarray, found: np.ndarray) -> np.ndarray:
    """[Q, N] numbers of bits that differ."""
    left, right = asked.astype(np.float32), found.astype(np.float32)
    return left.sum(1)[:, None] + right.sum(1) - 2 * (left @ right.T)


def _score(distances: np.ndarray, is_relevant: np.ndarray, sources: Sequence[str], bits: int | None) -> HashingScore:
    found = precision_at(distances, is_relevant, NEAREST)
    error = ratio_error(found.tolist(), [1.0] * len(found), sources)
    return HashingScore(float(found.mean()), error, bits)
