"""A model's latents as a module of sentence-transformers, which loads it for a folder of `search.export`.

sentence-transformers is no dependency of textvae: nothing of textvae imports this file.

Shapes: N texts, U units of a text, Z latent size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers.base.modules import InputModule
from sentence_transformers.util import load_dir_path
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from textvae.search.embedder import TextEmbedder
from textvae.search.export import load_exported, save_encoder


class LatentModule(InputModule):
    """Texts -> `sentence_embedding` [N, Z] of whole documents, or `token_embeddings` [N, most units, Z] of a lower
    level, with an `attention_mask` of the units that are there.

    What is encoded as a query (`encode_query`) is read as one sentence, as `textvae search` reads it.
    """

    def __init__(self, embedder: TextEmbedder) -> None:
        super().__init__()
        self.embedder = embedder
        self.model = embedder.model

    def get_embedding_dimension(self) -> int:
        """Z"""
        return self.embedder.size

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Segmented and tokenised. Raises ValueError for an empty text and for what is no text."""
        for given in inputs:
            if not isinstance(given, str):
                raise ValueError(f"a text is needed, not {type(given).__name__}")
        texts = [(prompt or "") + text for text in inputs]
        return {"documents": self.embedder.process(texts, "query" if task == "query" else None)}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        units = [rows.to(self.model.device) for rows in self.embedder.units(features["documents"])]
        if self.embedder.level == self.model.config.hierarchy[0]:
            return {**features, "sentence_embedding": torch.cat(units)}
        present: list[Tensor] = [torch.ones(len(rows), dtype=torch.long, device=rows.device) for rows in units]
        return {
            **features,
            "token_embeddings": pad_sequence(units, batch_first=True),
            "attention_mask": pad_sequence(present, batch_first=True),
        }

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        save_encoder(self.embedder, Path(output_path))

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        init_defaults: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> LatentModule:
        """Raises ValueError as `load_exported` does, and for what is no folder and no model of the Hub."""
        folder = load_dir_path(model_name_or_path, subfolder, token, cache_folder, revision, local_files_only)
        if folder is None:
            raise ValueError(f"'{model_name_or_path}' is no folder and no model of the Hub")
        return cls(load_exported(folder))
