"""The model with its text side: what a user loads and calls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from textvae.atomic import write_json
from textvae.damage import CHECKSUMS_FILE, checksums, read_json_object, reading, verify
from textvae.data.batch import DocumentBatch
from textvae.data.collate import collate
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.text.processor import DECODER_FOLDER, ENCODER_FOLDER, PROCESSOR_FILE, DocumentProcessor
from textvae.frozen import references, restore_frozen, without_frozen
from textvae.model.level import LatentSource
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE, TextVAEConfig
from textvae.writing.best_of import write_best_of
from textvae.writing.decode import WrittenDocument, write_documents
from textvae.writing.operations import latents_of
from textvae.writing.operations import theme as theme_plan
from textvae.writing.options import SamplingOptions, check_range
from textvae.writing.plan import DocumentPlan, open_plan, plan_of

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
_AGAIN = "save the model again, or take up its run with train.resume=true"
_EDITED = f"put it back, or remove {CHECKSUMS_FILE} beside the model if it was changed on purpose"


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
    """The paragraphs between blank lines."""
    paragraphs: list[str]
    """Units above the lowest level; the whole document, if there is one level."""
    sentences: list[str]
    structure: list[list[int]]
    """Number of children of every unit, by level, top first."""
    plan: DocumentPlan = field(compare=False, repr=False)
    """What it was written from, every unit's latent included: `writing.operations` make other plans of it."""


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
        self.weights_sha256: tuple[str, ...] = ()
        """Those that the file may have that the weights were loaded from; none where they were not, or it is not known.
        """

    @property
    def processor(self) -> DocumentProcessor:
        """Text -> tokens. Raises ValueError when the model was built without one."""
        if self._processor is None:
            raise ValueError("this model has no text processor; load it with from_pretrained, which brings it along")
        return self._processor

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *args: Any, **kwargs: Any) -> HierarchicalTextVAE:  # type: ignore[override]
        """A run folder or a Hub name; brings the tokenizers along, from the same revision.

        `dtype` is that of the encoder and the decoder; latents and what they are made of stay float32. Raises
        ValueError for a folder with a damaged file or without some of the weights, OSError as Hugging Face does.
        """
        kwargs["key_mapping"] = RENAMED_WEIGHTS | (kwargs.get("key_mapping") or {})
        folder, sums = Path(name), {}
        if (folder / CHECKSUMS_FILE).is_file():
            sums = read_json_object(folder / CHECKSUMS_FILE, _EDITED)
            verify(folder, sums, _EDITED)
        with reading(folder, _AGAIN):
            found: Any = super().from_pretrained(name, *args, **kwargs, output_loading_info=True)
            model, loaded = found
            elsewhere = tuple(f"{part}.backbone." for part in model.config.references)
            missing = sorted(key for key in loaded["missing_keys"] if not key.startswith(elsewhere))
            if missing:
                raise ValueError(f"{len(missing)} weights are missing, the first is {missing[0]}")
        model.weights_sha256 = tuple(str(sums.get(SAFE_WEIGHTS_NAME, "")).split())
        restore_frozen(model, model.config.references)
        dtype = kwargs.get("dtype")
        if isinstance(dtype, str) and dtype != "auto":
            dtype = getattr(torch, dtype)
        if isinstance(dtype, torch.dtype):
            # Not all were cast on the way: not those that the folder does not hold, nor those of backbones whose own
            # configuration says otherwise.
            for part in filter(None, (model.encoder, model.decoder)):
                # Weights alone: frequencies of rotary positions stay as exact as they are.
                for weight in part.backbone.parameters():
                    if weight.is_floating_point():
                        weight.data = weight.data.to(dtype)
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
        given = kwargs.get("state_dict")
        weights = without_frozen(self, self.state_dict() if given is None else given)
        super().save_pretrained(save_directory, *args, **{**kwargs, "state_dict": weights})
        self.processor.save_pretrained(save_directory)
        write_json(Path(save_directory) / CHECKSUMS_FILE, _described(Path(save_directory)))
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
    def latents(self, batch: DocumentBatch, given: Mapping[str, Tensor] | None = None) -> dict[str, LevelLatents]:
        """Posterior of every unit by level, top first, each inferred with its ancestors' means, or where they are
        `given` ([U, Z] by level) with these."""
        sources: dict[str, LatentSource] = {**dict.fromkeys(self.level_names, "mean"), **(given or {})}
        passed = self.hierarchy(self.features(batch), batch, KeyedNoise(0), sources)
        found = {}
        for name, level in passed.levels.items():
            document = batch.levels[batch.level_number(name)].document
            found[name] = LevelLatents(level.posterior.mean, level.posterior.log_variance, document)
        return found

    def encode(self, texts: Texts, batch_size: int | None = None) -> dict[str, LevelLatents]:
        """Latents of `texts`, one or several, at every level: `encode(texts)["document"].mean` is [documents, Z].

        batch_size: documents that are read at a time, similar lengths together (None: all). Raises ValueError where it
        is below 1, and for a document without a sentence.
        """
        documents = self.process(texts)
        if batch_size is None:
            return self.latents(self.batch(documents))
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be 1 or more")
        order = sorted(range(len(documents)), key=lambda number: -documents[number].num_tokens)
        parts = [order[first : first + batch_size] for first in range(0, len(order), batch_size)] or [[]]
        found = [self.latents(self.batch([documents[number] for number in part])) for part in parts]
        return {name: _in_order([level[name] for level in found], parts) for name in self.level_names}

    def generate(
        self,
        theme: Tensor | None = None,
        num: int = 1,
        *,
        seed: int = 0,
        options: SamplingOptions | None = None,
    ) -> list[GeneratedDocument]:
        """Write `num` documents; `theme` [Z] holds the top latent, the rest is drawn from the prior.

        Raises ValueError for a theme that the model has no place for, and for `num` below 1.
        """
        check_range("num", num)
        plan = open_plan(self.config.hierarchy)
        if theme is not None:
            size = self.hierarchy.stack[self.theme_level].latent_size
            if theme.shape != (size,):
                raise ValueError(
                    f"a theme is one latent of level '{self.theme_level}', shape [{size}]; got {list(theme.shape)}"
                )
            plan = theme_plan(theme, self.config.hierarchy)
        return self.write([plan] * num, seed=seed, options=options)

    @property
    def theme_level(self) -> str:
        """The level of whole documents. Raises ValueError for a model that has no latent there."""
        top = self.config.hierarchy[0]
        if self.level_names[:1] != (top,):
            raise ValueError(f"a theme is a latent at level '{top}'; this model's levels are {list(self.level_names)}")
        return top

    def plan(self, source: str | SourceDocument | EncodedDocument, under: DocumentPlan | None = None) -> DocumentPlan:
        """All of a document held: its latents' means, its structure, its tokens. What is not to be held, and what is
        to be put in its place, `writing.operations` say.

        under: a plan whose held levels take the place of the document's own; those below them are inferred from the
        document's text under these. Raises ValueError where they have not as many units as the document.
        """
        document = source if isinstance(source, EncodedDocument) else self.process([source])[0]
        batch = self.batch([document])
        given = {} if under is None else {name: latents_of(under, name).to(self.device) for name in under.z}
        for name, z in given.items():
            count = len(batch.levels[batch.level_number(name)])
            if len(z) != count:
                raise ValueError(
                    f"the documents have {len(z)} and {count} units at level '{name}'; a document can be read under "
                    "latents of one that has equally many there"
                )
        latents = {name: level.mean for name, level in self.latents(batch, given).items()} | given
        sentences = [ids.tolist() for ids in document.decoder_sentences()]
        return plan_of(latents, document.structure, self.config.hierarchy, sentences)

    def write(
        self,
        plans: Sequence[DocumentPlan],
        *,
        seed: int = 0,
        options: SamplingOptions | None = None,
        draws: Sequence[int] | None = None,
        progress: bool | None = False,
    ) -> list[GeneratedDocument]:
        """Complete plans and turn them into text.

        A document is a function of its plan, `seed` and its number in `draws` (default: 0, 1, 2, ...), whatever it is
        written beside; plans of the same number share their noise. progress: whether to show a bar on standard error
        (None: if that is a terminal).
        """
        options = options or SamplingOptions()
        if options.best_of == 1:
            written = write_documents(self, plans, options, seed, draws, progress)
        else:
            written = write_best_of(self, plans, options, seed, draws, progress, encode=self.processor.encode_written)
        return [self._to_text(document) for document in written]

    def reread(self, document: GeneratedDocument) -> EncodedDocument:
        """What was written, as a document to encode: with its structure and its tokens, not segmented again."""
        sentences = [ids for ids in document.plan.sentences or () if ids is not None]
        return self.processor.encode_written(document.structure, sentences)

    def _to_text(self, document: WrittenDocument) -> GeneratedDocument:
        counts = document.structure[-1] if document.structure else [len(document.sentences)]
        ends = accumulate(counts, initial=0)
        paragraphs = [self.processor.join(document.sentences[start:end]) for start, end in pairwise(ends)]
        sentences = [self.processor.join([ids]) for ids in document.sentences]
        return GeneratedDocument("\n\n".join(paragraphs), paragraphs, sentences, document.structure, document.plan)


def _in_order(found: Sequence[LevelLatents], parts: Sequence[Sequence[int]]) -> LevelLatents:
    """One level's latents of batches of the documents in `parts`, in the order of the documents."""
    pairs = zip(found, parts, strict=True)
    document, order = torch.cat([of.document.new_tensor(part)[of.document] for of, part in pairs]).sort(stable=True)
    mean, log_variance = torch.cat([of.mean for of in found]), torch.cat([of.log_variance for of in found])
    return LevelLatents(mean[order], log_variance[order], document)


def _described(folder: Path) -> dict[str, str]:
    """Checksums of all that a saved model consists of."""
    patterns = ("config.json", "*.safetensors*", PROCESSOR_FILE, f"{ENCODER_FOLDER}/*", f"{DECODER_FOLDER}/*")
    return checksums(folder, (file for pattern in patterns for file in folder.glob(pattern)))
