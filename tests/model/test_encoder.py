from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor

from textvae.data.document import EncodedDocument
from textvae.model.encoder import word_features, word_sums
from textvae.model.vae import DocumentVAE

WORDS = ([7, 8, 9], [8], [9, 10])


def words_of(document: EncodedDocument, topics: Tensor) -> Tensor:
    """Features of the whole document's words."""
    sums = word_sums(topics, tiny.batch_of(tiny.model(()), [document]))
    return word_features(sums.sum(0, keepdim=True))[0]


def test_words_are_told_whatever_their_order_and_how_many_there_are() -> None:
    topics = torch.randn(tiny.VOCABULARY, 5, generator=torch.Generator().manual_seed(0))
    one = words_of(tiny.encoded("one", [[1], [3]], WORDS), topics)
    turned = words_of(tiny.encoded("turned", [[2], [1, 2]], [[10, 9], [8, 7, 8], [9]]), topics)
    torch.testing.assert_close(one, turned)
    another = words_of(tiny.encoded("another", [[1], [3]], [[7, 8, 11], [8], [9, 10]]), topics)
    assert (one - another).abs().max() > 0.1
    twice = words_of(tiny.encoded("twice", [[1], [6]], [*WORDS, *WORDS]), topics)
    torch.testing.assert_close(twice[:-1], one[:-1] * 2**0.5)
    assert float((twice - one)[-1]) == pytest.approx(torch.log(torch.tensor(2.0)))


@torch.no_grad()
def test_the_words_that_posteriors_see_are_sufficient_for_the_bag_of_words() -> None:
    """log p(words | z) - log p(words | z') is a function of their features alone, exactly linear in the sum."""
    vae = tiny.model(("document",), logit_rank=7)
    vae.decoder.topic_head.set_unigram(torch.arange(tiny.VOCABULARY))
    batch = tiny.batch_of(vae, [tiny.encoded("one", [[1], [3]], WORDS)])
    z = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(0))
    vectors = [vae.decoder.conditioner({"document": one})[-1, 0, :7] for one in z]
    scores = [vae.score_bag({"document": one}, batch).token_log_prob.sum() for one in z]
    sums = word_sums(vae.decoder.topic_head.rows(), batch).sum(0) / 7**0.5
    # Under the topics' mean row, which was taken off, log-partitions are those of centred logits.
    rows = vae.decoder.topic_head.weight
    mean = vae.decoder.topic_head.unigram.exp() @ rows
    partitions = [torch.logsumexp(vae.decoder.topic_head.unigram + (rows - mean) @ vector, 0) for vector in vectors]
    expected = sums[:-1] @ (vectors[0] - vectors[1]) - batch.num_tokens * (partitions[0] - partitions[1])
    torch.testing.assert_close(scores[0] - scores[1], expected, atol=1e-4, rtol=1e-4)


def posterior_means(vae: DocumentVAE, document: EncodedDocument) -> dict[str, Tensor]:
    sources = dict.fromkeys(tiny.DOCUMENT, "mean")
    with torch.no_grad():
        passed = vae.hierarchy(
            vae.features(tiny.batch_of(vae, [document])), tiny.batch_of(vae, [document]), tiny.NOISE, sources
        )
    return {name: level.z for name, level in passed.levels.items()}


@pytest.mark.parametrize("logit_rank", [0, 7])
def test_every_posterior_sees_words_that_the_pretrained_encoder_does_not(logit_rank: int) -> None:
    vae = tiny.model(logit_rank=logit_rank)
    story = tiny.encoded("story", [[1], [3]], WORDS)
    changed = replace(story, decoder_ids=[7, 8, 11, 8, 9, 10])  # the encoder's own tokens stay
    before, after = posterior_means(vae, story), posterior_means(vae, changed)
    for name in tiny.DOCUMENT:
        moved = float((before[name] - after[name]).abs().max())
        assert moved > 1e-3 if logit_rank else moved == 0, name
