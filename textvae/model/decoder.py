"""Top-down to text: any Hugging Face causal language model, unmodified, conditioned on the latents.

Shapes: S sentences, N predicted tokens, R x C one padded chunk, H hidden size, V vocabulary, E events.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache, DynamicCache, PreTrainedModel

from textvae.config import DecoderConfig
from textvae.data.batch import BatchLayout, DocumentBatch, TokenChunk
from textvae.model.adapter import blocks_of, set_trainable, tied_weights
from textvae.model.level import StructureScores
from textvae.model.noise import KeyedNoise


@dataclass(frozen=True)
class DecoderPass:
    """How the text scored."""

    token_log_prob: Tensor
    """[N] in nats."""
    structure: StructureScores
    """[S, E] ends of the levels that no latent tells."""


@dataclass(frozen=True)
class Hidden:
    """What is hidden from the decoder's inputs while training."""

    words: Tensor
    """[N] inputs to blank out (Bowman et al. 2016)."""
    sentences: Tensor
    """[S] sentences that later ones may not look back to (utterance drop, Park et al. 2018)."""


class Conditioner(nn.Module):
    """Latents -> one vector for every place where they enter the decoder.

    The last projection starts at zero, so that the model starts as the plain language model exactly; only a
    prefix of zeros takes some attention away.
    """

    def __init__(self, latent_sizes: Mapping[str, int], width: int, hidden_size: int, num_sites: int) -> None:
        super().__init__()
        self.num_sites = num_sites
        self.inputs = nn.ModuleDict({name: nn.Linear(size, width) for name, size in latent_sizes.items()})
        self.output = nn.Linear(2 * width, num_sites * hidden_size, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, z: Mapping[str, Tensor]) -> Tensor:
        """z by level, each [S, Z_l] gathered at the sentences; levels may be left out -> [num_sites, S, H]."""
        total = torch.stack([self.inputs[name](values) for name, values in z.items()]).sum(0)
        vectors = self.output(torch.cat([total, F.gelu(total)], dim=-1))
        return vectors.unflatten(-1, (self.num_sites, -1)).transpose(0, 1)


