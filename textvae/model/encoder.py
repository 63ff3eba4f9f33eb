"""Bottom-up: a pretrained encoder reads the sentences, small transformers contextualise every level.

Shapes: S sentences, N predicted tokens, U_l units of level l, D unit width, F feature size, W word size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from textvae.config import EncoderConfig, UnitConfig
from textvae.data.batch import DocumentBatch, EncoderChunk
from textvae.model.adapter import set_trainable, tied_weights
from textvae.model.level import UnitFeatures
from textvae.model.unit_transformer import AttentionPool, UnitTransformer, segment_mean


def encoder_class(config: PretrainedConfig) -> type[AutoModel] | type[AutoModelForTextEncoding]:
    """What builds the encoder of this configuration; of encoder-decoder models such as T5, the encoder alone.

    Raises ValueError where it cannot be had alone.
    """
    if type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return AutoModelForTextEncoding
    if config.is_encoder_decoder:
        raise ValueError(
            f"encoder '{config.model_type}' cannot be used without its decoder; choose an encoder such as MiniLM, "
            "ModernBERT or T5"
        )
    return AutoModel


def load_encoder(path: str) -> PreTrainedModel:
    """The pretrained encoder in folder or Hub repository `path`, float32."""
    return encoder_class(AutoConfig.from_pretrained(path)).from_pretrained(path, dtype=torch.float32)


class SentenceEncoder(nn.Module):
    """Any Hugging Face encoder, its token states averaged over each sentence."""

    def __init__(self, backbone: PreTrainedModel, config: EncoderConfig) -> None:
        super().__init__()
        self.backbone = backbone
        # Hugging Face asks the children of a model for these when it saves and loads.
        self.all_tied_weights_keys = tied_weights(backbone)
        self.layers = config.layers
        self.trainable = config.trainable is not False or config.lora is not None
        self.feature_size = backbone.config.hidden_size * len(self.layers)
        if self.trainable and not {-1, backbone.config.num_hidden_layers}.intersection(self.layers):
            raise ValueError(
                f"model.encoder.layers {list(self.layers)} leave out the last (-1), which a trained encoder "
                "needs: what lies above the layers that are read would never learn"
            )
        # Heads that only serve pretraining would never receive a gradient.
        if getattr(backbone, "pooler", None) is not None:
            backbone.register_module("pooler", None)
        set_trainable(backbone, config.trainable, config.lora)

    def train(self, mode: bool = True) -> SentenceEncoder:
        """A frozen backbone stays in evaluation mode: no dropout on fixed features."""
        super().train(mode)
        self.backbone.train(mode and self.trainable)
        return self

    def forward(self, chunks: Sequence[EncoderChunk], num_sentences: int) -> Tensor:
        """Mean-pooled states [S, F], float32."""
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            pooled = torch.cat([self._pool(chunk) for chunk in chunks])
        sentence = torch.cat([chunk.sentence for chunk in chunks])
        # Empty rows go to a spare place that is cut off again.
        place = torch.where(sentence >= 0, sentence, num_sentences)
        return pooled.new_zeros(num_sentences + 1, self.feature_size).index_copy(0, place, pooled)[:num_sentences]

    def _pool(self, chunk: EncoderChunk) -> Tensor:
        wants_inner = set(self.layers) != {-1}
        output = self.backbone(input_ids=chunk.ids, attention_mask=chunk.mask, output_hidden_states=wants_inner)
        states = output.hidden_states if wants_inner else [output.last_hidden_state]
        mask = chunk.mask[..., None].float()
        means = [(states[layer].float() * mask).sum(1) / mask.sum(1) for layer in self.layers]
        return torch.cat(means, dim=-1)


def word_sums(topics: Tensor, batch: DocumentBatch) -> Tensor:
    """[S, W + 1] sums of the words' rows of `topics` [V, W] over every sentence; the last column counts the words.

    Words are the decoder's tokens, sentence ends included.
    """
    words = F.pad(F.embedding(batch.tokens, topics), (0, 1), value=1.0)
    return words.new_zeros(len(batch.levels[-1]), words.shape[-1]).index_add(0, batch.token_sentence, words)


def word_features(sums: Tensor) -> Tensor:
    """[U, W + 1] of units whose sums, those of their sentences added up, are `sums` [U, W + 1].

    Where words follow logits that are linear in `topics`, as in the bag of words, sum and number of their rows are
    sufficient: log p(words | z) = <r(z), sum> - number * log-partition(r(z)), so the exact posterior depends on nothing
    else. Mean-pooled states blur which words there were; topic models infer better from both (Bianchi et al. 2021,
    CombinedTM). Over the square root of the number, chance words have the same size in units of every length.
    """
    number = sums[:, -1:]
    return torch.cat([sums[:, :-1] / number.sqrt(), number.log()], dim=-1)


class BottomUp(nn.Module):
    """Features of the units of every level, from the lowest up.

    Attention pooling makes parents of children; a skip path from the sentences' features and words to every level
    keeps its gradient independent of depth.
    """

    def __init__(
        self, feature_size: int, word_size: int, hierarchy: Sequence[str], top: int, config: UnitConfig
    ) -> None:
        """`hierarchy`: names of all levels; features are made from the lowest up to level number `top`. `word_size`: 0
        leaves the words out."""
        super().__init__()
        self.hierarchy = tuple(hierarchy)
        self.top = top
        width = config.width
        self.normalise = nn.LayerNorm(feature_size)
        inputs = feature_size + (word_size + 1 if word_size else 0)
        self.skip = nn.ModuleDict({name: nn.Linear(inputs, width) for name in hierarchy[top:]})
        self.pool = nn.ModuleDict({name: AttentionPool(width, config.heads) for name in hierarchy[top:-1]})
        # One unit a document at the root: nothing to contextualise.
        context = hierarchy[max(top, 1) :]
        self.context = nn.ModuleDict({name: UnitTransformer(config, causal=False) for name in context})

    def forward(self, features: Tensor, topics: Tensor | None, batch: DocumentBatch) -> dict[str, UnitFeatures]:
        """[S, F] and the words' rows of `topics` [V, W] -> those of every level from the lowest up to `top`."""
        plain = F.layer_norm(features.float(), self.normalise.normalized_shape)
        features = self.normalise(features.float())
        words = None if topics is None else word_sums(topics, batch)
        lowest = len(self.hierarchy) - 1
        hidden: dict[str, Tensor] = {}
        found: dict[str, UnitFeatures] = {}
        for depth in range(lowest, self.top - 1, -1):
            name, level = self.hierarchy[depth], batch.levels[depth]
            above = batch.ancestor(lowest, depth)
            told = features if depth == lowest else segment_mean(features, above, len(level))
            if words is not None:
                sums = words.new_zeros(len(level), words.shape[-1]).index_add(0, above, words)
                told = torch.cat([told, word_features(sums)], dim=-1)
            units = self.skip[name](told)
            if depth < lowest:
                below = batch.levels[depth + 1]
                units = units + self.pool[name](hidden[below.name], below.parent, len(level))
            hidden[name] = units + self.context[name](units, level.rows) if name in self.context else units
            found[name] = UnitFeatures(hidden[name], segment_mean(plain, above, len(level)))
        return found
