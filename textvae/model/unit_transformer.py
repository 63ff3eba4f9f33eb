"""Transformers and pooling over units.

Shapes: U units of one level, D width, R x C packed rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache, MistralConfig, MistralModel

from textvae.config import UnitConfig
from textvae.data.packing import PackedRows
from textvae.model.masks import attention_mask


class UnitTransformer(nn.Module):
    """A small transformer over the units of a level, each document by itself.

    Rotary positions are relative and a unit sees at most `window` units away, so documents of any length
    stay within the distances seen in training.
    """

    def __init__(self, config: UnitConfig, causal: bool) -> None:
        super().__init__()
        self.window = config.window
        self.causal = causal
        self.backbone = MistralModel(
            MistralConfig(
                vocab_size=1,
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                num_key_value_heads=config.heads,
                head_dim=config.width // config.heads,
                sliding_window=config.window,
                bos_token_id=None,
                eos_token_id=None,
            )
        )
        # Inputs are vectors; the unused table must not wait for gradients in distributed training.
        self.backbone.embed_tokens.requires_grad_(False)

    def forward(self, units: Tensor, rows: PackedRows) -> Tensor:
        """[U, D] -> [U, D]."""
        visible = rows.mask(self.window, self.causal)
        hidden = self.backbone(
            inputs_embeds=rows.scatter(units),
            attention_mask=attention_mask(visible, self.backbone.config, units.dtype),
            position_ids=rows.position,
            use_cache=False,
        ).last_hidden_state
        return rows.gather(hidden)

    def start(self) -> DynamicCache:
        """The state before the first unit, for `step`."""
        return DynamicCache(config=self.backbone.config)

    def step(self, unit: Tensor, cache: DynamicCache) -> Tensor:
        """The next unit [K, D] of each of K parallel documents -> [K, D]; `cache` moves on."""
        return self.backbone(inputs_embeds=unit[:, None], past_key_values=cache).last_hidden_state[:, 0]


class AttentionPool(nn.Module):
    """Parents from their children: softmax-weighted sums, one learned query a head (Yang et al. 2016)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.score = nn.Linear(width, heads)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, children: Tensor, parent: Tensor, num_parents: int) -> Tensor:
        """[U, D] children and the parent [U] of each -> [num_parents, D]."""
        score = self.score(children).float()
        highest = score.new_full((num_parents, self.heads), -torch.inf)
        highest = highest.scatter_reduce(0, parent[:, None].expand_as(score), score.detach(), "amax")
        weight = (score - highest[parent]).exp()
        total = weight.new_zeros(num_parents, self.heads).index_add(0, parent, weight)
        values = self.value(children).unflatten(-1, (self.heads, -1)).float()
        weighted = (weight / total[parent])[..., None] * values
        pooled = values.new_zeros(num_parents, *values.shape[1:]).index_add(0, parent, weighted)
        return self.output(pooled.flatten(1))


def segment_mean(values: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Mean of `values` [U, D] over the members of every segment -> [num_segments, D], float32; 0 without members."""
    total = values.new_zeros(num_segments, values.shape[-1], dtype=torch.float32)
    # bincount would make the host wait for the device.
    count = total.new_zeros(num_segments).index_add(0, segment, total.new_ones(len(segment)))
    return total.index_add(0, segment, values.float()) / count.clamp(min=1)[:, None]
