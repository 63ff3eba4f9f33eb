"""Bottom-up: a pretrained encoder reads the sentences, small transformers contextualise every level.

Shapes: S sentences, U_l units of level l, D unit width, F feature size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from textvae.config import UnitConfig
from textvae.data.batch import DocumentBatch, EncoderChunk
from textvae.model.units import AttentionPool, UnitTransformer, segment_mean


class SentenceEncoder(nn.Module):
    """Any Hugging Face encoder, its token states averaged over each sentence."""

    def __init__(self, backbone: PreTrainedModel, layers: Sequence[int], trainable: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.layers = tuple(layers)
        self.trainable = trainable
        self.feature_size = backbone.config.hidden_size * len(self.layers)
        if trainable and not {-1, backbone.config.num_hidden_layers}.intersection(self.layers):
            raise ValueError(
                f"model.encoder.layers {list(self.layers)} leave out the last (-1), which a trained encoder "
                "needs: what lies above the layers that are read would never learn"
            )
        # Heads that only serve pretraining would never receive a gradient.
        if getattr(backbone, "pooler", None) is not None:
            backbone.register_module("pooler", None)
        backbone.requires_grad_(trainable)

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
        states = self.backbone(input_ids=chunk.ids, attention_mask=chunk.mask, output_hidden_states=True).hidden_states
        mask = chunk.mask[..., None].float()
        means = [(states[layer].float() * mask).sum(1) / mask.sum(1) for layer in self.layers]
        return torch.cat(means, dim=-1)


class BottomUp(nn.Module):
    """Features of the units of every level, from the lowest up.

    Attention pooling makes parents of children; a skip path from the sentence features to every level keeps
    its gradient independent of depth.
    """

    def __init__(self, feature_size: int, hierarchy: Sequence[str], top: int, config: UnitConfig) -> None:
        """`hierarchy`: names of all levels; features are made from the lowest up to level number `top`."""
        super().__init__()
        self.hierarchy = tuple(hierarchy)
        self.top = top
        width = config.width
        self.normalise = nn.LayerNorm(feature_size)
        self.skip = nn.ModuleDict({name: nn.Linear(feature_size, width) for name in hierarchy[top:]})
        self.pool = nn.ModuleDict({name: AttentionPool(width, config.heads) for name in hierarchy[top:-1]})
        # One unit a document at the root: nothing to contextualise.
        context = hierarchy[max(top, 1) :]
        self.context = nn.ModuleDict({name: UnitTransformer(config, causal=False) for name in context})

    def forward(self, features: Tensor, batch: DocumentBatch) -> dict[str, Tensor]:
        """[S, F] -> [U_l, D] for every level from the lowest up to `top`."""
        features = self.normalise(features.float())
        lowest = len(self.hierarchy) - 1
        hidden: dict[str, Tensor] = {}
        for depth in range(lowest, self.top - 1, -1):
            name, level = self.hierarchy[depth], batch.levels[depth]
            means = features if depth == lowest else segment_mean(features, batch.ancestor(lowest, depth), len(level))
            units = self.skip[name](means)
            if depth < lowest:
                below = batch.levels[depth + 1]
                units = units + self.pool[name](hidden[below.name], below.parent, len(level))
            hidden[name] = units + self.context[name](units, level.rows) if name in self.context else units
        return hidden
