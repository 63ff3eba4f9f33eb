"""Search measured on judged queries: the model's levels beside the encoder that they are made of and BM25.

Shapes: Q queries, D documents, F size of the encoder's features.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
from textvae.model.unit_transformer import segment_mean
from textvae.search.embed import embed_corpus
from textvae.search.index import By, Index
from textvae.search.lexical import Lexical
from textvae.search.postings import with_title
from textvae.search.query import checked_query, query_features
from textvae.text_vae import HierarchicalTextVAE

MEASURES = {"ndcg@10": nDCG @ 10, "recall@100": R @ 100, "mrr@10": RR @ 10}
DEPTH = 1000
"""Documents of a ranking that are kept."""
SAMPLES = 1000
"""Of the bootstrap."""


@dataclass(frozen=True)
class Judged:
    queries: dict[str, str]
    """By id; only those with a judgement."""
    relevant: dict[str, dict[str, int]]
    """By query, degree of relevance by document."""


@dataclass(frozen=True)
class SystemScore:
    values: dict[str, float]
    """By name of the measure, mean over the queries."""
    intervals: dict[str, list[float]]
    """95 %, by the bootstrap over queries."""
    dims: int | None
    """Of the vectors that are compared."""


def read_judged(queries: str, qrels: str, known: Sequence[str]) -> Judged:
    """BEIR's files: lines of JSON with `_id` and `text`; tab-separated query, document, score below a line of names.

    Raises ValueError, naming file and line, for what is not so, for ids that are unknown, and where nothing is judged.
    """
    texts: dict[str, str] = {}
    for number, line in enumerate(Path(queries).read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            texts[str(record["_id"])] = checked_query(str(record["text"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{queries}, line {number}: this is no query with _id and text ({error})") from None
    relevant: dict[str, dict[str, int]] = {}
    documents = set(known)
    with Path(qrels).open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t"), start=1):
            if number == 1 and len(row) == 3 and not row[2].lstrip("-").isdigit():
                continue  # the names of the columns
            if len(row) != 3 or not row[2].lstrip("-").isdigit():
                raise ValueError(f"{qrels}, line {number}: this is no judgement: query, document, score between tabs")
            for name, kind, ids in ((row[0], "query", texts), (row[1], "document", documents)):
                if name not in ids:
                    raise ValueError(f"{qrels}, line {number}: there is no {kind} '{name}'")
            relevant.setdefault(row[0], {})[row[1]] = int(row[2])
    if not relevant:
        raise ValueError(f"{qrels} holds no judgement")
    return Judged({name: texts[name] for name in relevant}, relevant)


@torch.no_grad()
def with_features(model: HierarchicalTextVAE, documents: Documents, batch_tokens: int) -> tuple[Documents, np.ndarray]:
    """The documents, held in memory with the encoder's features, and the mean feature [D, F] of each."""
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
) -> Iterator[tuple[str, int | None, dict[str, np.ndarray]]]:
    """Every system's name, the size of its vectors, and by query its scores [D] of all documents.

    A document's score at a lower level is that of its best unit. `textvae_two_stage` and `hybrid` are the index's
    search for documents by `encoder` and by `hybrid`.
    """
    held, means = with_features(model, documents, batch_tokens)
    asked = np.stack([query_features(model, text) for text in queries.values()])
    with tempfile.TemporaryDirectory() as folder:
        embed_corpus(model, held, Path(folder) / "index", run, batch_tokens)
        index = Index(Path(folder) / "index")
        kinds: tuple[By, ...] = ("latents",) if model.decoder.topic_head is None else ("latents", "words", "both")
        top = index.levels[0]
        searches: list[tuple[str, str, By]] = [("textvae_two_stage", top, "encoder"), ("hybrid", top, "hybrid")]
        for level in index.levels:
            searches += [(f"textvae_{level}" + ("" if by == "latents" else f"_{by}"), level, by) for by in kinds]
        for name, level, by in searches:
            rows = index.rows(level)
            found = {q: _best(index.scores(model, text, level, by), rows) for q, text in queries.items()}
            yield name, model.hierarchy.stack[level].latent_size if by == "latents" else None, found
    yield "encoder_mean", means.shape[1], dict(zip(queries, cosine_similarity(asked, means), strict=True))
    dims = min(model.hierarchy.stack[index.levels[0]].latent_size, *means.shape)
    pca = PCA(dims, random_state=0).fit(means)
    yield (
        "encoder_pca",
        dims,
        dict(zip(queries, cosine_similarity(pca.transform(asked), pca.transform(means)), strict=True)),
    )
    texts = [with_title(document.title, document.text()) for document in map(held.read, range(len(held)))]
    lexical = Lexical.of(texts, model.processor.language)
    yield "bm25", None, {query: lexical.scores(text) for query, text in queries.items()}


def _best(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[D] the best score of every document's units, which are of the documents `rows`."""
    best = np.full(rows.max() + 1, -np.inf)
    np.maximum.at(best, rows, scores)
    return best


def score(
    judged: Judged, ids: Sequence[str], scores: Mapping[str, np.ndarray], dims: int | None, seed: int
) -> SystemScore:
    """`scores`: by query, of all documents [D], whose names are `ids`."""
    run = {}
    for query, of_documents in scores.items():
        best = np.argsort(-of_documents, kind="stable")[:DEPTH]
        run[query] = {ids[row]: float(of_documents[row]) for row in best}
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
