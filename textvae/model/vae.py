"""The whole model as a Hugging Face `PreTrainedModel`: encoder -> hierarchy -> decoder.

Shapes: S sentences, U_l units of level l, N predicted tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from textvae.config import Likelihood, ModelConfig, check_level_name, parse, to_dict
from textvae.data.batch import BatchLayout, DocumentBatch
from textvae.model.adapter import merge_adapters
from textvae.model.decoder import Decoder, DecoderPass
from textvae.model.encoder import BottomUp, SentenceEncoder, encoder_class
from textvae.model.hierarchy import Hierarchy, HierarchyPass
from textvae.model.level import LatentSource, UnitFeatures
from textvae.model.noise import KeyedNoise
from textvae.model.structure import stop_labels
from textvae.model.topics import TopicHead

ROW_TOKENS = 256
"""Length of rows that hold several sentences each, at attention that costs next to nothing."""
ROW_CONTEXTS = 4
"""Length of rows that hold several wider contexts, in full ones, of which the last sentence sticks out."""


class TextVAEConfig(PretrainedConfig):
    """Everything that rebuilds the model without its training data."""

    model_type = "textvae"

    def __init__(
        self,
        hierarchy: Sequence[str] = ("document", "paragraph", "sentence"),
        settings: Mapping[str, Any] | None = None,
        encoder_config: Mapping[str, Any] | None = None,
        decoder_config: Mapping[str, Any] | None = None,
        tokens: Mapping[str, int] | None = None,
        references: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """hierarchy: names of the data's levels, top first; settings: a `ModelConfig` as plain values;
        encoder_config, decoder_config: Hugging Face configurations as dicts; tokens: `start_id`, `end_id`,
        `decoder_pad_id` and `encoder_pad_id`; references: by part of the model, name and digest of the backbone whose
        frozen weights were not saved with it."""
        self.hierarchy = list(hierarchy)
        self.settings = dict(settings or {})
        # Runs of version 0.1 call them `encoder` and `decoder`, which transformers takes for text configurations.
        self.encoder_config = dict(kwargs.pop("encoder", None) or encoder_config or {})
        self.decoder_config = dict(kwargs.pop("decoder", None) or decoder_config or {})
        self.tokens = dict(tokens or {})
        self.references = dict(references or {})
        super().__init__(**kwargs)

    @property
    def model_config(self) -> ModelConfig:
        return parse(ModelConfig, self.settings, "the model's config.json")


@dataclass(frozen=True)
class VAEOutput:
    """Distributions and scores; the objective alone makes a loss of them."""

    hierarchy: HierarchyPass
    text: DecoderPass
    bag: DecoderPass | None = None
    """The words predicted from the top latent alone; None unless asked for."""
    states: Tensor | None = None
    """[U, F] the pretrained encoder's, averaged over the units of the top level; None for a plain language model."""


