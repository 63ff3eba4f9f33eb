"""Texts -> vectors: what they are, and that they are what an index compares."""

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import DOCUMENT

from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.runs import load_run
from textvae.search.embed import embed_corpus
from textvae.search.embedder import TextEmbedder
from textvae.search.export import export_encoder, load_exported
from textvae.search.index import Index
from textvae.search.query import embed_query
from textvae.text_vae import HierarchicalTextVAE

TEXTS = [
    "The harbour lay quiet. A single boat moved out.\n\nOld Marta watched it.",
    "The people stood on the wall and said very little.",
    "Is there soup? Everybody laughed.\n\nThe wind rose in the afternoon. It was late.",
    "At midnight a light was seen. It was the boat, with a torn sail.",
]


@pytest.fixture(scope="module")
def index(model: HierarchicalTextVAE, run: str, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("index") / "index"
    sources = [SourceDocument(id=str(number), text=text) for number, text in enumerate(TEXTS)]
    embed_corpus(model, Documents.of(model.process(sources)), folder, run)
    return Index(folder)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_vectors_are_posterior_means_in_the_order_of_the_texts(model: HierarchicalTextVAE, batch_size: int) -> None:
    for level in DOCUMENT:
        found = TextEmbedder(model, level).encode(TEXTS, batch_size=batch_size)
        expected = [model.encode(text)[level].mean.numpy() for text in TEXTS]
        if level == "document":
            np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-5)
            np.testing.assert_allclose(TextEmbedder(model).encode(TEXTS[1]), expected[1][0], atol=1e-5)
        else:
            for ours, theirs in zip(found, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_an_indexs_vectors_are_compared_as_it_compares_them(model: HierarchicalTextVAE, index: Index) -> None:
    query = "A boat at midnight."
    embedder = index.embedder(model)
    cosines = embedder.similarity(embedder.encode([query]), embedder.encode(TEXTS))[0]
    np.testing.assert_allclose(cosines, index.scores(model, query, "document", "latents"), atol=1e-4)


def test_texts_measure_what_a_corpus_of_them_knows(model: HierarchicalTextVAE, index: Index) -> None:
    for level in DOCUMENT:
        ours, theirs = TextEmbedder.of(model, TEXTS, level), index.embedder(model, level)
        assert list(ours.corpus) == list(theirs.corpus) == list(DOCUMENT)
        np.testing.assert_allclose(ours.corpus[level].mean, theirs.corpus[level].mean, atol=1e-6)
        np.testing.assert_allclose(ours.corpus[level].std, theirs.corpus[level].std, atol=1e-6)
    vectors = TextEmbedder.of(model, TEXTS).encode(TEXTS)
    np.testing.assert_allclose(vectors.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(vectors.std(0), 1, atol=1e-4)


def test_vectors_come_as_they_are_asked_for(model: HierarchicalTextVAE) -> None:
    embedder = TextEmbedder(model)
    plain = embedder.encode(TEXTS)
    assert plain.dtype == np.float32
    assert plain.shape == (len(TEXTS), embedder.get_sentence_embedding_dimension())
    assert torch.equal(embedder.encode(TEXTS, convert_to_tensor=True), torch.from_numpy(plain))
    rows = embedder.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(rows, list)
    np.testing.assert_array_equal(np.stack(rows), plain)
    units = embedder.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(units, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)
    assert embedder.encode([]).shape == (0, plain.shape[1])


def test_one_embedder_has_every_level_that_its_corpus_was_measured_at(
    model: HierarchicalTextVAE, index: Index, tmp_path: Path
) -> None:
    embedder = TextEmbedder.of(model, TEXTS)
    for level in DOCUMENT:
        for ours, theirs in zip(
            embedder.encode(TEXTS, level=level), index.embedder(model, level).encode(TEXTS), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    export_encoder(embedder, tmp_path)
    with pytest.raises(ValueError, match="mean and deviation are known of level document, not of 'sentence'"):
        load_exported(tmp_path).encode(TEXTS, level="sentence")


def test_a_query_is_read_as_one_sentence(model: HierarchicalTextVAE) -> None:
    embedder, query = TextEmbedder(model), "Is there soup? Everybody laughed."
    for level in DOCUMENT:
        asked, expected = embedder.encode_query([query], level=level), embed_query(model, query, level)
        np.testing.assert_allclose(np.concatenate([np.atleast_2d(rows) for rows in asked]), expected[None], atol=1e-5)
    assert len(embedder.encode_document(query, level="sentence")) == 2
    np.testing.assert_array_equal(embedder.encode_document(TEXTS), embedder.encode(TEXTS))
    assert not np.allclose(embedder.encode_query(query), embedder.encode(query))


def test_what_sentence_transformers_takes_by_default_is_taken(model: HierarchicalTextVAE) -> None:
    """Every argument of its `encode`, at its default, and words that are put before the texts."""
    library = pytest.importorskip("sentence_transformers", "6.0")
    parameters = inspect.signature(library.SentenceTransformer.encode).parameters.values()
    named = {of.name: of.default for of in parameters if of.default is not of.empty}
    embedder = TextEmbedder(model)
    np.testing.assert_array_equal(embedder.encode(inputs=TEXTS, **named), embedder.encode(TEXTS))
    np.testing.assert_array_equal(embedder.encode(TEXTS, device="cpu"), embedder.encode(TEXTS))
    prompted = embedder.encode(TEXTS, prompt="Old Marta watched it. ")
    np.testing.assert_array_equal(prompted, embedder.encode([f"Old Marta watched it. {text}" for text in TEXTS]))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda model: TextEmbedder(model, "verse"), "the model has no level 'verse'; it has document, paragraph"),
        (lambda model: TextEmbedder(model).encode(TEXTS, batch_size=0), "batch_size is 0"),
        (lambda model: TextEmbedder(model).encode(TEXTS, level="verse"), "the model has no level 'verse'"),
        (lambda model: TextEmbedder(model).encode(TEXTS, prompts="x"), "encode does not know prompts"),
        (
            lambda model: TextEmbedder(model).encode(TEXTS, precision="int8"),
            "takes precision='float32' alone, not 'int8'",
        ),
        (lambda model: TextEmbedder(model).encode(TEXTS, truncate_dim=2), "takes truncate_dim=None alone, not 2"),
        (lambda model: TextEmbedder(model).encode(TEXTS, device="cuda:7"), "device is cuda:7, the model is on cpu"),
        (lambda model: TextEmbedder(model).encode(TEXTS, task="rank"), "task is 'rank'; it must be query or document"),
        (lambda model: TextEmbedder.of(model, []), "there are no texts to measure mean and deviation on"),
        (lambda model: TextEmbedder(model).encode(["", *TEXTS]), "'text-"),
    ],
)
def test_what_cannot_be_encoded_is_said(
    model: HierarchicalTextVAE, ask: Callable[[HierarchicalTextVAE], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ask(model)


def test_a_language_model_has_nothing_to_embed_with(make_run: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="a plain language model has no latents"):
        TextEmbedder(load_run(make_run()))
