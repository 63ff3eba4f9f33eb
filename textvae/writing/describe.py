"""What the latents of a document say, in words.

Shapes: U units of a level, V vocabulary, Z_l latent size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from textvae.data.batch import DocumentBatch
from textvae.model.hierarchy import HierarchyPass
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE

WORD_STARTS = ("▁", "Ġ")
"""What SentencePiece and byte-level vocabularies put before a piece that begins a word."""
SHORTEST = 3
"""Letters of a piece that is taken for a word, in a vocabulary that marks where words begin."""


@dataclass(frozen=True)
class DescribedUnit:
    level: str
    number: int
    """In reading order, counted from 0."""
    rate: float
    """KL of its posterior to its prior, nats."""
    words: tuple[str, ...]
    """What its latent makes likelier, most first."""


@torch.no_grad()
def describe(
    model: DocumentVAE, batch: DocumentBatch, tokenizer: PreTrainedTokenizerBase, count: int = 8
) -> list[DescribedUnit]:
    """Every unit of the one document in `batch`, level by level from the top, in at most `count` words.

    The topic head's bag of words under the unit's latent (its posterior mean, below its ancestors' means) is compared
    with that under its prior mean; words are ordered by their share p log(p / q) of the divergence between the two,
    and only those that the latent makes likelier are given. Raises ValueError for a model without latents or without
    a topic head.
    """
    if not model.level_names or model.decoder.topic_head is None:
        raise ValueError(
            "this model has no topic head to describe latents with: it needs levels, and model.decoder.logit_rank "
            "above 0"
        )
    passed = model.hierarchy(model.features(batch), batch, KeyedNoise(0), dict.fromkeys(model.level_names, "mean"))
    words = whole_words(tokenizer, model.decoder.topic_head.out_features)
    ids = torch.tensor(list(words), device=model.device)
    units = []
    for name, level in passed.levels.items():
        latents = _latents_above(model, batch, passed, name)
        told = model.decoder.bag_log_prob({**latents, name: level.z})
        expected = model.decoder.bag_log_prob({**latents, name: level.prior.mean})
        share = (told.exp() * (told - expected))[:, ids]
        best = share.topk(min(count, len(ids)))
        rates = level.rate.sum(1).tolist()
        for number, (shares, places) in enumerate(zip(best.values.tolist(), best.indices, strict=True)):
            found = [words[i] for i, s in zip(ids[places].tolist(), shares, strict=True) if s > 0]
            units.append(DescribedUnit(name, number, rates[number], tuple(found)))
    return units


def _latents_above(model: DocumentVAE, batch: DocumentBatch, passed: HierarchyPass, name: str) -> dict[str, Tensor]:
    """The ancestors' latents [U, Z_l] of every unit of level `name`."""
    names = model.level_names[: model.level_names.index(name)]
    depth = batch.level_number(name)
    return {above: passed.z[above][batch.ancestor(depth, batch.level_number(above))] for above in names}


def whole_words(tokenizer: PreTrainedTokenizerBase, size: int) -> dict[int, str]:
    """Token id below `size` -> the word that it is, of all pieces of letters that begin a word; of all pieces of
    letters where the vocabulary marks no beginnings."""
    plain, begins = {}, {}
    for piece, token in tokenizer.get_vocab().items():
        word = tokenizer.convert_tokens_to_string([piece]).strip()
        if token < size and word.isalpha():
            plain[token] = word
            if piece.startswith(WORD_STARTS) and len(word) >= SHORTEST:
                begins[token] = word
    return dict(sorted((begins or plain).items()))
