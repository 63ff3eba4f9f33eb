"""Embed a corpus at every level and search it.

An index is a folder: `index.json`, and for every level an Arrow data set of its units with their embeddings.
Embeddings are posterior means, inferred with the ancestors' means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch

from textvae.data.batch import DocumentBatch
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.loading import fill
from textvae.data.opening import Documents
from textvae.model.units import segment_mean
from textvae.text_vae import HierarchicalTextVAE

INDEX_FILE = "index.json"


@dataclass(frozen=True)
class SearchResult:
    score: float
    """Cosine similarity of centred embeddings, in [-1, 1]."""
    document: str
    title: str | None
    text: str


def embed_corpus(model: HierarchicalTextVAE, documents: Documents, out: str | Path, run: str,
                 batch_tokens: int = 8192) -> dict[str, int]:  # fmt: skip
    """Write an index of all `documents`; returns the number of units by level.

    Raises ValueError when the model has no latents or the folder exists.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"'{out}' exists already: remove it, or choose another folder (--out)")
    if not model.level_names:
        raise ValueError(f"'{run}' is a plain language model: it has no latents to embed with")
    counts = {}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in model.level_names}
    for level, row in _unit_rows(model, documents, batch_tokens):
        rows[level].append(row)
    for name, members in rows.items():
        datasets.Dataset.from_list(members).save_to_disk(str(out / name))
        counts[name] = len(members)
    description = {"run": run, "levels": counts}
    (out / INDEX_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return counts


def _unit_rows(
    model: HierarchicalTextVAE, documents: Documents, batch_tokens: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    for members, batch in _batches(model, documents, batch_tokens):
        for name, latents in model.latents(batch).items():
            texts = unit_texts(members, batch, batch.level_number(name))
            vectors = latents.mean.float().cpu().numpy()
            for document, text, vector in zip(latents.document.tolist(), texts, vectors, strict=True):
                source = members[document]
                yield name, {"document": source.id, "title": source.title, "text": text, "embedding": vector}


def _batches(
    model: HierarchicalTextVAE, documents: Documents, batch_tokens: int
) -> Iterator[tuple[list[EncodedDocument], DocumentBatch]]:
    """All documents in the order of the data."""
    for part in fill(np.arange(len(documents)), documents.token_counts, batch_tokens):
        members = [documents.read(int(number)) for number in part]
        yield members, model.batch(members)


def unit_texts(documents: list[EncodedDocument], batch: DocumentBatch, level: int) -> list[str]:
    """The text of every unit of a level."""
    sentences = [sentence for document in documents for sentence in document.sentences]
    lowest = len(batch.levels) - 1
    unit_of = batch.ancestor(lowest, level).tolist()
    texts = [""] * len(batch.levels[level])
    for unit, sentence in zip(unit_of, sentences, strict=True):
        texts[unit] += sentence if sentence.startswith(" ") or not texts[unit] else " " + sentence
    return [text.strip() for text in texts]


class Index:
    """An embedded corpus, ready to be searched.

    Raises ValueError for a folder that is no index.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX_FILE).is_file():
            raise ValueError(f"'{folder}' is no index: it has no {INDEX_FILE}; make one with textvae embed")
        description = json.loads((self.folder / INDEX_FILE).read_text(encoding="utf-8"))
        self.run: str = description["run"]
        self.levels: dict[str, int] = description["levels"]

    def search(
        self, model: HierarchicalTextVAE, query: str, level: str | None = None, k: int = 10
    ) -> list[SearchResult]:
        """The `k` units of `level` (default: the top) nearest to the query, a one-sentence document."""
        level = level or next(iter(self.levels))
        if level not in self.levels:
            raise ValueError(f"the index has no level '{level}'; it has {', '.join(self.levels)}")
        units = datasets.load_from_disk(str(self.folder / level)).with_format("numpy", columns=["embedding"])
        corpus = torch.from_numpy(np.stack(units["embedding"][:]))
        sought = model.encode([SourceDocument(id="query", text=query)])[level].mean.float().cpu()
        # All posterior means share a large common part; what tells units apart is what is left of it.
        centre, spread = corpus.mean(0), corpus.std(0).clamp(min=1e-6)
        scores = torch.nn.functional.cosine_similarity((corpus - centre) / spread, (sought[:1] - centre) / spread)
        best = scores.topk(min(k, len(scores)))
        plain = units.with_format(None)
        found = []
        for score, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            row = plain[number]
            found.append(SearchResult(score, row["document"], row["title"], row["text"]))
        return found


@torch.no_grad()
def document_features(
    model: HierarchicalTextVAE, documents: Documents, label: str, batch_tokens: int = 8192
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every document's features [documents, D] by latent level and for `encoder_mean`, and its label.

    A lower level's feature is the mean over the document's units; `encoder_mean` is the mean of the pretrained
    sentence features. Raises ValueError naming a document that lacks the field `label`.
    """
    features: dict[str, list[np.ndarray]] = {name: [] for name in (*model.level_names, "encoder_mean")}
    labels: list[str] = []
    for members, batch in _batches(model, documents, batch_tokens):
        for name, latents in model.latents(batch).items():
            features[name].append(segment_mean(latents.mean, latents.document, len(members)).cpu().numpy())
        sentences = segment_mean(model.sentence_features(batch), batch.levels[-1].document, len(members))
        features["encoder_mean"].append(sentences.cpu().numpy())
        labels.extend(_label(document, label) for document in members)
    return {name: np.concatenate(parts) for name, parts in features.items()}, np.asarray(labels)


def _label(document: EncodedDocument, name: str) -> str:
    value = document.label if name == "label" else json.loads(document.extra).get(name)
    if value is None:
        raise ValueError(f"document '{document.id}' has no field '{name}' to predict; name another with --label")
    return str(value)
