"""Drawing tokens: Hugging Face's logits processors, and noise that is a function of what it is for.

Shapes: R rows, T tokens of a row so far, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from textvae.writing.options import SamplingOptions

SORTED = 2048
"""Most probable tokens that are sorted to find those that make up a probability; only where these do not, all are."""


class NucleusWarper(TopPLogitsWarper):
    """As its base, without sorting the whole vocabulary, which costs as much as a small decoder."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """[R, V] logits, minus infinity outside of the nucleus; ties with its last token are in it."""
        best = scores.topk(min(SORTED, scores.shape[1])).values
        mass = (best - scores.logsumexp(-1, keepdim=True)).exp().cumsum(-1)
        last = (mass < self.top_p).sum(-1, keepdim=True).clamp(max=best.shape[1] - 1)
        found = scores.masked_fill(scores < best.gather(1, last), self.filter_value)
        beyond = mass[:, -1] < self.top_p
        if bool(beyond.any()):
            found[beyond] = super().__call__(cast(torch.LongTensor, input_ids[beyond]), scores[beyond])
        return found


class TokenSampler:
    """Logits and uniform noise -> tokens, as the options say."""

    def __init__(self, options: SamplingOptions, end_id: int) -> None:
        self.greedy = options.temperature == 0
        self.end_id = end_id
        self.history = LogitsProcessorList()
        if options.repetition_penalty != 1:
            self.history.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.no_repeat_ngram:
            self.history.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram))
        self.warpers = LogitsProcessorList()
        if not self.greedy and options.temperature != 1:
            self.warpers.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k:
            self.warpers.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1:
            self.warpers.append(NucleusWarper(options.top_p))
        if options.min_p:
            self.warpers.append(MinPLogitsWarper(options.min_p))

    def draw(self, ids: Tensor, logits: Tensor, uniform: Tensor) -> Tensor:
        """[R] tokens, of all ids [R, T] of the rows so far, logits [R, V] and uniform noise [R] on [0, 1)."""
        before, scores = cast(torch.LongTensor, ids), cast(torch.FloatTensor, logits)
        if self.history:
            scores = cast(torch.FloatTensor, self.history(before, cast(torch.FloatTensor, logits.clone())))
            # However often sentences have ended, this one may: many vocabularies have one id for start and end.
            scores[:, self.end_id] = logits[:, self.end_id]
        if self.greedy:
            return scores.argmax(-1)
        return inverse_cdf(self.warpers(before, scores).double().softmax(-1), uniform)


def inverse_cdf(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """[R] the first outcome whose cumulative probability exceeds `uniform` [R]; probabilities [R, V] in float64."""
    cumulative = probabilities.cumsum(-1)
    total = cumulative[:, -1]
    # Below the last sum even after rounding, or an outcome of no probability could be taken.
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
