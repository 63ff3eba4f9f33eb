from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor

from textvae.data.document import EncodedDocument
from textvae.model.encoder import WordBag
from textvae.model.vae import DocumentVAE

WORDS = ([7, 8, 9], [8], [9, 10])


def bag_of(document: EncodedDocument) -> Tensor:
    """Features of the whole document's words."""
    torch.manual_seed(0)
    words = WordBag(tiny.VOCABULARY, 5)
    sums = words(tiny.batch_of(tiny.model(), [document]))
    return words.features(sums.sum(0, keepdim=True))[0].detach()


def test_words_are_told_whatever_their_order_and_how_many_there_are() -> None:
    one = bag_of(tiny.encoded("one", [[1], [3]], WORDS))
    turned = bag_of(tiny.encoded("turned", [[2], [1, 2]], [[10, 9], [8, 7, 8], [9]]))
    torch.testing.assert_close(one, turned)
    assert (one - bag_of(tiny.encoded("another", [[1], [3]], [[7, 8, 11], [8], [9, 10]]))).abs().max() > 0.1
    twice = bag_of(tiny.encoded("twice", [[1], [6]], [*WORDS, *WORDS]))
    torch.testing.assert_close(twice[:-1], one[:-1], atol=1e-4, rtol=1e-4)
    assert float((twice - one)[-1]) == pytest.approx(torch.log(torch.tensor(2.0)))


def posterior_means(vae: DocumentVAE, document: EncodedDocument) -> dict[str, Tensor]:
    sources = dict.fromkeys(tiny.DOCUMENT, "mean")
    with torch.no_grad():
        passed = vae.hierarchy(vae.features(tiny.batch_of(vae, [document])), tiny.batch_of(vae, [document]),
                               tiny.NOISE, sources)  # fmt: skip
    return {name: level.z for name, level in passed.levels.items()}


@pytest.mark.parametrize("word_size", [0, 7])
def test_every_posterior_sees_words_that_the_pretrained_encoder_does_not(word_size: int) -> None:
    vae = tiny.model(word_size=word_size)
    story = tiny.encoded("story", [[1], [3]], WORDS)
    changed = replace(story, decoder_ids=[7, 8, 11, 8, 9, 10])  # the encoder's own tokens stay
    before, after = posterior_means(vae, story), posterior_means(vae, changed)
    for name in tiny.DOCUMENT:
        moved = float((before[name] - after[name]).abs().max())
        assert moved > 1e-3 if word_size else moved == 0, name
