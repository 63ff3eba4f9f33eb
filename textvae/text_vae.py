"""The model with its text side: what a user loads and calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from textvae.data.batch import DocumentBatch, collate
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.processing import DocumentProcessor
from textvae.generation import DocumentPlan, SamplingOptions, WrittenDocument, plan_of, write_documents
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE, TextVAEConfig


@dataclass(frozen=True)
class LevelLatents:
    """Posteriors of all units of one level, for several documents."""

    mean: Tensor
    """[U, Z], inferred with the ancestors' means."""
    log_variance: Tensor
    """[U, Z]"""
    document: Tensor
    """[U] number of the document that each unit is of."""

    def of(self, document: int) -> Tensor:
        """Means [units, Z] of one document, in reading order."""
        return self.mean[self.document == document]


@dataclass(frozen=True)
class GeneratedDocument:
    text: str
    """Paragraphs (units above the lowest level) are separated by blank lines."""
    sentences: list[str]
    structure: list[list[int]]
    """Number of children of every unit, by level, top first."""


class HierarchicalTextVAE(DocumentVAE):
    """A hierarchical VAE over documents.

    Example:
        model = HierarchicalTextVAE.from_pretrained("runs/quickstart")
        z = model.encode(["A first document ...", "A second ..."])
        texts = model.generate(theme=z["document"].mean[0], num=4)
    """

    def __init__(self, config: TextVAEConfig, encoder: PreTrainedModel | None = None,
                 decoder: PreTrainedModel | None = None, processor: DocumentProcessor | None = None) -> None:  # fmt: skip
        super().__init__(config, encoder, decoder)
        self._processor = processor

    @property
    def processor(self) -> DocumentProcessor:
        """Text -> tokens. Raises ValueError when the model was built without one."""
        if self._processor is None:
            raise ValueError("this model has no text processor; load it with from_pretrained, which brings it along")
        return self._processor

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *args: Any, **kwargs: Any) -> HierarchicalTextVAE:  # type: ignore[override]
        """A run folder or a Hub name; brings the tokenizers along."""
        model = super().from_pretrained(name, *args, **kwargs)
        model._processor = DocumentProcessor.from_pretrained(name)
        return model

    def save_pretrained(self, folder: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Weights, configuration and tokenizers: all that `from_pretrained` needs."""
        super().save_pretrained(folder, *args, **kwargs)
        self.processor.save_pretrained(folder)

    def process(self, texts: Sequence[str | SourceDocument]) -> list[EncodedDocument]:
        """Segment and tokenise. Raises ValueError naming a document without a sentence."""
        sources = [
            SourceDocument(id=f"text-{number}", text=text) if isinstance(text, str) else text
            for number, text in enumerate(texts)
        ]
        return [self.processor(source) for source in sources]

    def batch(self, documents: Sequence[EncodedDocument]) -> DocumentBatch:
        return collate(documents, self.layout).to(self.device)

    @torch.no_grad()
    def latents(self, batch: DocumentBatch) -> dict[str, LevelLatents]:
        """Posterior of every unit by level, top first, each inferred with its ancestors' means."""
        passed = self.hierarchy(self.features(batch), batch, KeyedNoise(0), dict.fromkeys(self.level_names, "mean"))
        found = {}
        for name, level in passed.levels.items():
            document = batch.levels[batch.level_number(name)].document
            found[name] = LevelLatents(level.posterior.mean, level.posterior.log_variance, document)
        return found

    def encode(self, texts: Sequence[str | SourceDocument]) -> dict[str, LevelLatents]:
        """Latents of `texts` at every level: `encode(texts)["document"].mean` is [len(texts), Z]."""
        return self.latents(self.batch(self.process(texts)))

    def generate(
        self, theme: Tensor | None = None, num: int = 1, *, seed: int = 0, options: SamplingOptions | None = None
    ) -> list[GeneratedDocument]:
        """Write `num` documents; `theme` [Z] holds the top latent, the rest is drawn from the prior.

        Raises ValueError when a theme is given to a model without a latent for whole documents.
        """
        z: dict[str, Tensor] = {}
        if theme is not None:
            if not self.level_names or self.level_names[0] != self.config.hierarchy[0]:
                raise ValueError(
                    f"a theme needs a latent at level '{self.config.hierarchy[0]}'; this model's levels are "
                    f"{list(self.level_names)}"
                )
            z[self.level_names[0]] = theme.to(self.device).reshape(1, -1)
        return self.write([DocumentPlan(dict(z)) for _ in range(num)], seed=seed, options=options)

    def resample(
        self, source: str | SourceDocument, level: str, num: int = 1, *, seed: int = 0,
        options: SamplingOptions | None = None,
    ) -> list[GeneratedDocument]:  # fmt: skip
        """Variations on a document: its latents and structure above `level` are kept, the rest is drawn anew.

        Raises ValueError for a level that the model's data do not have.
        """
        if level not in self.config.hierarchy:
            raise ValueError(f"there is no level '{level}'; this model's are {list(self.config.hierarchy)}")
        return self.write([self.plan(source, resample=level) for _ in range(num)], seed=seed, options=options)

    def reconstruct(self, source: str | SourceDocument) -> GeneratedDocument:
        """Infer the latents, and decode their means greedily."""
        plan = self.plan(source, resample=None)
        return self.write([plan], seed=0, options=SamplingOptions(temperature=0.0))[0]

    def plan(self, source: str | SourceDocument, resample: str | None) -> DocumentPlan:
        """Latent means and structure of a document, kept above level `resample` (None: all)."""
        (document,) = self.process([source])
        latents = {name: level.mean for name, level in self.latents(self.batch([document])).items()}
        return plan_of(latents, document.structure, self.config.hierarchy, resample)

    def write(
        self, plans: Sequence[DocumentPlan], *, seed: int = 0, options: SamplingOptions | None = None
    ) -> list[GeneratedDocument]:
        """Complete plans of latents and structure and turn them into text."""
        generator = torch.Generator().manual_seed(seed)
        written = write_documents(self, plans, options or SamplingOptions(), generator)
        return [self._to_text(document) for document in written]

    def _to_text(self, document: WrittenDocument) -> GeneratedDocument:
        tokenizer = self.processor.decoder_tokenizer
        sentences = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in document.sentences]
        counts = document.structure[-1] if document.structure else [len(sentences)]
        paragraphs, start = [], 0
        for count in counts:
            paragraphs.append(" ".join(sentences[start : start + count]))
            start += count
        return GeneratedDocument("\n\n".join(paragraphs), sentences, document.structure)
