"""What MTEB calls, called as it does; with mteb itself where it is installed."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.evaluation import mteb_models
from textvae.evaluation.mteb_models import IndexSearch, LatentEncoder
from textvae.evaluation.retrieval import Ranking, rank
from textvae.search.embed import embed_corpus
from textvae.search.export import export_encoder
from textvae.search.index import By, Index
from textvae.text_vae import HierarchicalTextVAE

CORPUS = [
    {"id": "a", "title": "", "text": "The harbour lay quiet. A single boat moved out.\n\nOld Marta watched it."},
    {"id": "b", "title": "", "text": "The people stood on the wall and said very little."},
    {"id": "c", "title": "", "text": "Is there soup? Everybody laughed. The wind rose in the afternoon."},
]
QUERIES = [{"id": "q1", "text": "A boat at night? It was quiet."}, {"id": "q2", "text": "Soup."}]


@pytest.fixture(scope="module")
def exported(model: HierarchicalTextVAE, run: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("exported")
    sources = [SourceDocument(id=row["id"], text=row["text"]) for row in CORPUS]
    embed_corpus(model, Documents.of(model.process(sources)), root / "index", run)
    for level in ("document", "sentence"):
        export_encoder(Index(root / "index").embedder(model, level), root / level)
    return str(root / "document")


@pytest.fixture(scope="module")
def ranked(model: HierarchicalTextVAE, run: str) -> dict[str, dict[str, dict[str, float]]]:
    """By system and query, the scores that `eval/retrieval.py` has of the documents that it finds, best first."""

    def scores(found: Ranking) -> dict[str, float]:
        return dict(zip(found.documents, found.scores.tolist(), strict=True))

    sources = [SourceDocument(id=row["id"], text=row["text"]) for row in CORPUS]
    queries = {row["id"]: row["text"] for row in QUERIES}
    systems = rank(model, run, Documents.of(model.process(sources)), queries)
    return {name: {query: scores(ranking) for query, ranking in found.items()} for name, _, found in systems}


def batches(rows: list[dict]) -> list[dict]:
    return [{"text": [row["text"] for row in rows[first : first + 2]]} for first in range(0, len(rows), 2)]


def test_the_encoder_scores_as_the_document_latents_of_a_search(exported: str, ranked: dict) -> None:
    encoder = LatentEncoder(exported, device="cpu")
    asked = encoder.encode(batches(QUERIES), prompt_type=SimpleNamespace(value="query"))
    corpus = encoder.encode(batches(CORPUS), prompt_type=SimpleNamespace(value="document"))
    cosines = encoder.similarity(asked, corpus).numpy()
    # From features in half precision.
    expected = [[found[row["id"]] for row in CORPUS] for found in ranked["textvae_document"].values()]
    np.testing.assert_allclose(cosines, expected, atol=1e-2)
    np.testing.assert_allclose(encoder.similarity_pairwise(asked, corpus[:2]), np.diag(cosines), atol=1e-6)


def test_the_search_system_scores_as_the_index(run: str, ranked: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mteb_models, "HELD", 2)  # embedded in two goes
    system = IndexSearch(run, device="cpu")
    with pytest.raises(ValueError, match="nothing to search"):
        system.search(QUERIES, top_k=2)
    system.index(CORPUS)
    for query, found in system.search(QUERIES, top_k=2).items():
        expected = ranked["hybrid"][query]
        assert list(found) == list(expected)[:2]
        # Directions in half precision, of texts that were read beside others.
        assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-2)
    among = system.search(QUERIES[:1], top_k=2, top_ranked={"q1": ["c"]})
    assert list(among["q1"]) == ["c"]
    system.close()


def test_an_empty_text_is_a_row_of_zeros(exported: str) -> None:
    encoder = LatentEncoder(exported, device="cpu")
    texts = [row["text"] for row in CORPUS]
    for kind in (None, "query"):
        found = encoder.encode([{"text": ["", texts[0]]}, {"text": [texts[1], " \n"]}], prompt_type=kind)
        np.testing.assert_array_equal(found[[0, 3]], 0)
        expected = encoder.encode([{"text": texts[:2]}], prompt_type=kind)
        np.testing.assert_allclose(found[1:3], expected, atol=1e-6)
        np.testing.assert_array_equal(encoder.similarity(found, expected).numpy()[[0, 3]], 0)
        np.testing.assert_array_equal(encoder.similarity_pairwise(found[[0, 3]], expected).numpy(), 0)
    np.testing.assert_array_equal(encoder.encode([{"text": [""]}]), np.zeros((1, encoder.embedder.size)))


@pytest.mark.parametrize("by", ["hybrid", "bm25"])
def test_a_search_system_never_finds_an_empty_document(
    run: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, by: By
) -> None:
    monkeypatch.setattr(mteb_models, "HELD", 2)
    empty = [{"id": name, "title": None, "text": " "} for name in ("e1", "e2", "e3")]
    with_empty, without = IndexSearch(run, device="cpu", by=by), IndexSearch(run, device="cpu", by=by)
    with_empty.index([*empty, *CORPUS])
    without.index(CORPUS)
    assert "3 documents have no text" in caplog.text
    expected = without.search(QUERIES, top_k=6)
    for query, found in with_empty.search(QUERIES, top_k=6).items():
        assert found == pytest.approx(expected[query], abs=1e-4)
    among = with_empty.search(QUERIES, top_k=6, top_ranked={"q1": ["e1", "c", "a"], "q2": ["c", "e3"]})
    assert set(among["q2"]) == {"c"}
    with pytest.raises(ValueError, match="no document with text"):
        with_empty.index(empty)
    for system in (with_empty, without):
        system.close()


def test_what_finds_nothing_still_has_one_document_of_score_0(run: str) -> None:
    """Without which MTEB breaks off."""
    queries = [{"id": "void", "text": " "}, {"id": "soup", "text": "soup zzyzx"}, {"id": "zzyzx", "text": "zzyzx"}]
    found = {}
    for by in ("bm25", "encoder"):
        system = IndexSearch(run, device="cpu", by=by)
        system.index(CORPUS)
        found[by] = system.search(queries, top_k=3)
        system.close()
    assert found["bm25"]["void"] == found["bm25"]["zzyzx"] == found["encoder"]["void"] == {"a": 0}
    assert set(found["bm25"]["soup"]) == {"c"}
    assert len(found["encoder"]["zzyzx"]) == 3


def test_a_lower_level_is_no_encoder_of_whole_texts(exported: str) -> None:
    with pytest.raises(ValueError, match="is of level 'sentence'"):
        LatentEncoder(str(Path(exported).parent / "sentence"))


@pytest.mark.parametrize("kind", [LatentEncoder, IndexSearch])
def test_mteb_takes_them_for_what_they_are(exported: str, run: str, kind: Callable) -> None:
    mteb = pytest.importorskip("mteb")
    model = kind(exported if kind is LatentEncoder else run)
    assert isinstance(model, mteb.EncoderProtocol) == (kind is LatentEncoder)
    assert isinstance(model, mteb.SearchProtocol) == (kind is IndexSearch)
    assert model.mteb_model_meta.name.startswith("textvae/")
