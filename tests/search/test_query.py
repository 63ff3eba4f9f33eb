"""Queries that are read together, as if each were read alone."""

from collections.abc import Callable

import numpy as np
import pytest
from tiny import DOCUMENT

from textvae.search.query import Queries
from textvae.text_vae import HierarchicalTextVAE

LONG = " ".join(["The harbour lay quiet in the early light."] * 20)
TEXTS = [
    "The wind rose.",
    LONG,
    "Soup?",
    "Old Marta watched it. It was late.",
    "A single boat moved out past the wall.",
]


@pytest.mark.parametrize("batch_tokens", [20, 8192])
def test_a_query_is_read_as_if_it_were_alone(model: HierarchicalTextVAE, batch_tokens: int) -> None:
    queries = Queries(model, TEXTS, batch_tokens)
    alone = [Queries(model, [text]) for text in TEXTS]
    np.testing.assert_allclose(queries.features, np.concatenate([one.features for one in alone]), atol=1e-6)
    for level in DOCUMENT:
        expected = np.concatenate([one.latents(level) for one in alone])
        assert np.abs(expected - expected[0]).max(1)[1:].min() > 1e-3, "they differ"
        np.testing.assert_allclose(queries.latents(level), expected, atol=1e-5)


def test_features_are_the_mean_of_the_sentences(model: HierarchicalTextVAE) -> None:
    both, *each = Queries(
        model, ["Old Marta watched it. It was late.", "Old Marta watched it.", "It was late."]
    ).features
    np.testing.assert_allclose(both, np.mean(each, axis=0), atol=1e-6)


def test_what_cannot_be_read_is_refused(
    model: HierarchicalTextVAE, make_model: Callable[..., HierarchicalTextVAE]
) -> None:
    with pytest.raises(ValueError, match="the query is empty"):
        Queries(model, ["The wind.", " "])
    with pytest.raises(ValueError, match="the model has no level 'book'"):
        Queries(model, ["The wind."]).latents("book")
    with pytest.raises(ValueError, match="a plain language model has no encoder"):
        Queries(make_model(), ["The wind."])