@dataclass(frozen=True)
class Prefix:
    """Keys and values that stand before the text of every row."""

    shape: tuple[int, int, int, int]
    """(blocks, key-value heads, length, head size)"""
    num_sites: int
    """Vectors of the hidden size that hold them."""

    @classmethod
    def of(cls, backbone: PreTrainedModel, length: int) -> Prefix:
        config = backbone.config.get_text_config()
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        shape = (config.num_hidden_layers, getattr(config, "num_key_value_heads", None) or heads, length, size)
        return cls(shape, -(-2 * math.prod(shape) // config.hidden_size))

    def fill(self, cache: Cache, vectors: Tensor) -> None:
        """Put the prefix of R rows, vectors [num_sites, R, H], into the empty `cache`."""
        numbers = vectors.transpose(0, 1).flatten(1)[:, : 2 * math.prod(self.shape)]
        for block, pair in enumerate(numbers.unflatten(1, (self.shape[0], 2, *self.shape[1:])).unbind(1)):
            cache.update(*pair.unbind(1), block)


class Decoder(nn.Module):
    """Scores text given the latents, and steps through it when sampling.

    Latents are added to the inputs of the decoder's blocks (and of its output layer), each time scaled by
    the size of the state that they are added to, or stand before the sentence as keys and values. Beside the
    decoder they have a low-rank path of their own to the logits: a product of the decoder's prediction and a
    topic model's (TopicRNN, Dieng et al. 2017).
    """

    unigram: Tensor
    """[V] log frequencies, where latents have their own path to the logits."""

    def __init__(
        self,
        backbone: PreTrainedModel,
        config: DecoderConfig,
        latent_sizes: Mapping[str, int],
        num_events: int,
        layout: BatchLayout,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        # Hugging Face asks the children of a model for these when it saves and loads.
        self.all_tied_weights_keys = tied_weights(backbone)
        self.layout = layout
        self.word_dropout = config.word_dropout
        self.context_dropout = config.context_dropout
        self.checkpointing = config.gradient_checkpointing
        if config.attention is not None:
            backbone.set_attn_implementation(config.attention)
        set_trainable(backbone, config.trained, config.lora)
        hidden_size = cast(nn.Embedding, backbone.get_input_embeddings()).embedding_dim
        self.structure = nn.Linear(hidden_size, num_events) if num_events else None
        sites = _sites(backbone)[: {"none": 0, "embedding": 1, "layers": None}[config.conditioning]]
        self.num_hooked = len(sites)
        self.conditioner = self.vocabulary = self.prefix = None
        if latent_sizes:
            self.rank = min(config.logit_rank, hidden_size)
            num_sites = self.num_hooked + (self.rank > 0)
            if config.prefix_length:
                self.prefix = Prefix.of(backbone, config.prefix_length)
                num_sites += self.prefix.num_sites
            self.conditioner = Conditioner(latent_sizes, config.conditioning_width, hidden_size, num_sites)
            for number, site in enumerate(sites):
                site.register_forward_pre_hook(self._adder(number), with_kwargs=True)
            if self.rank:
                words = cast(nn.Linear, backbone.get_output_embeddings()).out_features
                self.vocabulary = nn.Linear(self.rank, words, bias=False)
                self.register_buffer("unigram", torch.zeros(self.vocabulary.out_features))
        self._at_positions: Tensor | None = None

    def forward(
        self, z: Mapping[str, Tensor], batch: DocumentBatch, events: Tensor, noise: KeyedNoise | None = None
    ) -> DecoderPass:
        """Score all text of `batch` under the latents `z`, each [S, Z_l]; `events` [S, E].

        `noise` given means training: words and context are dropped as configured. A document that does not
        fit into memory is decoded chunk by chunk, recomputed in the backward pass.
        """
        vectors = self.conditioner(z) if self.conditioner is not None else None
        hidden = self._hide(batch, noise) if noise is not None else None
        padded = sum(chunk.ids.numel() for chunk in batch.decoder_chunks)
        recompute = torch.is_grad_enabled() and (self.checkpointing or padded > 2 * self.layout.chunk_tokens)
        log_prob = torch.zeros(batch.num_tokens + 1, device=batch.tokens.device)
        logits = torch.zeros(batch.num_tokens + 1, events.shape[-1], device=batch.tokens.device)
        for chunk in batch.decoder_chunks:
            if recompute:
                scored = checkpoint(self.score_chunk, chunk, vectors, hidden, batch.tokens, use_reentrant=False)
            else:
                scored = self.score_chunk(chunk, vectors, hidden, batch.tokens)
            # Padding goes to a spare place at the end.
            place = torch.where(chunk.token >= 0, chunk.token, batch.num_tokens).flatten()
            log_prob = log_prob.index_copy(0, place, scored[0].flatten())
            logits = logits.index_copy(0, place, scored[1].flatten(0, 1))
        return DecoderPass(log_prob[:-1], StructureScores(logits[batch.sentence_end], events))

    def score_chunk(
        self, chunk: TokenChunk, vectors: Tensor | None, hidden: Hidden | None, tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities [R, C] and event logits [R, C, E] of one chunk."""
        embedded = self.backbone.get_input_embeddings()(chunk.ids)
        inputs: dict[str, Any] = {"inputs_embeds": embedded}
        if hidden is not None:
            if self.word_dropout:
                inputs["inputs_embeds"] = embedded.masked_fill(hidden.words[chunk.token][..., None], 0.0)
            if self.context_dropout:
                visible = _visible_without(chunk, hidden.sentences)
                inputs["attention_mask"] = torch.where(visible, 0.0, torch.finfo(torch.bfloat16).min).to(embedded)
        if self.prefix is not None and vectors is not None:
            cache = DynamicCache(config=self.backbone.config)
            inputs |= self._after_prefix(vectors[:, chunk.sentence[:, 0]], cache, chunk.ids)
        with self._conditioned(None if vectors is None else vectors[: self.num_hooked, chunk.sentence]):
            output = self.backbone(**inputs, use_cache=False, output_hidden_states=self.structure is not None)
        logits = output.logits
        if self.vocabulary is not None and vectors is not None:
            # Of the chunk's own sentences: a row of logits for each, however long the document.
            sentences, place = chunk.sentence.unique(return_inverse=True)
            logits = logits + self.topic_logits(vectors[:, sentences])[place]
        log_prob = -F.cross_entropy(logits.flatten(0, 1).float(), tokens[chunk.token].flatten(), reduction="none")
        events = log_prob.new_zeros(*chunk.ids.shape, 0)
        if self.structure is not None:
            events = self.structure(output.hidden_states[-1]).float()
        return log_prob.view_as(chunk.ids), events

    def score_bag(self, z: Mapping[str, Tensor], batch: DocumentBatch, events: Tensor) -> DecoderPass:
        """Score the words of every sentence as a bag, without the backbone: unigram frequencies, moved by the
        topic logits of the latents `z`, each [S, Z_l]; `z` may leave levels out. Says nothing of `events`."""
        if self.conditioner is None or self.vocabulary is None:
            raise ValueError(
                "a bag of words is predicted through the latents' own path to the logits: the model "
                "needs levels, and model.decoder.logit_rank above 0"
            )
        logits = self.unigram + self.topic_logits(self.conditioner(z)).float()
        log_prob = logits.log_softmax(-1)[batch.token_sentence, batch.tokens]
        return DecoderPass(log_prob, StructureScores(torch.zeros_like(events), torch.zeros_like(events)))

    def set_unigram(self, counts: Tensor) -> None:
        """Take the words' frequencies from `counts` [V or fewer], one added to each."""
        if self.vocabulary is not None:
            counts = F.pad(counts.float(), (0, self.vocabulary.out_features - len(counts))) + 1
            self.unigram.copy_((counts / counts.sum()).log())

    def topics(self) -> Tensor:
        """[V, rank] what every word says of the topic logits' vectors: its row of the latents' own path, less the mean
        row under the words' frequencies, in numbers of ordinary size; float32."""
        if self.vocabulary is None:
            raise AssertionError("model.decoder.logit_rank is 0")
        rows = self.vocabulary.weight.float()
        return (rows - self.unigram.softmax(-1) @ rows) * math.sqrt(self.rank)

    def topic_logits(self, vectors: Tensor) -> Tensor:
        """What latents alone add to the logits, [S, V], of the conditioner's vectors [num_sites, S, H]."""
        if self.vocabulary is None:
            raise AssertionError("model.decoder.logit_rank is 0")
        return self.vocabulary(vectors[-1, :, : self.rank])

    def step(self, ids: Tensor, vectors: Tensor | None, cache: Cache) -> tuple[Tensor, Tensor]:
        """The next token's logits [R, V] and the event logits [R, E] after reading `ids` [R, C].

        vectors: [num_sites, R, H] for the sentence being written; `cache` moves on.
        """
        at_positions = None if vectors is None else vectors[:, :, None].expand(-1, -1, ids.shape[1], -1)
        inputs: dict[str, Any] = {"past_key_values": cache}
        if self.prefix is not None and vectors is not None:
            inputs = self._after_prefix(vectors, cache, ids)
        with self._conditioned(at_positions):
            output = self.backbone(input_ids=ids, **inputs, output_hidden_states=True)
        last = output.hidden_states[-1][:, -1]
        events = last.new_zeros(len(ids), 0) if self.structure is None else self.structure(last)
        logits = output.logits[:, -1]
        if self.vocabulary is not None and vectors is not None:
            logits = logits + self.topic_logits(vectors)
        return logits.float(), events.float()

    def _after_prefix(self, vectors: Tensor, cache: Cache, ids: Tensor) -> dict[str, Any]:
        """What tells the backbone to read `ids` [R, C] behind the prefix in vectors [num_sites, R, H]; the words
        keep the positions that they have without it."""
        if self.prefix is None:
            raise AssertionError("model.decoder.prefix_length is 0")
        if cache.get_seq_length() == 0:
            self.prefix.fill(cache, vectors[self.num_hooked : self.num_hooked + self.prefix.num_sites])
        first = cache.get_seq_length() - self.prefix.shape[2]
        positions = torch.arange(first, first + ids.shape[1], device=ids.device)
        return {"past_key_values": cache, "position_ids": positions.expand(ids.shape[0], -1)}

    def _hide(self, batch: DocumentBatch, noise: KeyedNoise) -> Hidden:
        document = batch.levels[-1].document
        number = batch.levels[-1].index
        key = batch.document_key[document]
        within = batch.token_position
        place = number[batch.token_sentence] * (1 << 20) + within
        words = noise.uniform(key[batch.token_sentence], "word dropout", place) < self.word_dropout
        # The start token carries no word: hiding it would only blur where the sentence begins.
        return Hidden(words & (within > 0), noise.uniform(key, "context dropout", number) < self.context_dropout)

    @contextmanager
    def _conditioned(self, at_positions: Tensor | None) -> Iterator[None]:
        """Within, the hooks add `at_positions` [num_sites, R, C, H]."""
        self._at_positions = at_positions
        try:
            yield
        finally:
            self._at_positions = None

    def _adder(self, number: int) -> Any:
        def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if self._at_positions is None:
                return None
            state = args[0] if args else kwargs["hidden_states"]
            scale = state.detach().float().square().mean(-1, keepdim=True).sqrt()
            state = state + (scale * self._at_positions[number].float()).to(state.dtype)
            return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})

        return add


def _sites(backbone: PreTrainedModel) -> list[nn.Module]:
    """The modules whose inputs latents are added to: every block, and the output layer."""
    return [*blocks_of(backbone), backbone.get_output_embeddings()]


def _visible_without(chunk: TokenChunk, dropped: Tensor) -> Tensor:
    """[R, 1, C, C] true where a position may look: back, but from no sentence to an earlier dropped one."""
    same = chunk.sentence[:, :, None] == chunk.sentence[:, None, :]
    visible = same | ~dropped[chunk.sentence][:, None, :]
    return (visible & torch.ones_like(visible).tril())[:, None]
