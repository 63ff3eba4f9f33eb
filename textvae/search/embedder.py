"""Latents as vectors to compare, with the interface of sentence-transformers: for what was written for its models.

Shapes: N texts, U units of a text, Z latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from textvae.data.document import EncodedDocument
from textvae.search.moments import Moments
from textvae.search.query import one_sentence
from textvae.search.storage import LevelDescription
from textvae.text_vae import HierarchicalTextVAE

Vectors = np.ndarray | Tensor | list[np.ndarray] | list[Tensor]
Task = Literal["query", "document"]
ONLY: dict[str, tuple[Any, ...]] = {
    "prompt_name": (None,),
    "output_value": ("sentence_embedding",),
    "precision": ("float32", None),
    "truncate_dim": (None,),
    "pool": (None,),
    "chunk_size": (None,),
}
"""Arguments of sentence-transformers' `encode` that ask for nothing here, and their values."""


class TextEmbedder:
    """Posterior means of one level, standardised by those of a corpus.

    Cosines of standardised means are what tells texts apart. A corpus that was embedded knows mean and deviation
    (`Index.embedder`), `TextEmbedder.of` measures them on texts.

    Example:
        embedder = TextEmbedder.of(model, texts)
        vectors = embedder.encode(["A first document ...", "A second ..."], normalize_embeddings=True)  # [2, Z]
        asked = embedder.encode_query("words to search for")  # [Z]
    """

    def __init__(
        self,
        model: HierarchicalTextVAE,
        level: str | None = None,
        corpus: Mapping[str, LevelDescription] | None = None,
    ) -> None:
        """`level`: default the top; `corpus`: mean and deviation of its units by level (None: latents as they are).

        Raises ValueError for a level that the model does not have, and for a corpus of another latent size or without
        the level.
        """
        if not model.level_names:
            raise ValueError("a plain language model has no latents to embed with; train one with levels")
        self.model, self.corpus = model, dict(corpus or {})
        for name, described in self.corpus.items():
            size = model.hierarchy.stack[self._known(name)].latent_size
            if len(described.mean) != size:
                raise ValueError(f"the corpus has {len(described.mean)} dimensions at level '{name}', the model {size}")
        self.level = self._known(model.level_names[0] if level is None else level)
        self.size: int = model.hierarchy.stack[self.level].latent_size

    @classmethod
    def of(
        cls, model: HierarchicalTextVAE, texts: Sequence[str], level: str | None = None, batch_size: int = 32
    ) -> TextEmbedder:
        """One that standardises by `texts`. Raises ValueError where there are none."""
        if not len(texts):
            raise ValueError("there are no texts to measure mean and deviation on: give some")
        plain = cls(model, level)
        corpus = {}
        for name, latents in model.encode(list(texts), batch_size=batch_size).items():
            moments = Moments.of(latents.mean.float().cpu().numpy())
            corpus[name] = LevelDescription(moments.count, moments.mean.tolist(), moments.std.tolist())
        return cls(model, plain.level, corpus)

    def get_sentence_embedding_dimension(self) -> int:
        """Z"""
        return self.size

    def encode(
        self,
        inputs: str | Sequence[str],
        *,
        level: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool = False,
        task: Task | None = None,
        **others: Any,
    ) -> Vectors:
        """[N, Z] of whole documents, in float32, or [Z] of a single text; of a lower level, whose units are several,
        a list of [U, Z], one of every text (as multi-vector models give).

        `level`: default the embedder's own; `prompt`: words before every text; `batch_size`: texts that are read at a
        time; `show_progress_bar`: None shows it where somebody can see it; `convert_to_tensor` gives tensors in place
        of arrays, `convert_to_numpy=False` a list of rows; `normalize_embeddings` makes all vectors of length 1;
        `task="query"` reads a text as one sentence, as `textvae search` reads queries. Raises ValueError for an empty
        text, a level that the corpus was not measured at, a `device` other than the model's, and what else it is given,
        unless as in `ONLY`.
        """
        level = self._known(self.level if level is None else level)
        self._check_others(others)
        asked, own = torch.device(device or self.model.device), self.model.device
        if (asked.type, own.index if asked.index is None else asked.index) != (own.type, own.index):
            raise ValueError(
                f"device is {device}, the model is on {self.model.device}: move it with embedder.model.to(...)"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
        single = isinstance(inputs, str)
        texts = [(prompt or "") + text for text in ([inputs] if isinstance(inputs, str) else inputs)]
        units = self.read(texts, batch_size, show_progress_bar, level=level, task=task)
        if normalize_embeddings:
            units = [F.normalize(rows, dim=-1) for rows in units]
        if level != self.model.config.hierarchy[0]:
            found: list[Any] = units if convert_to_tensor else [rows.numpy() for rows in units]
            return found[0] if single else found
        rows = torch.cat(units) if units else torch.empty(0, self.model.hierarchy.stack[level].latent_size)
        if single:
            rows = rows[0]
        if convert_to_tensor:
            return rows
        return rows.numpy() if convert_to_numpy or single else list(rows)

    def encode_query(self, inputs: str | Sequence[str], **options: Any) -> Vectors:
        """`encode` of texts to search for, each read as one sentence."""
        return self.encode(inputs, task="query", **options)

    def encode_document(self, inputs: str | Sequence[str], **options: Any) -> Vectors:
        """`encode` of texts to be found."""
        return self.encode(inputs, task="document", **options)

    def _known(self, level: str) -> str:
        """Raises ValueError for one that the model does not have, and for one that the corpus was not measured at."""
        if level not in self.model.level_names:
            raise ValueError(f"the model has no level '{level}'; it has {', '.join(self.model.level_names)}")
        if self.corpus and level not in self.corpus:
            raise ValueError(
                f"mean and deviation are known of level {', '.join(self.corpus)}, not of '{level}': make an embedder "
                "of the index, or with TextEmbedder.of"
            )
        return level

    def _check_others(self, others: Mapping[str, Any]) -> None:
        if unknown := sorted(others.keys() - ONLY):
            raise ValueError(f"encode does not know {', '.join(unknown)}")
        for name, value in others.items():
            if value not in ONLY[name]:
                raise ValueError(f"encode takes {name}={ONLY[name][0]!r} alone, not {value!r}")

    def process(self, texts: Sequence[str], task: Task | None = None) -> list[EncodedDocument]:
        """Segmented and tokenised; queries as one sentence each, as `textvae search` reads them. Raises ValueError for
        an empty text and an unknown task."""
        if task not in (None, *get_args(Task)):
            raise ValueError(f"task is '{task}'; it must be query or document")
        if task != "query":
            return self.model.process(texts)
        return self.model.process([one_sentence(text, self.model.config.hierarchy) for text in texts])

    def units(self, documents: Sequence[EncodedDocument], level: str | None = None) -> list[Tensor]:
        """[U, Z] of every document, all read together, on the CPU; `level`: default the embedder's own."""
        level = self._known(self.level if level is None else level)
        latents = self.model.latents(self.model.batch(documents))[level]
        means, document = latents.mean.float().cpu(), latents.document.cpu()
        if level in self.corpus:
            means = torch.from_numpy(self.corpus[level].standardised(means.numpy()))
        return [means[document == number] for number in range(len(documents))]

    def similarity(self, ours: Vectors, theirs: Vectors) -> Tensor:
        """Cosines [N, M] of vectors [N, Z] and [M, Z], in [-1, 1]."""
        left, right = (F.normalize(torch.as_tensor(np.asarray(rows)), dim=-1) for rows in (ours, theirs))
        return left @ right.T

    def read(
        self,
        texts: Sequence[str],
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        *,
        level: str | None = None,
        task: Task | None = None,
    ) -> list[Tensor]:
        """[U, Z] of every text. Similar lengths are read together."""
        found: dict[int, Tensor] = {}
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        hidden = None if show_progress_bar is None else not show_progress_bar
        with tqdm(total=len(texts), desc="embeddings", unit="text", leave=False, disable=hidden) as bar:
            for first in range(0, len(texts), batch_size):
                numbers = order[first : first + batch_size]
                documents = self.process([texts[number] for number in numbers], task)
                found.update(zip(numbers, self.units(documents, level), strict=True))
                bar.update(len(numbers))
        return [found[number] for number in range(len(texts))]
