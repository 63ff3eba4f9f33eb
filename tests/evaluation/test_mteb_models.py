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
from textvae.evaluation.retrieval import rank
from textvae.search.embed import embed_corpus
from textvae.search.export import export_encoder
from textvae.search.index import Index
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
def ranked(model: HierarchicalTextVAE, run: str) -> dict[str, dict[str, np.ndarray]]:
    """By system and query, the scores that `eval/retrieval.py` has of the documents."""
    sources = [SourceDocument(id=row["id"], text=row["text"]) for row in CORPUS]
    queries = {row["id"]: row["text"] for row in QUERIES}
    return {name: found for name, _, found in rank(model, run, Documents.of(model.process(sources)), queries)}


def batches(rows: list[dict]) -> list[dict]:
    return [{"text": [row["text"] for row in rows[first : first + 2]]} for first in range(0, len(rows), 2)]


def test_the_encoder_scores_as_the_document_latents_of_a_search(exported: str, ranked: dict) -> None:
    encoder = LatentEncoder(exported, device="cpu")
    asked = encoder.encode(batches(QUERIES), prompt_type=SimpleNamespace(value="query"))
    corpus = encoder.encode(batches(CORPUS), prompt_type=SimpleNamespace(value="document"))
    cosines = encoder.similarity(asked, corpus).numpy()
    expected = np.stack(list(ranked["textvae_document"].values()))  # from features in half precision
    np.testing.assert_allclose(cosines, expected, atol=1e-2)
    np.testing.assert_allclose(encoder.similarity_pairwise(asked, corpus[:2]), np.diag(cosines), atol=1e-6)


def test_the_search_system_scores_as_the_index(run: str, ranked: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mteb_models, "HELD", 2)  # embedded in two goes
    system = IndexSearch(run, device="cpu")
    with pytest.raises(ValueError, match="nothing to search"):
        system.search(QUERIES, top_k=2)
    system.index(CORPUS)
    for query, found in system.search(QUERIES, top_k=2).items():
        expected = dict(zip("abc", ranked["hybrid"][query], strict=True))
        assert list(found) == sorted(expected, key=expected.__getitem__, reverse=True)[:2]
        assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-4)
    among = system.search(QUERIES[:1], top_k=2, top_ranked={"q1": ["c"]})
    assert list(among["q1"]) == ["c"]
    system.close()


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
