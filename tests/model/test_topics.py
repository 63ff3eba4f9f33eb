"""The latents' own path to the logits, as it is before it is trained."""

import math

import torch
from torch.nn.functional import cosine_similarity

from textvae.model.topics import TopicHead

VOCABULARY, HIDDEN, RANK = 200, 24, 6


def started(embeddings: torch.Tensor, counts: torch.Tensor) -> TopicHead:
    head = TopicHead(RANK, VOCABULARY)
    head.set_unigram(counts)
    head.start_from(embeddings)
    return head


def test_started_rows_have_mean_zero_and_one_variance_under_the_root_of_the_frequencies() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(VOCABULARY, HIDDEN, generator=generator) * torch.linspace(0.1, 5, HIDDEN) + 3
    counts = torch.randint(0, 1000, (VOCABULARY,), generator=generator)
    rows = started(embeddings, counts).weight.detach()
    weight = (counts + 1).sqrt()
    weight = weight / weight.sum()
    torch.testing.assert_close(weight @ rows, torch.zeros(RANK), atol=1e-5, rtol=0)
    covariance = (rows * weight[:, None]).T @ rows
    torch.testing.assert_close(covariance, torch.eye(RANK) / (3 * RANK), atol=1e-4, rtol=1e-3)


def test_words_that_the_decoder_takes_for_alike_start_alike_however_rare_one_is() -> None:
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(4, HIDDEN, generator=generator) * 4
    kind = torch.arange(VOCABULARY) % 4
    embeddings = centres[kind] + 0.05 * torch.randn(VOCABULARY, HIDDEN, generator=generator)
    counts = torch.where(torch.arange(VOCABULARY) < 100, 500, 0)
    rows = TopicHead(3, VOCABULARY)
    rows.set_unigram(counts)
    rows.start_from(embeddings)
    frequent, rare = rows.weight[:100], rows.weight[100:]
    alike = cosine_similarity(rare[:, None], frequent[None], dim=-1)
    nearest = kind[:100][alike.argmax(1)]
    assert bool((nearest == kind[100:]).all())


def test_a_bag_without_topics_follows_the_frequencies() -> None:
    counts = torch.arange(VOCABULARY)
    head = started(torch.randn(VOCABULARY, HIDDEN, generator=torch.Generator().manual_seed(2)), counts)
    said = head.bag_log_prob(torch.zeros(1, RANK))[0]
    torch.testing.assert_close(said.exp(), (counts + 1) / (counts + 1).sum())
    assert math.isclose(said.exp().sum().item(), 1, rel_tol=1e-5)
