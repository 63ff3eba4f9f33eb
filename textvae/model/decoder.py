"""Top-down to text: any Hugging Face causal language model, unmodified, conditioned on the latents.

Shapes: S sentences, N predicted tokens, R x C one padded chunk, H hidden size, V vocabulary, E events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, DynamicCache, PreTrainedModel

from textvae.config import DecoderConfig
from textvae.data.batch import DocumentBatch, TokenChunk
from textvae.model.adapter import blocks_of, set_trainable, tied_weights
from textvae.model.backbone import (
    cache_argument,
    check_logits,
    check_mask,
    output_layer,
    output_logits,
    takes_packed_rows,
)
from textvae.model.conditioning import Conditioner, Prefix, Sites, add_latents, at_tokens, entering, open_inputs
from textvae.model.dropout import DropoutMasks
from textvae.model.level import StructureScores
from textvae.model.masks import attention_mask
from textvae.model.noise import KeyedNoise
from textvae.model.topics import TopicHead

LOGITS = 1 << 26
"""Logits that are held at a time: more are computed piece by piece, and again in the backward pass."""


@dataclass(frozen=True)
class DecoderPass:
    """How the text scored."""

    token_log_prob: Tensor
    """[N] in nats."""
    structure: StructureScores
    """[S, E] ends of the levels that no latent tells."""


class Decoder(nn.Module):
    """Scores text given the latents, and steps through it when sampling.

    Latents are added to the inputs of the decoder's blocks (and of its output layer), each time scaled by
    the size of the state that they are added to, or stand before the sentence as keys and values. Beside the
    decoder they have a low-rank path of their own to the logits: a product of the decoder's prediction and a
    topic model's (TopicRNN, Dieng et al. 2017).
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        config: DecoderConfig,
        latent_sizes: Mapping[str, int],
        num_events: int,
        chunk_tokens: int,
    ) -> None:
        """Raises ValueError for a backbone that cannot do what `config` asks of it.

        chunk_tokens: a batch of more than twice as many padded tokens is computed again in the backward pass.
        """
        super().__init__()
        self.backbone = backbone
        # Hugging Face asks the children of a model for these when it saves and loads.
        self.all_tied_weights_keys = tied_weights(backbone)
        self.chunk_tokens = chunk_tokens
        self.word_dropout = config.word_dropout
        self.topic_weight = config.topic_weight
        self.topic_context = config.topic_context
        self.context_dropout = config.context_dropout
        self.packing = config.packing
        self.checkpointing = config.gradient_checkpointing
        if config.attention is not None:
            backbone.set_attn_implementation(config.attention)
        set_trainable(backbone, config.trained, config.lora)
        head = output_layer(backbone)
        check_logits(backbone)
        if config.context_dropout:
            check_mask(backbone)
        self.cache_argument = cache_argument(backbone)
        self.structure = nn.Linear(head.in_features, num_events) if num_events else None
        self.conditioner: Conditioner | None = None
        self.topic_head: TopicHead | None = None
        self.prefix: Prefix | None = None
        if latent_sizes:
            self._condition(config, latent_sizes, head)

    def _condition(self, config: DecoderConfig, latent_sizes: Mapping[str, int], head: nn.Linear) -> None:
        hidden_size = self.backbone.config.get_text_config().hidden_size
        blocks = list(blocks_of(self.backbone))[: {"none": 0, "embedding": 1, "layers": None}[config.conditioning]]
        if config.conditioning == "layers" and config.conditioning_blocks is not None:
            blocks = _spread(blocks, config.conditioning_blocks)
        if config.prefix_length:
            self.prefix = Prefix.of(self.backbone, config.prefix_length)
        self.inputs = open_inputs(blocks)
        self.sites = Sites(
            blocks=len(blocks),
            output=config.conditioning == "layers",
            prefix=0 if self.prefix is None else self.prefix.num_sites(hidden_size),
            topics=config.logit_rank > 0,
        )
        self.conditioner = Conditioner(latent_sizes, config.conditioning_width, hidden_size, len(self.sites))
        if config.logit_rank:
            self.topic_head = TopicHead(min(config.logit_rank, hidden_size), head.out_features)

    @cached_property
    def can_pack(self) -> bool:
        """Whether a row may hold several sequences."""
        return self.prefix is None and takes_packed_rows(self.backbone)

    def packs(self, is_wide: bool) -> bool:
        """Whether rows are to hold several sequences, where the model stands now; `is_wide` are those of more than a
        sentence.

        Raises ValueError where it was asked for and cannot be.
        """
        if self.packing and not self.can_pack:
            raise ValueError(
                f"decoder {type(self.backbone).__name__} cannot read several sequences in a row (it has a prefix, or "
                "keeps to no masks and positions): set model.decoder.packing to false"
            )
        if self.packing is None:
            pays = {"meta": False, "cpu": not is_wide}.get(self.backbone.device.type, True)
            return pays and self.can_pack
        return self.packing

    def forward(
        self, z: Mapping[str, Tensor], batch: DocumentBatch, events: Tensor, noise: KeyedNoise | None = None
    ) -> DecoderPass:
        """Score all text of `batch` under the latents `z`, each [S, Z_l]; `events` [S, E].

        `noise` given means training: words and context are dropped as configured. A document that does not
        fit into memory is decoded chunk by chunk, recomputed in the backward pass.
        """
        vectors = self.conditioner(z) if self.conditioner is not None else None
        topic_logits = self.topic_logits(vectors)
        dropped = None
        if noise is not None:
            dropped = DropoutMasks.draw(batch, noise, self.word_dropout, self.context_dropout)
        padded = sum(chunk.ids.numel() for chunk in batch.decoder_chunks)
        recompute = torch.is_grad_enabled() and (self.checkpointing or padded > 2 * self.chunk_tokens)
        log_prob = torch.zeros(batch.num_tokens, device=batch.tokens.device)
        logits = torch.zeros(batch.num_tokens, events.shape[-1], device=batch.tokens.device)
        for chunk in batch.decoder_chunks:
            known = (chunk, vectors, topic_logits, dropped, batch.tokens)
            scored = (
                checkpoint(self.score_chunk, *known, use_reentrant=False) if recompute else self.score_chunk(*known)
            )
            place = chunk.token.flatten()[chunk.scored]
            log_prob = log_prob.index_copy(0, place, scored[0])
            logits = logits.index_copy(0, place, scored[1])
        return DecoderPass(log_prob, StructureScores(logits[batch.sentence_end], events))

    def topic_logits(self, vectors: Tensor | None) -> Tensor | None:
        """[S, V] in float32 that the latents' own path adds at every token of a sentence that has no context, given
        vectors [num_sites, S, H]. None where there is no such path, and where this is more than is held at a time: the
        logits of every token are then computed by themselves."""
        if self.topic_head is None or vectors is None:
            return None
        if vectors.shape[1] * self.topic_head.out_features > LOGITS:
            return None
        logits: Tensor = self.topic_head(self.topic_weight * self.topics(vectors))
        return logits.float()

    def score_chunk(
        self,
        chunk: TokenChunk,
        vectors: Tensor | None,
        topic_logits: Tensor | None,
        dropped: DropoutMasks | None,
        tokens: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities [n] and event logits [n, E] of what a chunk scores; vectors [num_sites, S, H] and their
        `topic_logits` [S, V]."""
        states = self._read_chunk(chunk, vectors, dropped).flatten(0, 1)[chunk.scored]
        sentence = chunk.sentence.expand_as(chunk.ids).flatten()[chunk.scored]
        target = tokens[chunk.token.flatten()[chunk.scored]]
        position = chunk.positions.flatten()[chunk.scored]
        log_prob = self._token_log_prob(states, vectors, topic_logits, sentence, position, target)
        return log_prob, self._event_logits(states)

    def _token_log_prob(
        self,
        states: Tensor,
        vectors: Tensor | None,
        topic_logits: Tensor | None,
        sentence: Tensor,
        position: Tensor,
        target: Tensor,
    ) -> Tensor:
        """[n] of the tokens `target` [n] after last hidden states [n, H] in their `sentence` [n], behind `position` [n]
        tokens of context."""

        def score(states: Tensor, sentence: Tensor, position: Tensor, target: Tensor) -> Tensor:
            logits = self._logits(states[None], vectors, sentence[None])[0]
            if topic_logits is not None:
                logits = logits + self._faded(F.embedding(sentence, topic_logits), position)
            elif self.topic_head is not None and vectors is not None:
                topics = at_tokens(self.topic_weight * self.topics(vectors), sentence)
                logits = logits + self.topic_head(self._faded(topics, position))
            return -F.cross_entropy(logits, target, reduction="none")

        size = max(1, LOGITS // output_layer(self.backbone).out_features)
        known = (states, sentence, position, target)
        if len(states) <= size:
            return score(*known)
        pieces = zip(*(values.split(size) for values in known), strict=True)
        return torch.cat([checkpoint(score, *piece, use_reentrant=False) for piece in pieces])

    def _faded(self, topics: Tensor, position: Tensor) -> Tensor:
        """What is left of `topics` [n, D], or of what they add, behind `position` [n] tokens of context."""
        if self.topic_context is None:
            return topics
        return (self.topic_context / (self.topic_context + position))[:, None] * topics

    def _read_chunk(self, chunk: TokenChunk, vectors: Tensor | None, dropped: DropoutMasks | None) -> Tensor:
        """Last hidden states [R, C, H] of one chunk."""
        embedded = self.backbone.get_input_embeddings()(chunk.ids)
        inputs: dict[str, Any] = {"inputs_embeds": embedded}
        if dropped is not None and self.word_dropout:
            inputs["inputs_embeds"] = embedded.masked_fill(dropped.tokens[chunk.token][..., None], 0.0)
        drops = dropped is not None and self.context_dropout > 0
        if drops or chunk.position is not None:
            visible = dropped.visible(chunk) if dropped is not None and drops else chunk.visible()
            inputs["attention_mask"] = attention_mask(visible[:, None], self.backbone.config, embedded.dtype)
            inputs["position_ids"] = chunk.positions
        if self.prefix is not None and vectors is not None:
            cache = DynamicCache(config=self.backbone.config)
            inputs |= self._after_prefix(self.sites.of_prefix(vectors)[:, chunk.sentence[:, 0]], cache, chunk.ids)
        return self._read(inputs | {"use_cache": False}, vectors, chunk.sentence)

    def step(
        self, ids: Tensor, vectors: Tensor | None, cache: Cache, context: int, topic_weight: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """The next token's logits [R, V] and the event logits [R, E] after reading `ids` [R, C].

        vectors: [num_sites, R, H] for the sentence being written; `cache` moves on. context: tokens that the next one
        has behind it, the start not counted. topic_weight: times the weight of the latents' own path to the logits that
        the model was trained with.
        """
        sentence = torch.arange(len(ids), device=ids.device)[:, None]
        embedded = self.backbone.get_input_embeddings()(ids)
        inputs: dict[str, Any] = {"inputs_embeds": embedded, self.cache_argument: cache}
        if self.prefix is not None and vectors is not None:
            inputs |= self._after_prefix(self.sites.of_prefix(vectors), cache, ids)
        last = self._read(inputs | {"use_cache": True}, vectors, sentence)[:, -1:]
        logits = self._logits(last, vectors, sentence)[:, 0]
        if self.topic_head is not None and vectors is not None:
            topics = topic_weight * self.topic_weight * self.topics(vectors)
            logits = logits + self.topic_head(self._faded(topics, torch.tensor([context], device=ids.device)))
        return logits, self._event_logits(last)[:, 0]

    def _read(self, inputs: Mapping[str, Any], vectors: Tensor | None, sentence: Tensor) -> Tensor:
        """The backbone's last hidden states [R, C, H]; sentence [R, C] or [R, 1]."""
        if vectors is None:
            return self.backbone.base_model(**inputs).last_hidden_state
        with entering(self.inputs, vectors, sentence):
            return self.backbone.base_model(**inputs).last_hidden_state

    def _logits(self, states: Tensor, vectors: Tensor | None, sentence: Tensor) -> Tensor:
        """[R, C, V] in float32 of last hidden states [R, C, H], without the latents' own path."""
        if vectors is not None and self.sites.output:
            states = add_latents(states, vectors[self.sites.blocks], sentence)
        return output_logits(self.backbone, states).float()

    def _event_logits(self, states: Tensor) -> Tensor:
        """[.., E] in float32 of last hidden states [.., H]."""
        if self.structure is None:
            return states.new_zeros(*states.shape[:-1], 0, dtype=torch.float32)
        return self.structure(states.to(self.structure.weight.dtype)).float()

    def score_bag(self, z: Mapping[str, Tensor], batch: DocumentBatch, events: Tensor) -> DecoderPass:
        """Score the words of every sentence as a bag, without the backbone: unigram frequencies, moved by the
        topic logits of the latents `z`, each [S, Z_l]; `z` may leave levels out. Says nothing of `events`."""
        log_prob = self.bag_log_prob(z)[batch.token_sentence, batch.tokens]
        return DecoderPass(log_prob, StructureScores(torch.zeros_like(events), torch.zeros_like(events)))

    def bag_log_prob(self, z: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities [U, V] of a bag of words under the latents `z`, each [U, Z_l]; levels may be left out.

        Raises ValueError for a model without levels or without a topic head.
        """
        if self.conditioner is None or self.topic_head is None:
            raise ValueError(
                "a bag of words is predicted through the latents' own path to the logits: the model "
                "needs levels, and model.decoder.logit_rank above 0"
            )
        return self.topic_head.bag_log_prob(self.topics(self.conditioner(z)))

    def topics(self, vectors: Tensor) -> Tensor:
        """[S, rank] the topic head's part of the conditioner's vectors [num_sites, S, H]."""
        return vectors[-1, :, : cast(TopicHead, self.topic_head).in_features]

    def _after_prefix(self, vectors: Tensor, cache: Cache, ids: Tensor) -> dict[str, Any]:
        """What tells the backbone to read `ids` [R, C] behind the prefix in vectors [prefix, R, H]; the tokens
        keep the positions that they have without it."""
        prefix = cast(Prefix, self.prefix)
        if cache.get_seq_length() == 0:
            prefix.fill(cache, vectors.to(self.backbone.dtype))
        first = cache.get_seq_length() - prefix.length
        positions = torch.arange(first, first + ids.shape[1], device=ids.device)
        return {self.cache_argument: cache, "position_ids": positions.expand(ids.shape[0], -1)}


def _spread(blocks: Sequence[nn.Module], count: int) -> list[nn.Module]:
    """`count` of the blocks, evenly spread over the depth, the first among them."""
    if count > len(blocks):
        raise ValueError(f"model.decoder.conditioning_blocks is {count}, but the decoder has {len(blocks)} blocks")
    return [blocks[number * len(blocks) // count] for number in range(count)]
