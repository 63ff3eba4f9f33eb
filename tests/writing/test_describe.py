"""Latents in words."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import DOCUMENT, perturb

from textvae.build import build_model
from textvae.config import ModelConfig
from textvae.model.noise import KeyedNoise
from textvae.text_vae import HierarchicalTextVAE
from textvae.writing.describe import describe, whole_words

TEXT = "The harbour lay quiet. A single boat moved out.\n\nOld Marta watched it. It was late."


@pytest.fixture
def model(settings: Callable[..., ModelConfig], make_processor: Callable[..., Any]) -> HierarchicalTextVAE:
    torch.manual_seed(0)
    model = build_model(settings(*DOCUMENT), make_processor()).eval()
    perturb(model)
    return model


def test_a_word_is_given_just_where_the_latent_makes_it_likelier(model: HierarchicalTextVAE) -> None:
    """A topic head that knows of one word: the others move against it."""
    tokenizer, batch = model.processor.decoder_tokenizer, model.batch(model.process(TEXT))
    token, word = next((t, w) for t, w in whole_words(tokenizer, 10**6).items() if w == "the")
    head = model.decoder.topic_head
    with torch.no_grad():
        head.weight.zero_()[token, 0] = 5.0
        levels = model.hierarchy(model.features(batch), batch, KeyedNoise(0), dict.fromkeys(DOCUMENT, "mean")).levels
        given = []
        for unit in describe(model, batch, tokenizer, count=3):
            level, depth = levels[unit.level], batch.level_number(unit.level)
            z = {
                name: levels[name].z[batch.ancestor(depth, batch.level_number(name))]
                for name in DOCUMENT[: DOCUMENT.index(unit.level)]
            }
            logits = [
                model.decoder.topics(model.decoder.conditioner({**z, unit.level: own}))[unit.number, 0]
                for own in (level.z, level.prior.mean)
            ]
            given.append(unit.words == (word,))
            assert given[-1] == bool(logits[0] > logits[1])
            assert word in unit.words or not given[-1]
            assert unit.rate == pytest.approx(level.rate[unit.number].sum().item())
    assert len(given) == 1 + 2 + 4
    assert len(set(given)) == 2


def test_a_latent_that_the_decoder_does_not_read_says_nothing(model: HierarchicalTextVAE) -> None:
    with torch.no_grad():
        model.decoder.conditioner.inputs["document"].weight.zero_()
    batch = model.batch(model.process(TEXT))
    document, *_ = describe(model, batch, model.processor.decoder_tokenizer)
    assert document.words == ()


def test_a_model_without_a_topic_head_is_refused(
    settings: Callable[..., ModelConfig], make_processor: Callable[..., Any]
) -> None:
    model = build_model(settings(*DOCUMENT, logit_rank=0), make_processor())
    with pytest.raises(ValueError, match="no topic head to describe latents with"):
        describe(model, model.batch(model.process(TEXT)), model.processor.decoder_tokenizer)


def test_whole_words_begin_with_a_space(model: HierarchicalTextVAE) -> None:
    tokenizer = model.processor.decoder_tokenizer
    pieces = tokenizer.convert_ids_to_tokens(list(whole_words(tokenizer, 10**6)))
    assert pieces
    assert all(piece.startswith("\u2581") and piece[1:].isalpha() for piece in pieces)
