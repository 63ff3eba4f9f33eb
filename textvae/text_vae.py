"""The model with its text side: what a user loads and calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from textvae.data.batch import DocumentBatch
from textvae.data.collate import collate
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.text.processor import DocumentProcessor
from textvae.frozen import references, restore_frozen, without_frozen
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE, TextVAEConfig
from textvae.writing.decode import WrittenDocument, write_documents
from textvae.writing.plan import DocumentPlan, SamplingOptions, plan_of

Texts = str | SourceDocument | Sequence[str | SourceDocument]
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download")
"""Of `from_pretrained`: where its files lie."""
PUSH_ARGUMENTS = (
    "repo_id",
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "create_pr",
    "tags",
)
"""Of `save_pretrained` with `push_to_hub=True`."""
RENAMED_WEIGHTS = {
    r"^decoder\.vocabulary\.": "decoder.topic_head.",
    r"^decoder\.unigram$": "decoder.topic_head.unigram",
}
"""What runs of version 0.1 call them."""


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

    def __init__(
        self,
        config: TextVAEConfig,
        encoder: PreTrainedModel | None = None,
        decoder: PreTrainedModel | None = None,
        processor: DocumentProcessor | None = None,
    ) -> None:
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
        """A run folder or a Hub name; brings the tokenizers along, from the same revision.

        `dtype` is that of the encoder and the decoder; latents and what they are made of stay float32.
        """
        kwargs["key_mapping"] = RENAMED_WEIGHTS | (kwargs.get("key_mapping") or {})
        model = super().from_pretrained(name, *args, **kwargs)
        restore_frozen(model, model.config.references)
        of_hub = {key: kwargs[key] for key in HUB_ARGUMENTS if kwargs.get(key) is not None}
        model._processor = DocumentProcessor.from_pretrained(name, **of_hub)
        return model

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Weights, configuration and tokenizers: all that `from_pretrained` needs.

        `push_to_hub=True` uploads them as well, as `push_to_hub` does, to `repo_id` (default: the folder's name).
        """
        wants_push = kwargs.pop("push_to_hub", False)
        of_push = {key: kwargs.pop(key) for key in PUSH_ARGUMENTS if key in kwargs}
        self.config.references = references(self)
        super().save_pretrained(save_directory, *args, **{"state_dict": without_frozen(self), **kwargs})
        self.processor.save_pretrained(save_directory)
        if wants_push:
            self.push_to_hub(**({"repo_id": Path(save_directory).name} | of_push))

    def process(self, texts: Texts) -> list[EncodedDocument]:
        """Segment and tokenise. Raises ValueError naming a document without a sentence."""
        several = [texts] if isinstance(texts, str | SourceDocument) else texts
        sources = [
            SourceDocument(id=f"text-{number}", text=text) if isinstance(text, str) else text
            for number, text in enumerate(several)
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

    def encode(self, texts: Texts) -> dict[str, LevelLatents]:
        """Latents of `texts`, one or several, at every level: `encode(texts)["document"].mean` is [documents, Z]."""
        return self.latents(self.batch(self.process(texts)))

    def generate(
        self,
        theme: Tensor | None = None,
        num: int = 1,
        *,
        seed: int = 0,
        options: SamplingOptions | None = None,
    ) -> list[GeneratedDocument]:
        """Write `num` documents; `theme` [Z] holds the top latent, the rest is drawn from the prior.

        Raises ValueError when a theme is given to a model without a latent at the root.
        """
        z: dict[str, Tensor] = {}
        if theme is not None:
            level = self._theme_level()
            size = self.hierarchy.stack[level].latent_size
            if theme.shape != (size,):
                raise ValueError(f"a theme is one latent of level '{level}', shape [{size}]; got {list(theme.shape)}")
            z[level] = theme.to(self.device)[None]
        return self.write([DocumentPlan(dict(z)) for _ in range(num)], seed=seed, options=options)

    def draw_theme(self, seed: int) -> Tensor:
        """A top latent [Z] from its prior N(0, I). Raises ValueError for a model that has none."""
        size = self.hierarchy.stack[self._theme_level()].latent_size
        return torch.randn(size, generator=torch.Generator().manual_seed(seed))

    def interpolate(
        self,
        start: str | SourceDocument,
        end: str | SourceDocument,
        steps: int,
        level: str | None = None,
        *,
        seed: int = 0,
        options: SamplingOptions | None = None,
    ) -> list[GeneratedDocument]:
        """Documents on the straight way between the latents of two, both ends included.

        The latents of `level` (default: the top) move; those above it, and the structure, are the start's; those
        below are drawn anew with the same noise at every step. Raises ValueError when the two documents differ
        in their number of units at `level`.
        """
        level = level or self._theme_level()
        if level not in self.level_names:
            raise ValueError(f"there is no latent level '{level}'; this model's are {list(self.level_names)}")
        if steps < 2:
            raise ValueError(f"an interpolation needs both ends: steps is {steps}, it must be 2 or more")
        below = self.config.hierarchy[self.config.hierarchy.index(level) + 1 :]
        first, last = (self.plan(source, resample=below[0] if below else None) for source in (start, end))
        if len(first.z[level]) != len(last.z[level]):
            raise ValueError(
                f"the documents have {len(first.z[level])} and {len(last.z[level])} units at level '{level}'; "
                "interpolate at a level where they have equally many, such as the top"
            )
        written = []
        for share in torch.linspace(0, 1, steps).tolist():
            moved = first.z | {level: torch.lerp(first.z[level], last.z[level], share)}
            written += self.write([DocumentPlan(moved, first.counts)], seed=seed, options=options)
        return written

    def resample(
        self,
        source: str | SourceDocument,
        level: str,
        num: int = 1,
        *,
        seed: int = 0,
        options: SamplingOptions | None = None,
    ) -> list[GeneratedDocument]:
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

    def _theme_level(self) -> str:
        if not self.level_names or self.level_names[0] != self.config.hierarchy[0]:
            raise ValueError(
                f"a theme is a latent at level '{self.config.hierarchy[0]}'; this model's levels are "
                f"{list(self.level_names)}"
            )
        return self.level_names[0]

    def plan(self, source: str | SourceDocument, resample: str | None) -> DocumentPlan:
        """Latent means and structure of a document, kept above level `resample` (None: all)."""
        return self.plan_processed(self.process([source])[0], resample)

    def plan_processed(self, document: EncodedDocument, resample: str | None) -> DocumentPlan:
        """`plan` for a document that is segmented and tokenised already."""
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
        counts = document.structure[-1] if document.structure else [len(document.sentences)]
        ends = accumulate(counts, initial=0)
        paragraphs = [self.processor.join(document.sentences[start:end]) for start, end in pairwise(ends)]
        sentences = [self.processor.join([ids]) for ids in document.sentences]
        return GeneratedDocument("\n\n".join(paragraphs), sentences, document.structure)