class DocumentVAE(PreTrainedModel):
    """Latents for every unit of a document, inferred bottom-up and decoded top-down.

    Works on tensors; `textvae.HierarchicalTextVAE` adds the text.
    """

    config_class = TextVAEConfig
    base_model_prefix = "textvae"
    supports_gradient_checkpointing = False
    # In half precision too: latents, Gaussians and what they are made of are small, and their rates are differences.
    _keep_in_fp32_modules_strict = [  # noqa: RUF012
        "hierarchy",
        "bottom_up",
        "decoder.structure",
        "decoder.conditioner",
        "decoder.topic_head",
    ]
    _supports_sdpa = True

    def __init__(
        self, config: TextVAEConfig, encoder: PreTrainedModel | None = None, decoder: PreTrainedModel | None = None
    ) -> None:
        """`encoder`, `decoder`: pretrained backbones; None builds them from `config` (their weights then
        come with the rest)."""
        super().__init__(config)
        settings = config.model_config
        names = check_levels(config.hierarchy, settings)
        self.encoder = None
        if names:
            values = _backbone_config(config.encoder_config)
            backbone = encoder or encoder_class(values).from_config(values)
            self.encoder = SentenceEncoder(backbone, settings.encoder)
        feature_size = 0 if self.encoder is None or not settings.encoder.linear else self.encoder.feature_size
        self.hierarchy = Hierarchy(config.hierarchy, settings.levels, settings.units, feature_size)
        self._layout = BatchLayout(
            hierarchy=tuple(config.hierarchy),
            context=settings.decoder.context,
            context_tokens=settings.decoder.context_tokens,
            **config.tokens,
        )
        self.decoder = Decoder(
            decoder or AutoModelForCausalLM.from_config(_backbone_config(config.decoder_config)),
            settings.decoder,
            {level.name: level.latent_size for level in settings.levels},
            len(self.hierarchy.stop_heads.decoder),
            self._layout.chunk_tokens,
        )
        self.bottom_up = None
        self.sees_words = settings.encoder.words
        if self.encoder is not None:
            top = config.hierarchy.index(names[0])
            topics = self._token_topics
            self.bottom_up = BottomUp(
                self.encoder.feature_size,
                0 if topics is None else topics.in_features,
                config.hierarchy,
                top,
                settings.units,
            )
        self._keys_to_ignore_on_load_missing = [rf"^{part}\.backbone\." for part in config.references]
        for part in config.references:
            getattr(self, part).all_tied_weights_keys = {}  # what is not in the file is tied when it has been restored
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Modules initialise themselves; Hugging Face's default would undo their zero starts."""

    def merge_adapters(self) -> None:
        """Add the adapters to the weights that they stand beside. The model computes what it did; saved from now on, it
        holds its whole backbones, and loading it needs neither peft nor what they were made from.

        Raises ValueError when there are no adapters.
        """
        settings = self.config.model_config
        parts = [part for part in ("encoder", "decoder") if getattr(self, part) is not None]
        adapted = [part for part in parts if getattr(settings, part).lora is not None]
        if not adapted:
            raise ValueError("there are no adapters to merge: the model was trained without decoder.lora, encoder.lora")
        for part in adapted:
            merge_adapters(getattr(self, part).backbone)
        whole = {part: replace(getattr(settings, part), lora=None, save_frozen=True) for part in parts}
        # Its weights are no longer those of the backbone by its name.
        whole["decoder"] = replace(whole["decoder"], trainable=None)
        self.config.settings = to_dict(replace(settings, **whole))
        self.config.references = {}

    @property
    def level_names(self) -> tuple[str, ...]:
        """Levels that carry a latent, top first."""
        return tuple(self.hierarchy.levels)

    @property
    def layout(self) -> BatchLayout:
        """What the model asks of its batches, where it stands now."""
        is_wide = self._layout.context != self._layout.hierarchy[-1]
        if not self.decoder.packs(is_wide):
            return self._layout
        columns = ROW_CONTEXTS * self._layout.context_tokens if is_wide else ROW_TOKENS
        return replace(self._layout, row_tokens=min(columns, self._layout.chunk_tokens))

    @property
    def _token_topics(self) -> TopicHead | None:
        """What tells the posterior of the tokens, where it sees them."""
        return self.decoder.topic_head if self.sees_words else None

    def features(self, batch: DocumentBatch) -> dict[str, UnitFeatures] | None:
        """Bottom-up features by level; None for a plain language model."""
        if self.bottom_up is None:
            return None
        topics = self._token_topics
        rows = None if topics is None else topics.rows()
        return self.bottom_up(self.sentence_features(batch), rows, batch)

    def sentence_features(self, batch: DocumentBatch) -> Tensor:
        """The pretrained encoder's pooled states [S, F], cached or computed now.

        Raises ValueError for a plain language model, which has no encoder.
        """
        if self.encoder is None:
            raise ValueError("a plain language model has no encoder; train one with levels")
        if batch.features is not None:
            if batch.features.shape[-1] != self.encoder.feature_size:
                raise ValueError(
                    f"the data's cached features have {batch.features.shape[-1]} dimensions, the encoder's "
                    f"{self.encoder.feature_size}; prepare the data with the model's encoder, or without features"
                )
            return batch.features
        return self.encoder(batch.encoder_chunks, len(batch.levels[-1]))

    def forward(
        self,
        batch: DocumentBatch,
        noise: KeyedNoise,
        sources: Mapping[str, LatentSource] | None = None,
        likelihood: Likelihood = "decoder",
        with_bag: bool = False,
    ) -> VAEOutput:
        """Infer, draw and score. `sources` says where each level's z comes from (default: its posterior);
        `with_bag` also predicts the words from the top latent alone."""
        features = self.features(batch)
        passed = self.hierarchy(features, batch, noise, sources)
        top = {name: passed.z[name] for name in self.level_names[:1]}
        if likelihood == "bag_of_words":
            output = VAEOutput(passed, self.score_bag(passed.z, batch))
        else:
            output = self.score(passed, batch, noise if self.training else None)
        if with_bag:
            output = replace(output, bag=self.score_bag(top, batch))
        if features is not None:
            output = replace(output, states=features[self.level_names[0]].states)
        return output

    def score(self, passed: HierarchyPass, batch: DocumentBatch, noise: KeyedNoise | None = None) -> VAEOutput:
        """Score the text of `batch` under latents that were already drawn; `noise` only when training."""
        return VAEOutput(passed, self.score_text(passed.z, batch, noise))

    def score_text(self, z: Mapping[str, Tensor], batch: DocumentBatch, noise: KeyedNoise | None = None) -> DecoderPass:
        """p(text | z) for latents by level, each [U_l, Z_l]; `noise` only when training."""
        gathered, labels = self._at_sentences(z, batch)
        return self.decoder(gathered, batch, labels, noise)

    def score_bag(self, z: Mapping[str, Tensor], batch: DocumentBatch) -> DecoderPass:
        """p(words | z) with the words of a sentence as a bag; `z` [U_l, Z_l] of all levels or only some."""
        gathered, labels = self._at_sentences(z, batch)
        return self.decoder.score_bag(gathered, batch, labels)

    def _at_sentences(self, z: Mapping[str, Tensor], batch: DocumentBatch) -> tuple[dict[str, Tensor], Tensor]:
        """`z` by level, each [S, Z_l], and the labels of the decoder's stop heads [S, E]."""
        lowest = len(batch.levels) - 1
        gathered = {name: values[batch.ancestor(lowest, batch.level_number(name))] for name, values in z.items()}
        return gathered, stop_labels(batch, lowest, self.hierarchy.stop_heads.decoder)

    def set_chunk_tokens(self, chunk_tokens: int) -> None:
        """Padded tokens that are decoded at a time: the memory budget of training and scoring."""
        self._layout = replace(self._layout, chunk_tokens=chunk_tokens)
        self.decoder.chunk_tokens = chunk_tokens


def check_levels(hierarchy: Sequence[str], settings: ModelConfig) -> tuple[str, ...]:
    """The latent levels' names; ValueError when one, or the context, is not a level of the data or out of order."""
    names = tuple(level.name for level in settings.levels)
    for name in hierarchy:
        check_level_name(name)
    for name in (*names, settings.decoder.context):
        if name not in hierarchy:
            raise ValueError(f"there is no level '{name}' in the data; its levels are {list(hierarchy)}, top first")
    if settings.decoder.prefix_length and settings.decoder.context != hierarchy[-1]:
        raise ValueError(
            f"model.decoder.prefix_length stands before single sentences: set model.decoder.context to "
            f"'{hierarchy[-1]}', not '{settings.decoder.context}'"
        )
    if list(names) != sorted(names, key=list(hierarchy).index):
        raise ValueError(f"model.levels {list(names)} must stand in the data's order {list(hierarchy)}, top first")
    return names


def _backbone_config(values: Mapping[str, Any]) -> PretrainedConfig:
    values = dict(values)
    return AutoConfig.for_model(values.pop("model_type"), **values)
