"""Words that are counted shard by shard: BM25 as bm25s computes it of all texts at once."""

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import bm25s
import numpy as np
import pyarrow
import pytest
from indexes import SOURCES, documents_of
from tiny import DOCUMENT

from textvae.cli.main import main
from textvae.runs import load_run
from textvae.search.delete import delete_documents
from textvae.search.embed import embed_corpus
from textvae.search.index import WEIGHTS, Index
from textvae.search.lexical import Lexical
from textvae.search.postings import SCHEMA, Postings, WordCounter, with_title
from textvae.search.storage import IndexDescription

MakeRun = Callable[..., str]
RANDOM = np.random.default_rng(0)
VOCABULARY = ["boat", "wind", "Wall", "sëa", "the", "of", "x", "don't", "42", "soup", *(f"word{n}" for n in range(40))]
TEXTS = ["", "the of", *(" ".join(RANDOM.choice(VOCABULARY, RANDOM.integers(0, 30))) for _ in range(60)), "x."]


def postings_of(texts: list[str], language: str) -> Postings:
    counter = WordCounter(language)
    for text in texts:
        counter.add([text])
    return Postings.of(counter.table(), counter.lengths, "postings")


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize("query", ["boat", "the Boat boat of SËA", "word3 word4 nowhere 42", "the", "nowhere", "?"])
def test_scores_of_shards_are_those_of_bm25s(language: str, query: str) -> None:
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    stopwords = {"en": "en", "de": None}[language]
    reference = bm25s.BM25()
    reference.index(bm25s.tokenize(TEXTS, stopwords=stopwords, show_progress=False), show_progress=False)
    (words,) = bm25s.tokenize([query], stopwords=stopwords, show_progress=False, return_ids=False)
    expected = reference.get_scores(words) if words else np.zeros(len(TEXTS))
    for cuts in ((0, len(TEXTS)), (0, 1, 2, 30, 30, len(TEXTS))):
        shards = [postings_of(TEXTS[first:after], language) for first, after in pairwise(cuts)]
        np.testing.assert_allclose(Lexical(shards).scores(query), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(Lexical.of(TEXTS, language).scores(query), expected, rtol=1e-5, atol=1e-6)
    assert (expected.max() > 0) == (query not in ("nowhere", "?") and (query, language) != ("the", "en"))


def test_texts_without_words_are_not_found() -> None:
    np.testing.assert_array_equal(Lexical.of(["", "?"], "en").scores("boat"), [0, 0])


def forged(**columns: object) -> pyarrow.Table:
    whole: dict = {"word": ["boat", "wind"], "units": [[0, 2], [1]], "counts": [[1, 1], [3]]} | columns
    return pyarrow.table({name: pyarrow.array(whole[name], SCHEMA.field(name).type) for name in whole}, schema=SCHEMA)


@pytest.mark.parametrize(
    "table",
    [
        forged().select(["word", "units"]),
        forged(word=["boat", None]),
        forged(counts=[[1, 1], None]),
        forged(units=[[0, None], [1]]),
        forged(counts=[[1], [1, 3]]),
        forged(units=[[0, 3], [1]]),
        forged(units=[[0, -1], [1]]),
        forged(counts=[[0, 1], [3]]),
    ],
    ids=str,
)
def test_a_strangers_postings_are_refused_in_a_line(table: pyarrow.Table) -> None:
    """Though their checksum is right."""
    lengths = np.ones(3, dtype=np.int32)
    assert Lexical([Postings.of(forged(), lengths, "file")]).scores("boat").argmax() == 0
    with pytest.raises(ValueError, match=r"^file is damaged \(.*\); make it again with textvae embed$"):
        Lexical([Postings.of(table, lengths, "file")]).scores("boat")


@pytest.fixture
def index(make_run: MakeRun, tmp_path: Path) -> Path:
    run = make_run(*DOCUMENT)
    model = load_run(run, "cpu")
    embed_corpus(model, documents_of(model), tmp_path / "index", run, shard_documents=3)
    return tmp_path / "index"


def test_an_index_is_opened_with_its_words_counted(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Index(index)
    model = load_run(opened.find_model(), "cpu")

    def counted(*_: object) -> None:
        raise AssertionError("words are counted again")

    monkeypatch.setattr(WordCounter, "add", counted)
    by = {by: opened.scores(model, "sail", "sentence", by) for by in ("encoder", "hybrid")}
    meaning = (by["encoder"] - by["encoder"].mean()) / by["encoder"].std()
    gained = by["hybrid"] - WEIGHTS["hybrid"][0] * meaning
    units = opened.search(model, "sail", "sentence", k=21, by="encoder")
    assert len(units) == 21
    assert np.flatnonzero(gained > 0.1).tolist() == [18, 20], "the sentences with the word, in the last shard"


def test_a_title_is_found_where_documents_are_sought(make_run: MakeRun, tmp_path: Path) -> None:
    """As if it stood before the text; after documents were deleted, too."""
    run = make_run(*DOCUMENT)
    model = load_run(run, "cpu")
    named = [replace(source, title=f"On Ferry{number}" if number else None) for number, source in enumerate(SOURCES)]
    embed_corpus(model, documents_of(model, named), tmp_path / "index", run, shard_documents=3)
    delete_documents(tmp_path / "index", ["d1"])
    opened = Index(tmp_path / "index")
    kept = [named[0], *named[2:]]
    expected = Lexical.of([with_title(source.title, source.text) for source in kept], "en")
    for query in ("ferry4", "a boat on the ferry2"):
        found = opened.scores(model, query, "document", "bm25")
        np.testing.assert_allclose(found, expected.scores(query), rtol=1e-5, atol=1e-6)
        assert found.max() > 0
    assert opened.scores(model, "ferry4", "sentence", "bm25").max() == 0


def test_damaged_postings_are_told_in_a_line(index: Path, capsys: pytest.CaptureFixture) -> None:
    shard = list(IndexDescription.read(index).shards)[1]
    path = index / shard / "document.postings.arrow"
    whole = path.read_bytes()
    for content in (whole[:-1], b"", bytes([whole[0] ^ 1]) + whole[1:], whole + b"x", None):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        assert main(["search", str(index), "boat"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"error: '{path}' is ")
        assert error.endswith("; make it again with textvae embed")
