"""Documents appended to an index and deleted from it: it is as if it had been made of what it holds now."""

import io
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from accelerate import PartialState
from indexes import SOURCES, differing, documents_of, interrupted, killed_everywhere
from tiny import DOCUMENT

from textvae.cli.main import main
from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.lock import locked, locked_beside, locked_together
from textvae.runs import load_run
from textvae.search.delete import delete_documents
from textvae.search.embed import embed_corpus
from textvae.search.index import WEIGHTS, By, Index
from textvae.search.storage import IndexDescription
from textvae.search.units import read_level
from textvae.text_vae import HierarchicalTextVAE

MakeRun = Callable[..., str]
QUERY = "The wind came late."
TOLERANCE = {"latents": 1e-3, "words": 1e-4, "encoder": 2e-4, "both": 0.02, "bm25": 1e-5}
TOLERANCE["hybrid"] = 0.15 * WEIGHTS["hybrid"][0]
"""By what is searched: features are rounded to half precision, and sums count deviations."""


@pytest.fixture(scope="module")
def made(model: HierarchicalTextVAE, run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the first five documents, in shards of two."""
    folder = tmp_path_factory.mktemp("made") / "index"
    embed_corpus(model, documents_of(model, SOURCES[:5]), folder, run, shard_documents=2)
    return folder


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    """One that may be changed."""
    return shutil.copytree(made, tmp_path / "index")


def made_of(model: HierarchicalTextVAE, run: str, folder: Path, sources: Sequence[SourceDocument]) -> Path:
    """An index that holds these from the start."""
    embed_corpus(model, documents_of(model, sources), folder, run)
    return folder


def assert_same(model: HierarchicalTextVAE, one: Path, other: Path, rows: bool = True) -> None:
    """Units, statistics, and what is found by all there is; `rows`: and the documents' numbers."""
    ours, theirs = IndexDescription.read(one), IndexDescription.read(other)
    assert (ours.documents, ours.sources) == (theirs.documents, theirs.sources)
    for level in DOCUMENT:
        assert ours.levels[level].units == theirs.levels[level].units
        np.testing.assert_allclose(ours.levels[level].mean, theirs.levels[level].mean, atol=1e-5)
        np.testing.assert_allclose(ours.levels[level].std, theirs.levels[level].std, atol=1e-5)
        tables = [read_level(folder, described, level) for folder, described in ((one, ours), (other, theirs))]
        for column in ("document", "source_id", "title", "label", "parent", "text", *(("row",) if rows else ())):
            assert tables[0].column(column).to_pylist() == tables[1].column(column).to_pylist()
        for by in get_args(By):
            found = [Index(folder).scores(model, QUERY, level, by) for folder in (one, other)]
            np.testing.assert_allclose(found[0], found[1], atol=TOLERANCE[by])
            # Texts that have as many words of the query are alike to BM25.
            assert len(found[0]) < 3 or by == "bm25" or np.ptp(found[0]) > 5 * TOLERANCE[by]


def test_an_index_that_was_appended_to_is_the_one_made_at_once(
    model: HierarchicalTextVAE, run: str, index: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_ino for path in index.rglob("*.arrow")}
    embed_corpus(model, documents_of(model, SOURCES[5:6]), index, run, append=True)
    embed_corpus(model, documents_of(model, SOURCES[6:]), index, run, append=True)
    assert_same(model, index, made_of(model, run, tmp_path / "whole", SOURCES))
    assert {path: path.stat().st_ino for path in before} == before, "what was there is not written again"


@pytest.mark.parametrize(
    ("sources", "dtype", "message"),
    [
        (
            SOURCES[3:],
            None,
            "2 of these documents are in '.*index' already, the first is 'd3': leave them out, or dele",
        ),
        (SOURCES[5:], torch.bfloat16, "embedded with weights in float32, not in bfloat16 and float32"),
    ],
)
def test_what_cannot_be_appended_changes_nothing(
    run: str,
    index: Path,
    made: Path,
    sources: Sequence[SourceDocument],
    dtype: torch.dtype | None,
    message: str,
) -> None:
    model = load_run(run, "cpu", dtype)
    with pytest.raises(ValueError, match=message):
        embed_corpus(model, documents_of(model, sources), index, run, append=True)
    assert differing(index, made) == []


def test_another_model_appends_nothing(make_run: MakeRun, index: Path, made: Path) -> None:
    other = make_run(*DOCUMENT, conditioning="embedding")
    model = load_run(other, "cpu")
    with pytest.raises(ValueError, match=f"'{other}' is not the model that made '{index}'"):
        embed_corpus(model, documents_of(model, SOURCES[5:]), index, other, append=True)
    assert differing(index, made) == []


def test_a_folder_that_is_there_is_appended_to_on_demand_alone(
    model: HierarchicalTextVAE, run: str, index: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"exists already: remove it, choose another folder .* or add to it with --app"
    ):
        embed_corpus(model, documents_of(model, SOURCES[5:]), index, run)
    with pytest.raises(ValueError, match="nowhere' is no index"):
        embed_corpus(model, documents_of(model, SOURCES[5:]), tmp_path / "nowhere", run, append=True)


@pytest.mark.parametrize("gone", [[1], [0, 1], [0, 3, 4], [4]], ids=str)
def test_what_was_deleted_is_nowhere(
    model: HierarchicalTextVAE, run: str, index: Path, tmp_path: Path, gone: list[int]
) -> None:
    """A part of a shard, a whole one, and both: in no file, no statistic and no result."""
    assert delete_documents(index, [SOURCES[number].id for number in gone]) == len(gone)
    left = [source for number, source in enumerate(SOURCES[:5]) if number not in gone]
    assert_same(model, index, made_of(model, run, tmp_path / "left", left), rows=False)
    for number in gone:
        assert not any(
            f"A {SOURCES[number].title} came".encode() in path.read_bytes() for path in index.rglob("*.arrow")
        )
        with pytest.raises(ValueError, match=f"holds no document with the id 'd{number}'"):
            Index(index).embedding(f"d{number}")


def test_a_source_is_deleted_with_all_its_sections(model: HierarchicalTextVAE, run: str, tmp_path: Path) -> None:
    long = SourceDocument("long", text="\n\n".join(f"The {source.title} rose. So." for source in SOURCES[:4]))
    sections = model.processor.process(long, 2).sections
    others = [documents_of(model, SOURCES[:3]).read(row) for row in range(3)]
    embed_corpus(model, Documents.of([*others[:1], *sections, *others[1:]]), tmp_path / "index", run, shard_documents=2)
    assert delete_documents(tmp_path / "index", ["long", "d2"]) == len(sections) + 1 == 5
    assert_same(model, tmp_path / "index", made_of(model, run, tmp_path / "left", SOURCES[:2]), rows=False)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["d1", "d9", "d8"], "holds no document with the id 'd9': nothing was deleted"),
        ([f"d{number}" for number in range(5)], "that would leave nothing in '.*index': remove the folder"),
    ],
)
def test_what_cannot_be_deleted_changes_nothing(index: Path, made: Path, ids: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        delete_documents(index, ids)
    assert differing(index, made) == []


def test_numbers_of_documents_are_not_given_again(model: HierarchicalTextVAE, run: str, index: Path) -> None:
    """Deleted twice in a shard, appended again: every document has a row of its own, and none is found twice."""
    delete_documents(index, ["d4"])
    delete_documents(index, ["d0"])
    embed_corpus(model, documents_of(model, [SOURCES[4], SOURCES[0]]), index, run, append=True)
    delete_documents(index, ["d1"])
    assert Index(index).rows("document").tolist() == [2, 3, 5, 6]
    found = Index(index).search(model, QUERY, k=9)
    assert sorted(result.document for result in found) == ["d0", "d2", "d3", "d4"]


def test_an_append_goes_on_though_documents_were_deleted_meanwhile(
    model: HierarchicalTextVAE, run: str, index: Path, tmp_path: Path
) -> None:
    """And is no part of the index before it is whole."""
    more = documents_of(model, SOURCES[5:])
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(model, interrupted(more, 1), index, run, append=True, shard_documents=1)
    begun = {path: path.stat().st_ino for path in index.glob("shard-000000000005/*")}
    assert len(Index(index).search(model, QUERY, k=9)) == 5
    delete_documents(index, ["d1"])
    embed_corpus(model, more, index, run, append=True, shard_documents=1)
    assert {path: path.stat().st_ino for path in begun} == begun
    assert_same(model, index, made_of(model, run, tmp_path / "left", [SOURCES[0], *SOURCES[2:]]), rows=False)


def test_another_append_does_not_go_on_where_one_was_begun(
    model: HierarchicalTextVAE, run: str, index: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(
            model, interrupted(documents_of(model, SOURCES[5:]), 1), index, run, append=True, shard_documents=1
        )
    other = documents_of(model, SOURCES[6:])
    with pytest.raises(ValueError, match="holds the beginning of an embedding that differs in the data"):
        embed_corpus(model, other, index, run, append=True)
    embed_corpus(model, other, index, run, append=True, start_over=True)
    assert_same(model, index, made_of(model, run, tmp_path / "whole", [*SOURCES[:5], SOURCES[6]]))


def test_ids_are_deleted_by_a_command_or_from_its_input(
    index: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["delete", str(index), "d0"]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("d1\n\nd2\n"))
    assert main(["delete", str(index)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"deleted from {index}: {count} documents" for count in (1, 2)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert main(["delete", str(index)]) == 2
    assert "no id was given" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["embed", "append", "delete"])
def test_what_another_process_writes_to_is_left_alone(
    model: HierarchicalTextVAE, run: str, index: Path, made: Path, tmp_path: Path, change: str
) -> None:
    """As one does that outlives its launcher, until it ends."""

    def changed() -> None:
        if change == "embed":
            embed_corpus(model, documents_of(model), tmp_path / "other", run)
        elif change == "append":
            embed_corpus(model, documents_of(model, SOURCES[5:]), index, run, append=True)
        else:
            delete_documents(index, ["d0"])

    folder = tmp_path / "other.partial" if change == "embed" else index
    folder.mkdir(exist_ok=True)
    with locked(folder):
        with pytest.raises(ValueError, match=f"another process is writing to '{folder}': wait until it has ended"):
            changed()
        assert change == "embed" or differing(index, made) == []
    with locked_together(folder, PartialState()), pytest.raises(ValueError, match="another process is writing"):
        changed()
    with locked_together(folder, PartialState()):
        worker = ExitStack()
        worker.enter_context(locked_beside(folder))
    with worker, pytest.raises(ValueError, match="another process is writing"):
        changed()
    changed()


def test_a_file_system_without_locks_is_written_to_with_a_warning(
    index: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("textvae.lock.fcntl.flock", refused)
    assert delete_documents(index, ["d0"]) == 1
    with locked_together(index, PartialState()):
        assert caplog.text.count("Function not implemented: the folder cannot be locked") == 2


# Killed before any change to a file


def embed_five(model: HierarchicalTextVAE, run: str, out: Path) -> None:
    embed_corpus(model, documents_of(model, SOURCES[:5]), out, run, shard_documents=2)


def append_two(model: HierarchicalTextVAE, run: str, out: Path) -> None:
    if IndexDescription.read(out).documents == 5:
        embed_corpus(model, documents_of(model, SOURCES[5:]), out, run, append=True, shard_documents=1)


def delete_two(model: HierarchicalTextVAE, run: str, out: Path) -> None:
    with suppress(ValueError):  # after a kill in the cleaning up, nothing of them is left to be found
        delete_documents(out, ["d0", "d4"])


@pytest.mark.parametrize("change", [append_two, delete_two])
def test_a_change_that_is_killed_anywhere_ends_as_if_it_had_not_been(
    model: HierarchicalTextVAE, run: str, tmp_path: Path, change: Callable[..., None]
) -> None:
    lines = list(killed_everywhere(model, run, tmp_path, embed_five, change))
    assert len(lines) > 6
    assert any("os.rename index.json.partial" in line for line in lines)
    assert [line for line in lines if not line.endswith(": ")] == []
