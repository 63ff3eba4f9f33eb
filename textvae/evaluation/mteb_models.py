"""Models as the benchmark MTEB (version 2) runs them: `LatentEncoder` is one of its encoders (`EncoderProtocol`),
`IndexSearch` one of its search systems (`SearchProtocol`).

mteb is no dependency of textvae; it is imported where its own class is asked for.

Shapes: N texts, U units of a level, Z latent size.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.data.text.segmentation import normalise
from textvae.devices import choose_device
from textvae.runs import load_run
from textvae.search.embed import embed_corpus
from textvae.search.embedder import Task, TextEmbedder
from textvae.search.export import load_exported
from textvae.search.index import By, Index
from textvae.search.query import Queries
from textvae.text_vae import HierarchicalTextVAE

logger = logging.getLogger("textvae")
HELD = 8192
"""Documents that are held while they are embedded."""


class LatentEncoder:
    """Latents of whole texts, compared by their cosines.

    Example:
        mteb.evaluate(LatentEncoder("exported"), mteb.get_tasks(["SciFact"]))
    """

    def __init__(
        self, model_name: str, revision: str | None = None, *, device: str | None = None, **kwargs: Any
    ) -> None:
        """`model_name`: a folder of `textvae export-encoder`, of the top level.

        Raises ValueError as `load_exported` does and for a lower level, whose vectors are several a text.
        """
        self.name, self.revision = model_name, revision
        self.embedder = load_exported(model_name)
        if self.embedder.level != self.embedder.model.config.hierarchy[0]:
            raise ValueError(f"'{model_name}' is of level '{self.embedder.level}': export the top one")
        nn.Module.to(self.embedder.model, choose_device(device))

    def encode(self, inputs: Iterable[Mapping[str, Any]], *, prompt_type: Any = None, **kwargs: Any) -> np.ndarray:
        """[N, Z] of the texts in batches that have a `text`. Queries are read as one sentence each, as `textvae search`
        reads them. An empty text is a row of zeros, whose cosines are all 0."""
        texts = [text for batch in inputs for text in batch["text"]]
        written = [number for number, text in enumerate(texts) if normalise(text)]
        found = np.zeros((len(texts), self.embedder.size), np.float32)
        if written:
            task: Task = "query" if getattr(prompt_type, "value", prompt_type) == "query" else "document"
            some = [texts[number] for number in written]
            found[written] = self.embedder.encode(some, task=task, show_progress_bar=False)
        return found

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines [N, M] of [N, Z] and [M, Z]."""
        ours, theirs = (np.atleast_2d(np.asarray(rows)) for rows in (embeddings1, embeddings2))
        return self.embedder.similarity(ours, theirs)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines [N] of the rows of [N, Z] and [N, Z]."""
        ours, theirs = (torch.as_tensor(np.atleast_2d(np.asarray(rows))) for rows in (embeddings1, embeddings2))
        return F.cosine_similarity(ours, theirs, dim=-1)

    @property
    def mteb_model_meta(self) -> Any:
        return _meta(self.name, self.revision, self.embedder)


class IndexSearch:
    """The corpus of a task embedded into an index, and searched as `textvae search` does. `close` removes the index."""

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        by: By = "hybrid",
        **kwargs: Any,
    ) -> None:
        """`model_name`: a run. Raises ValueError as `load_run` does."""
        self.name, self.revision, self.by = model_name, revision, by
        self.model: HierarchicalTextVAE = load_run(model_name, device)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._index: Index | None = None
        self._ids: list[str] = []
        self._without_text: set[str] = set()

    def index(self, corpus: Iterable[Mapping[str, Any]], **kwargs: Any) -> None:
        """Embed documents with `id`, `text` and, if they have one, a `title`, which is read before the text.

        Those without text are counted, and never found. Raises ValueError where none has text.
        """
        rows, self._ids, self._without_text = iter(corpus), [], set()
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="textvae-")
        out = Path(self._folder.name) / "index"
        while some := list(islice(rows, HELD)):
            sources = [
                SourceDocument(str(row["id"]), text=f"{row.get('title') or ''} {row['text']}".strip()) for row in some
            ]
            written = [source for source in sources if source.has_text]
            self._without_text |= {source.id for source in sources if not source.has_text}
            self._ids += [source.id for source in written]
            if written:
                documents = Documents.of(self.model.process(written))
                embed_corpus(self.model, documents, out, self.name, append=out.exists())
        if not self._ids:
            raise ValueError("the corpus holds no document with text")
        if self._without_text:
            logger.warning("%d documents have no text, and are never found", len(self._without_text))
        self._index = Index(out)

    def search(
        self,
        queries: Iterable[Mapping[str, Any]],
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """By query, the scores of its `top_k` documents, among those of `top_ranked` if there are such.

        What shares no word with the query is not found by `bm25`, and nothing by an empty query, but for one document
        with the score 0: MTEB takes no query without any. Raises ValueError where nothing was indexed.
        """
        if self._index is None:
            raise ValueError("there is nothing to search: call index first")
        rows = {name: row for row, name in enumerate(self._ids)}
        texts = {str(query["id"]): f"{query['text']} {query.get('instruction') or ''}" for query in queries}
        asked = {name: text for name, text in texts.items() if normalise(text)}
        scored = self._index.scores_of(Queries(self.model, list(asked.values())), self._index.levels[0], [self.by])
        found = {}
        for name in texts:
            scores = next(scored)[self.by] if name in asked else np.zeros(len(rows))
            among = np.arange(len(scores))
            if top_ranked is not None:
                among = np.array([rows[i] for i in top_ranked[name] if i not in self._without_text], dtype=np.int64)
            best = among[np.argsort(-scores[among], kind="stable")[:top_k]]
            if self.by == "bm25" or name not in asked:
                best = best[: max(1, np.count_nonzero(scores[best]))]
            found[name] = {self._ids[row]: float(scores[row]) for row in best}
        return found

    def close(self) -> None:
        """Forget the corpus."""
        self._index = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @property
    def mteb_model_meta(self) -> Any:
        return _meta(self.name, self.revision, None)


def _meta(name: str, revision: str | None, embedder: TextEmbedder | None) -> Any:
    from mteb.models import ModelMeta

    known: dict[str, Any] = {"name": f"textvae/{Path(name).name}", "revision": revision, "framework": ["PyTorch"]}
    if embedder is not None:
        known |= {
            "embed_dim": embedder.size,
            "n_parameters": embedder.model.num_parameters(),
            "similarity_fn_name": "cosine",
        }
    return ModelMeta.create_empty(known)
