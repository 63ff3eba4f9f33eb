"""Latents as vectors to compare, with the interface of sentence-transformers: for what was written for its models.

Shapes: N texts, U units of a text, Z latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


class TextEmbedder:
    """Posterior means of one level, standardised by those of a corpus.

    Cosines of standardised means are what tells texts apart. A corpus that was embedded knows mean and deviation
    (`Index.embedder`), `TextEmbedder.of` measures them on texts.

    Example:
        embedder = TextEmbedder.of(model, texts)
        vectors = embedder.encode(["A first document ...", "A second ..."], normalize_embeddings=True)  # [2, Z]
    """

    def __init__(self, model: HierarchicalTextVAE, level: str | None = None, corpus: LevelDescription | None = None):
        """`level`: default the top; `corpus`: mean and deviation of its units, None leaves latents as they are.

        Raises ValueError for a level that the model does not have, and for a corpus of another latent size.
        """
        if not model.level_names:
            raise ValueError("a plain language model has no latents to embed with; train one with levels")
        self.model = model
        self.level = model.level_names[0] if level is None else level
        if self.level not in model.level_names:
            raise ValueError(f"the model has no level '{level}'; it has {', '.join(model.level_names)}")
        size = model.hierarchy.stack[self.level].latent_size
        if corpus is not None and len(corpus.mean) != size:
            raise ValueError(f"the corpus has {len(corpus.mean)} dimensions at level '{self.level}', the model {size}")
        self.size, self.corpus = size, corpus

    @classmethod
    def of(
        cls, model: HierarchicalTextVAE, texts: Sequence[str], level: str | None = None, batch_size: int = 32
    ) -> TextEmbedder:
        """One that standardises by `texts`."""
        plain = cls(model, level)
        rows = np.concatenate([units.numpy() for units in plain.read(list(texts), batch_size)])
        moments = Moments.of(rows)
        described = LevelDescription(len(rows), moments.mean.tolist(), moments.std.tolist())
        return cls(model, level, described)

    def get_sentence_embedding_dimension(self) -> int:
        """Z"""
        return self.size

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        **unknown: Any,
    ) -> Vectors:
        """[N, Z] of whole documents, in float32, or [Z] of a single text; of a lower level, whose units are several,
        a list of [U, Z], one of every text (as multi-vector models give).

        `batch_size`: texts that are read at a time; `show_progress_bar`: None shows it where somebody can see it;
        `convert_to_tensor` gives tensors in place of arrays, `convert_to_numpy=False` a list of rows;
        `normalize_embeddings` makes all vectors of length 1. Raises ValueError for an empty text and what else it is
        given.
        """
        if unknown:
            raise ValueError(f"encode does not know {', '.join(sorted(unknown))}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        units = self.read(texts, batch_size, show_progress_bar)
        if normalize_embeddings:
            units = [F.normalize(rows, dim=-1) for rows in units]
        if self.level != self.model.config.hierarchy[0]:
            found: list[Any] = units if convert_to_tensor else [rows.numpy() for rows in units]
            return found[0] if isinstance(sentences, str) else found
        rows = torch.cat(units) if units else torch.empty(0, self.size)
        if isinstance(sentences, str):
            rows = rows[0]
        if convert_to_tensor:
            return rows
        return rows.numpy() if convert_to_numpy or isinstance(sentences, str) else list(rows)

    def process(self, texts: Sequence[str], as_queries: bool = False) -> list[EncodedDocument]:
        """Segmented and tokenised; queries as one sentence each, as `textvae search` reads them. Raises ValueError for
        an empty text."""
        if not as_queries:
            return self.model.process(texts)
        return self.model.process([one_sentence(text, self.model.config.hierarchy) for text in texts])

    def units(self, documents: Sequence[EncodedDocument]) -> list[Tensor]:
        """[U, Z] of every document, all read together, on the CPU."""
        latents = self.model.latents(self.model.batch(documents))[self.level]
        means, document = latents.mean.float().cpu(), latents.document.cpu()
        if self.corpus is not None:
            means = torch.from_numpy(self.corpus.standardised(means.numpy()))
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
        as_queries: bool = False,
    ) -> list[Tensor]:
        """[U, Z] of every text. Similar lengths are read together."""
        found: dict[int, Tensor] = {}
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        hidden = None if show_progress_bar is None else not show_progress_bar
        with tqdm(total=len(texts), desc="embeddings", unit="text", leave=False, disable=hidden) as bar:
            for first in range(0, len(texts), batch_size):
                numbers = order[first : first + batch_size]
                documents = self.process([texts[number] for number in numbers], as_queries)
                found.update(zip(numbers, self.units(documents), strict=True))
                bar.update(len(numbers))
        return [found[number] for number in range(len(texts))]
