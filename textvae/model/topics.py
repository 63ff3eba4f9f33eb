"""The latents' own path to the logits: a topic model beside the decoder.

Shapes: S sentences, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TopicHead(nn.Linear):
    """Adds to the decoder's logits, so that its prediction is multiplied by a topic model's (TopicRNN, Dieng et al.
    2017). Linear without bias, [.., rank] -> [.., V]: beside a linear output layer it is one layer with it."""

    unigram: Tensor
    """[V] log frequencies."""

    def __init__(self, rank: int, num_tokens: int) -> None:
        super().__init__(rank, num_tokens, bias=False)
        self.register_buffer("unigram", torch.zeros(num_tokens))

    def set_unigram(self, counts: Tensor) -> None:
        """Take the tokens' frequencies from `counts` [V or fewer], one added to each."""
        counts = F.pad(counts.float(), (0, self.out_features - len(counts))) + 1
        self.unigram.copy_((counts / counts.sum()).log())

    @torch.no_grad()
    def start_from(self, embeddings: Tensor) -> None:
        """Rows that know already which words are alike: the principal components of the decoder's output embeddings
        [V, H], all of one variance under the square root of the tokens' frequencies. A word that is rare in the
        training text then moves with those like it (the embedded topic model, Dieng et al. 2020)."""
        rows = embeddings.detach().float()
        weight = (self.unigram / 2).softmax(0)
        rows = rows - weight @ rows
        variance, directions = torch.linalg.eigh((rows * weight[:, None]).T @ rows)
        kept = slice(-self.in_features, None)
        rows = rows @ (directions[:, kept] / variance[kept].clamp(min=1e-12).sqrt())
        self.weight.copy_(rows / math.sqrt(3 * self.in_features))  # the variance of a linear layer's own start

    def bag_logits(self, topics: Tensor) -> Tensor:
        """[S, V] of a bag of words given topics [S, rank]: unigram frequencies, moved by them."""
        return self.unigram + self(topics).float()

    def bag_log_prob(self, topics: Tensor) -> Tensor:
        """Log-probabilities [S, V] of a bag of words given topics [S, rank]."""
        return self.bag_logits(topics).log_softmax(-1)

    def rows(self) -> Tensor:
        """[V, rank] what every token says of the topics: its row, less the mean row under the tokens' frequencies, in
        numbers of ordinary size; float32."""
        rows = self.weight.float()
        return (rows - self.unigram.softmax(-1) @ rows) * math.sqrt(self.in_features)
