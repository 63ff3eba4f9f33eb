"""Search by the words of a query: how probable they are under the topics of a unit.

The query likelihood of Ponte & Croft (1998) with a topic model's words (Wei & Croft 2006): a short query says little of
its latents, whose posterior falls back to the prior, but its words are rare or common under those of a unit.

Shapes: U units, Z_l latent size of level l, K topics (the rank of the latents' own path to the logits), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from textvae.model.topics import TopicHead
from textvae.model.vae import DocumentVAE
from textvae.text_vae import HierarchicalTextVAE

CHUNK = 1 << 26
"""Logits that are held at a time."""


def topic_head(model: DocumentVAE) -> TopicHead:
    """Raises ValueError for a model whose latents have no path of their own to the words."""
    if model.decoder.topic_head is None:
        raise ValueError("this model has no topics to find words by (decoder.logit_rank 0): search with --by latents")
    return model.decoder.topic_head


@torch.no_grad()
def unit_topics(model: DocumentVAE, z: Mapping[str, Tensor]) -> Tensor:
    """[U, K] of units whose latents, and whose ancestors', are `z`, each [U, Z_l]; levels below are left out."""
    topic_head(model)
    assert model.decoder.conditioner is not None
    return model.decoder.topics(model.decoder.conditioner(z))


@torch.no_grad()
def normalisers(model: DocumentVAE, topics: Tensor) -> Tensor:
    """[U] log of what a unit's words are to be divided by to be probabilities; topics: [U, K]."""
    head = topic_head(model)
    parts = topics.split(max(1, CHUNK // head.out_features))
    return torch.cat([head.bag_logits(part).logsumexp(-1) for part in parts])


@torch.no_grad()
def word_scores(model: HierarchicalTextVAE, topics: Tensor, divisors: Tensor, query: str) -> Tensor:
    """[U] mean over the query's tokens of log p(token | unit) - log p(token): above 0, it is more of this unit than of
    others. topics: [U, K]; divisors: [U] their `normalisers`."""
    head = topic_head(model)
    # In the middle of a sentence, as most words are.
    ids = model.processor.decoder_tokenizer(f" {query.strip()}", add_special_tokens=False)["input_ids"]
    rows = head.weight[torch.tensor(ids, device=head.weight.device)]
    return topics @ rows.mean(0) - divisors
