"""Search measured on judged queries: the model's levels beside the encoder that they are made of and BM25.

Shapes: S sections of documents, U units of a level, K documents of a ranking, F size of the encoder's features.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ir_measures
import numpy as np
import torch
from ir_measures import RR, R, nDCG
from sklearn.decomposition import PCA
from sklearn.metrics.pairwise import cosine_similarity

from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.data.loader import walk
from textvae.evaluation.collection import Judged
from textvae.model.unit_transformer import segment_mean
from textvae.search.embed import embed_corpus
from textvae.search.index import By, Index
from textvae.search.lexical import Lexical
from textvae.search.postings import with_title
from textvae.search.query import Queries
from textvae.text_vae import HierarchicalTextVAE

MEASURES = {"ndcg@10": nDCG @ 10, "recall@100": R @ 100, "mrr@10": RR @ 10}
DEPTH = 1000
"""Documents of a ranking that are kept."""
SAMPLES = 1000
"""Of the bootstrap."""


@dataclass(frozen=True)
class Ranking:
    """The documents that a query finds, best first, at most `DEPTH`."""

    documents: Sequence[str]
    """[K] the ids of the source documents."""
    scores: np.ndarray
    """[K]"""


@dataclass(frozen=True)
class SystemScore:
    values: dict[str, float]
    """By name of the measure, mean over the queries."""
    intervals: dict[str, list[float]]
    """95 %, by the bootstrap over queries."""
    dims: int | None
    """Of the vectors that are compared."""


@torch.no_grad()
def with_features(model: HierarchicalTextVAE, documents: Documents, batch_tokens: int) -> tuple[Documents, np.ndarray]:
    """The sections, held in memory with the encoder's features, and the mean feature [S, F] of each."""
    held: dict[int, EncodedDocument] = {}
    means: dict[int, np.ndarray] = {}
    for group in walk(documents, model.layout, model.device, batch_tokens=batch_tokens, purpose="features"):
        features = model.sentence_features(group.batch).float()
        document = group.batch.levels[-1].document
        mean = segment_mean(features, document, len(group.rows)).cpu().numpy()
        parts = features.cpu().half().numpy()
        for place, (row, member) in enumerate(zip(group.rows, group.members, strict=True)):
            held[row] = replace(member, features=parts[(document == place).cpu().numpy()].ravel())
            means[row] = mean[place]
    rows = range(len(documents))
    return replace(documents, read=held.__getitem__), np.stack([means[row] for row in rows])


def rank(
    model: HierarchicalTextVAE, run: str, documents: Documents, queries: Mapping[str, str], batch_tokens: int = 8192
) -> Iterator[tuple[str, int | None, dict[str, Ranking]]]:
    """Every system's name, the size of its vectors, and by query its ranking.

    A document's score is that of its best section, at a lower level that of its best unit; one that shares no word with
    the query is not found by `bm25`. `textvae_two_stage` and `hybrid` are the index's search for documents by `encoder`
    and by `hybrid`. Raises ValueError for a query without text.
    """
    held, means = with_features(model, documents, batch_tokens)
    asked = Queries(model, list(queries.values()), batch_tokens)
    ids = list(dict.fromkeys(documents.source_ids))
    numbers = {name: number for number, name in enumerate(ids)}
    source = np.asarray([numbers[name] for name in documents.source_ids])

    def ranked(scores: Iterable[np.ndarray]) -> dict[str, Ranking]:
        """`scores`: [S] of each query."""
        return {query: _ranking(row, source, ids) for query, row in zip(queries, scores, strict=True)}

    with tempfile.TemporaryDirectory() as folder:
        embed_corpus(model, held, Path(folder) / "index", run, batch_tokens)
        index = Index(Path(folder) / "index")
        kinds: tuple[By, ...] = ("latents",) if model.decoder.topic_head is None else ("latents", "words", "both")
        for level in index.levels:
            names: dict[By, str] = {by: f"textvae_{level}" + ("" if by == "latents" else f"_{by}") for by in kinds}
            if level == index.levels[0]:
                names = {"encoder": "textvae_two_stage", "hybrid": "hybrid", **names}
            units = source[index.rows(level)]
            found: dict[By, list[Ranking]] = {by: [] for by in names}
            for scores in index.scores_of(asked, level, list(names)):
                for by, rankings in found.items():
                    rankings.append(_ranking(scores[by], units, ids))
            for by, name in names.items():
                dims = model.hierarchy.stack[level].latent_size if by == "latents" else None
                yield name, dims, dict(zip(queries, found[by], strict=True))
    dims = min(model.hierarchy.stack[index.levels[0]].latent_size, *means.shape)
    pca = PCA(dims, random_state=0).fit(means)
    yield "encoder_mean", means.shape[1], ranked(cosine_similarity(asked.features, means))
    yield "encoder_pca", dims, ranked(cosine_similarity(pca.transform(asked.features), pca.transform(means)))
    texts = [with_title(document.title, document.text()) for document in map(held.read, range(len(held)))]
    lexical = Lexical.of(texts, model.processor.language)
    by_words = map(lexical.scores, asked.texts)
    yield "bm25", None, ranked(np.where(scores > 0, scores, -np.inf) for scores in by_words)


def _ranking(scores: np.ndarray, document: np.ndarray, ids: Sequence[str]) -> Ranking:
    """By the best score of each document's units. `scores`: [U] of units, -inf of what is not found; `document`: [U]
    the number, among the `ids`, of the document that each is of."""
    best = np.full(len(ids), -np.inf)
    np.maximum.at(best, document, scores)
    first = np.argsort(-best, kind="stable")[:DEPTH]
    first = first[best[first] > -np.inf]
    return Ranking([ids[number] for number in first], best[first])


def score(judged: Judged, rankings: Mapping[str, Ranking], dims: int | None, seed: int) -> SystemScore:
    """`rankings`: by query; one without a ranking finds nothing."""
    run = {query: dict(zip(found.documents, found.scores.tolist(), strict=True)) for query, found in rankings.items()}
    by_query: dict[str, dict[str, float]] = {name: {} for name in MEASURES}
    names = {measure: name for name, measure in MEASURES.items()}
    for found in ir_measures.iter_calc(list(MEASURES.values()), judged.relevant, run):
        by_query[names[found.measure]][found.query_id] = found.value
    drawn = np.random.default_rng(seed).integers(len(judged.queries), size=(SAMPLES, len(judged.queries)))
    values: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}
    for name, of_queries in by_query.items():
        each = np.asarray([of_queries.get(query, 0.0) for query in judged.queries])
        values[name] = float(each.mean())
        intervals[name] = np.quantile(each[drawn].mean(1), [0.025, 0.975]).tolist()
    return SystemScore(values, intervals, dims)
