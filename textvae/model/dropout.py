"""What is hidden from the decoder while it trains, so that it has to ask the latents.

Shapes: S sentences, N predicted tokens, R x C one padded chunk.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from textvae.data.batch import DocumentBatch, TokenChunk
from textvae.model.noise import KeyedNoise


@dataclass(frozen=True)
class DropoutMasks:
    tokens: Tensor
    """[N] inputs to blank out (Bowman et al. 2016)."""
    sentences: Tensor
    """[S] sentences that later ones may not look back to (utterance drop, Park et al. 2018)."""

    @classmethod
    def draw(cls, batch: DocumentBatch, noise: KeyedNoise, word_dropout: float, context_dropout: float) -> DropoutMasks:
        """Each with its probability, the same for a document in any batch."""
        sentences = batch.levels[-1]
        key = batch.document_key[sentences.document]
        within = batch.token_position
        place = sentences.index[batch.token_sentence] * (1 << 20) + within
        tokens = noise.uniform(key[batch.token_sentence], "word dropout", place) < word_dropout
        # The start token carries no word: hiding it would only blur where the sentence begins.
        return cls(tokens & (within > 0), noise.uniform(key, "context dropout", sentences.index) < context_dropout)

    def visible(self, chunk: TokenChunk) -> Tensor:
        """[R, C, C] true where a place may look: back in its sequence, from no sentence to an earlier dropped one."""
        sentence = chunk.sentence.expand_as(chunk.ids)
        same = sentence[:, :, None] == sentence[:, None, :]
        return chunk.visible() & (same | ~self.sentences[sentence][:, None, :])
