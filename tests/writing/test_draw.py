"""Tokens are drawn from the probabilities that the processors leave, by noise that is given."""

import math

import pytest
import torch
from transformers import TopPLogitsWarper

from textvae.writing.draw import SORTED, NucleusWarper, TokenSampler, inverse_cdf
from textvae.writing.options import SamplingOptions

LOGITS = torch.tensor([[0.5, 0.2, 0.15, 0.1, 0.05]]).log()
EVEN = (torch.arange(1000).double() + 0.5) / 1000


def shares(sampler: TokenSampler, ids: list[int] | None = None) -> list[float]:
    """How often each token is drawn, over uniform noise spread evenly."""
    before = torch.tensor([ids or [0]]).expand(1000, -1)
    drawn = sampler.draw(before, LOGITS.expand(1000, -1), EVEN)
    return [round(share, 2) for share in (torch.bincount(drawn, minlength=5) / 1000).tolist()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.2, 0.15, 0.1, 0.05]),
        ({"top_p": 0.6}, [0.71, 0.29, 0, 0, 0]),
        ({"top_k": 1}, [1, 0, 0, 0, 0]),
        ({"min_p": 0.3}, [0.59, 0.24, 0.18, 0, 0]),
        ({"temperature": 0}, [1, 0, 0, 0, 0]),
        ({"temperature": 0.5}, [0.77, 0.12, 0.07, 0.03, 0.01]),
    ],
    ids=str,
)
def test_shares_are_those_of_the_processed_probabilities(options: dict[str, float], expected: list[float]) -> None:
    options = {"temperature": 1.0, "top_p": 1.0} | options
    assert shares(TokenSampler(SamplingOptions(**options), end_id=4)) == pytest.approx(expected, abs=0.011)


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 0.999])
def test_a_nucleus_is_that_of_all_tokens_sorted(top_p: float) -> None:
    """Of sharp distributions and of flat ones, whose nucleus holds more tokens than are sorted at first."""
    scores = torch.randn(40, 3 * SORTED, generator=torch.Generator().manual_seed(0)) * torch.linspace(0, 8, 40)[:, None]
    scores[0] = -torch.arange(3 * SORTED) / 1e4  # flat without ties
    ids = torch.zeros(40, 1, dtype=torch.long)
    expected, found = TopPLogitsWarper(top_p)(ids, scores), NucleusWarper(top_p)(ids, scores)
    assert bool(expected[0].isfinite().sum() > SORTED) == (top_p > 0.4)
    # Which token is the last depends on rounding.
    assert (expected.isfinite() != found.isfinite()).sum(1).max() <= 1
    kept = expected.isfinite() & found.isfinite()
    assert torch.equal(expected[kept], found[kept])


def test_penalties_see_every_token_so_far() -> None:
    """Not the last alone; and the end of a sentence is free, though the start may have its id."""
    greedy = SamplingOptions(temperature=0, repetition_penalty=5.0)
    assert shares(TokenSampler(greedy, end_id=4), [0, 1, 3]).index(1) == 2
    assert shares(TokenSampler(greedy, end_id=0), [0, 1, 3]).index(1) == 0
    ngrams = SamplingOptions(temperature=0, no_repeat_ngram=2)
    assert shares(TokenSampler(ngrams, end_id=4), [3, 0, 2, 3]).index(1) == 1
    assert shares(TokenSampler(ngrams, end_id=0), [3, 0, 2, 3]).index(1) == 0


def test_an_outcome_of_no_probability_is_never_taken() -> None:
    probabilities = torch.tensor([[0.0, 0.7, 0.0, 0.3, 0.0]]).double().expand(3, -1)
    uniform = torch.tensor([0.0, 0.7, math.nextafter(1.0, 0.0)]).double()
    assert inverse_cdf(probabilities, uniform).tolist() == [1, 3, 3]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 1e-45),
        ("temperature", -1),
        ("temperature", float("nan")),
        ("top_p", 1.5),
        ("top_p", 0.0),
        ("top_k", -1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("latent_temperature", -1),
        ("max_children", 0),
        ("batch_tokens", 0),
    ],
)
def test_a_number_that_makes_no_sense_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*; it must be"):
        SamplingOptions(**{name: value})


def test_a_latent_temperature_of_a_level_is_named() -> None:
    with pytest.raises(ValueError, match="latent_temperature of 'sentence' is -1"):
        SamplingOptions(latent_temperature={"document": 0.7, "sentence": -1})
