"""Embed a corpus at every level and search it.

An index is a folder: `index.json`, and for every level an Arrow data set of its units with their embeddings.
Embeddings are posterior means, inferred with the ancestors' means.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from textvae.data.batch import DocumentBatch
from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.data.plan import fill
from textvae.search.index import INDEX_FILE
from textvae.text_vae import HierarchicalTextVAE


def embed_corpus(
    model: HierarchicalTextVAE, documents: Documents, out: str | Path, run: str, batch_tokens: int = 8192
) -> dict[str, int]:
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
    for members, batch in batches(model, documents, batch_tokens):
        for name, latents in model.latents(batch).items():
            texts = unit_texts(members, batch, batch.level_number(name))
            vectors = latents.mean.float().cpu().numpy()
            for document, text, vector in zip(latents.document.tolist(), texts, vectors, strict=True):
                source = members[document]
                yield name, {"document": source.id, "title": source.title, "text": text, "embedding": vector}


def batches(
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
