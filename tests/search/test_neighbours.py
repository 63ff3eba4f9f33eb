"""Searching without looking at everything finds what looking at everything finds, of the index as it is now."""

import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from textvae.cli.main import main
from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.search import index as searching
from textvae.search.delete import delete_documents
from textvae.search.embed import embed_corpus
from textvae.search.index import Index
from textvae.search.neighbours import FOLDER, Neighbours, build_neighbours
from textvae.search.query import Asked
from textvae.text_vae import HierarchicalTextVAE

NAMES = ("boat", "wind", "light", "wall", "soup", "night", "sail", "harbour")
VERBS = ("came", "rose", "fell", "lay", "moved", "was seen", "stood", "watched")
PLACES = ("at midnight", "in the afternoon", "on the wall", "by the water")
QUERIES = ("the boat moved on the wall", "a light at midnight", "soup", "Marta watched the night")
NUMBER = len(NAMES) * len(VERBS) * len(PLACES)


def documents(model: HierarchicalTextVAE, first: int = 0, number: int = NUMBER) -> Documents:
    """All different; half of them of two paragraphs."""
    sources = []
    for row in range(first, first + number):
        name, verb = NAMES[row % len(NAMES)], VERBS[row // len(NAMES) % len(VERBS)]
        text = f"The {name} {verb} {PLACES[row % NUMBER // (len(NAMES) * len(VERBS))]}."
        if row % 2:
            text += f"\n\nNumber {row} it was. So {verb} the {name}."
        sources.append(SourceDocument(id=f"d{row}", text=text, label=name))
    return Documents.of(model.process(sources))


@pytest.fixture(scope="module")
def embedded(model: HierarchicalTextVAE, run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neighbours") / "index"
    embed_corpus(model, documents(model), folder, run)
    return folder


@pytest.fixture
def index(embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of which a fifth is proposed."""
    monkeypatch.setattr(searching, "CANDIDATES", NUMBER // 20)
    monkeypatch.setattr(searching, "FEW", 1)
    return shutil.copytree(embedded, tmp_path / "index")


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
@pytest.mark.parametrize("by", ["encoder", "hybrid"])
def test_what_is_proposed_holds_the_best_of_all_and_is_scored_alike(
    model: HierarchicalTextVAE, index: Path, kind: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    propose = Index._proposed

    def counted(self: Index, *given: object) -> np.ndarray | None:
        units = propose(self, *given)
        looked.append(NUMBER if units is None else len(units))
        return units

    monkeypatch.setattr(Index, "_proposed", counted)
    build_neighbours(index, kind)
    near, everything = Index(index), Index(index, exact=True)
    hits = total = 0
    for level in near.levels:
        for query in QUERIES:
            expected = everything.search(model, query, level, k=1, by=by)
            found = near.search(model, query, level, k=1, by=by)
            total += 1
            hits += found[0].score == pytest.approx(expected[0].score, abs=1e-5)
            assert found[0].score <= expected[0].score + 1e-5
    assert hits / total >= (0.9 if kind == "hnsw" else 0.75)
    assert max(looked[1::2]) < NUMBER / 2
    assert set(looked[::2]) == {NUMBER}


def test_a_filter_is_kept_to_by_what_is_proposed(model: HierarchicalTextVAE, index: Path) -> None:
    build_neighbours(index, "hnsw")
    near, everything = Index(index), Index(index, exact=True)
    only = {"label": ["boat", "soup", "wall"]}
    for level in near.levels:
        found = near.search(model, "a light at midnight", level, k=5, only=only)
        assert {result.label for result in found} <= set(only["label"])
        expected = everything.search(model, "a light at midnight", level, k=5, only=only)
        assert found[0].score == pytest.approx(expected[0].score, abs=1e-5)


def test_deviations_are_those_of_a_sample(
    model: HierarchicalTextVAE, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half of the documents: scores move, by less than a tenth of a deviation."""
    monkeypatch.setattr(searching, "SAMPLE", NUMBER)
    build_neighbours(index, "hnsw")
    near, everything = Index(index), Index(index, exact=True)
    for query in QUERIES:
        (found,), (expected,) = (each.search(model, query, k=1) for each in (near, everything))
        assert found.document == expected.document
        assert found.score == pytest.approx(expected.score, rel=0.1)
        assert found.score != expected.score


@pytest.mark.parametrize("change", ["append", "delete"])
def test_an_index_that_changed_is_searched_as_it_is_now(
    model: HierarchicalTextVAE, run: str, index: Path, change: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where whoever changed it was killed before the neighbours were gone."""
    build_neighbours(index, "hnsw")
    shutil.copytree(index / FOLDER, tmp_path / "old")
    shutil.copytree(index / FOLDER, index / f"{FOLDER}-01234567.partial")  # of a maker that was killed
    with caplog.at_level(logging.WARNING):
        if change == "append":
            embed_corpus(model, documents(model, NUMBER, 8), index, run, append=True)
        else:
            delete_documents(index, [Index(index).search(model, QUERIES[0], k=1)[0].document])
    assert not list(index.glob(f"{FOLDER}*"))
    assert "run textvae neighbours" in caplog.text
    (tmp_path / "old").rename(index / FOLDER)
    with caplog.at_level(logging.WARNING):
        found = Index(index)
    assert "has changed since its neighbours were found" in caplog.text
    assert found.search(model, QUERIES[0]) == Index(index, exact=True).search(model, QUERIES[0])


def test_what_is_deleted_is_in_no_file_whenever_the_deletion_is_killed(
    model: HierarchicalTextVAE, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_neighbours(index, "hnsw")

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("textvae.search.delete.describe", killed)
    with pytest.raises(KeyboardInterrupt):
        delete_documents(index, ["d0"])
    assert not list(index.glob(f"{FOLDER}*"))
    assert Index(index).search(model, QUERIES[0])


def test_a_filter_that_proposals_get_lost_in_is_answered_by_everything(
    model: HierarchicalTextVAE, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_neighbours(index, "hnsw")
    nearest = Neighbours.nearest
    monkeypatch.setattr(Neighbours, "nearest", lambda *given: nearest(*given)[-3:])
    only = {"label": ["boat", "soup"]}
    found, expected = (
        each.search(model, QUERIES[0], k=2, by="encoder", only=only) for each in (Index(index), Index(index, True))
    )
    assert found == expected


def test_neighbours_are_made_again_and_damage_is_said(
    run: str, index: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("ivf", "hnsw"):
        assert main(["neighbours", str(index), "--kind", kind]) == 0
    assert main(["search", str(index), "soup"]) == 0
    path = index / FOLDER / "sentence.faiss"
    path.write_bytes(path.read_bytes()[:-9])
    assert main(["search", str(index), "soup"]) == 2
    assert f"'{path}' is damaged" in capsys.readouterr().err
    assert main(["search", str(index), "soup", "--exact"]) == 0
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["search", str(index), "soup"]) == 2
    assert "pip install 'textvae[neighbours]'" in capsys.readouterr().err
    assert main(["search", str(index), "soup", "--exact"]) == 0


def test_a_query_is_read_once_for_all_searches(model: HierarchicalTextVAE, index: Path) -> None:
    asked = Asked.of(model, QUERIES[0])
    for by in ("encoder", "latents", "hybrid"):
        assert Index(index).search(model, asked, by=by) == Index(index).search(model, QUERIES[0], by=by)
