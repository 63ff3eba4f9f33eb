"""Embedding shard by shard: what is killed goes on as if it had not been, and takes nothing of another embedding."""

import logging
import pickle
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from indexes import differing, documents_of, interrupted, killed_everywhere
from run_scripts import forked, run_script
from tiny import DOCUMENT

from textvae.cli.main import main
from textvae.data.dataset import Documents, open_documents
from textvae.data.document import EncodedDocument
from textvae.runs import load_run
from textvae.search.embed import embed_corpus
from textvae.search.index import Index
from textvae.search.origin import weights_sha256
from textvae.search.resume import default_shard_documents
from textvae.search.storage import IndexDescription, ShardDescription
from textvae.search.tasks import ModelCopy
from textvae.text_vae import HierarchicalTextVAE

T = TypeVar("T")
MakeRun = Callable[..., str]


@pytest.fixture
def begun(model: HierarchicalTextVAE, run: str, tmp_path: Path) -> Path:
    """Where an index of three shards is going to be, two of which are whole."""
    out = tmp_path / "index"
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(model, interrupted(documents_of(model), 6), out, run, shard_documents=3)
    assert not out.exists()
    return out


def test_an_embedding_goes_on_after_the_shards_that_are_whole(
    model: HierarchicalTextVAE, run: str, begun: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its files are those of one that was not interrupted; what stood is not written again."""
    shards = begun.with_name("index.partial").glob("shard-*[0-9]")
    kept = {path: path.stat().st_ino for shard in shards for path in shard.glob("*.arrow")}
    assert len(kept) == 2 * 2 * len(DOCUMENT)
    with caplog.at_level(logging.WARNING, "textvae"):
        embed_corpus(model, documents_of(model), begun, run, shard_documents=3)
    assert "going on after 6 documents" in caplog.text
    assert [path.name for path in begun.parent.iterdir()] == ["index"]
    for path, inode in kept.items():
        assert (begun / path.relative_to(begun.with_name("index.partial"))).stat().st_ino == inode
    embed_corpus(model, documents_of(model), begun.with_name("whole"), run, shard_documents=3)
    assert differing(begun, begun.with_name("whole")) == []


def relabelled(documents: Documents, row: int) -> Documents:
    def read(other: int) -> EncodedDocument:
        return replace(documents.read(other), label="other") if other == row else documents.read(other)

    return replace(documents, read=read)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda whole: whole.select(range(6)), {}, "differs in the data: go on as it was begun"),
        (lambda whole: whole, {"batch_tokens": 7}, r"differs in --batch-tokens \(then 8192\)"),
        (lambda whole: whole, {"shard_documents": 2}, r"differs in --shard-documents \(then 3\)"),
        (lambda whole: relabelled(whole, 4), {}, "are others now, those from 'd3' on"),
    ],
)
def test_another_embedding_does_not_go_on_where_one_was_begun(
    model: HierarchicalTextVAE,
    run: str,
    begun: Path,
    change: Callable[[Documents], Documents],
    options: dict[str, int],
    message: str,
) -> None:
    """Another label is noticed, though ids and lengths are as they were; --start-over forgets the beginning."""
    others, options = change(documents_of(model)), {"shard_documents": 3} | options
    with pytest.raises(ValueError, match=message) as refused:
        embed_corpus(model, others, begun, run, **options)
    assert "--start-over" in str(refused.value)
    embed_corpus(model, others, begun, run, **options, start_over=True)
    embed_corpus(model, others, begun.with_name("whole"), run, **options)
    assert differing(begun, begun.with_name("whole")) == []


def test_another_model_does_not_go_on(make_run: MakeRun, begun: Path) -> None:
    other = make_run(*DOCUMENT, conditioning="embedding")
    with pytest.raises(ValueError, match="differs in the model: go on as it was begun"):
        embed_corpus(load_run(other, "cpu"), documents_of(load_run(other, "cpu")), begun, other, shard_documents=3)


def test_a_label_of_what_is_still_to_be_embedded_may_change(model: HierarchicalTextVAE, run: str, begun: Path) -> None:
    embed_corpus(model, relabelled(documents_of(model), 6), begun, run, shard_documents=3)
    assert Index(begun).search(model, "boat", k=9, only={"label": ["other"]})[0].document == "d6"


def test_shards_are_bounded_and_their_moments_are_those_of_all(
    model: HierarchicalTextVAE, run: str, tmp_path: Path
) -> None:
    described = embed_corpus(model, documents_of(model), tmp_path / "index", run, shard_documents=2)
    shards = [ShardDescription.read(tmp_path / "index" / name) for name in described.shards]
    assert [shard.documents for shard in shards] == [2, 2, 2, 1]
    assert [shard.levels["sentence"].units for shard in shards] == [6, 6, 6, 3]
    whole = embed_corpus(model, documents_of(model), tmp_path / "whole", run)
    assert len(whole.shards) == 1
    for name, level in whole.levels.items():
        assert described.levels[name].units == level.units
        torch.testing.assert_close(torch.tensor(described.levels[name].mean), torch.tensor(level.mean))
        torch.testing.assert_close(torch.tensor(described.levels[name].std), torch.tensor(level.std))
    found = [Index(tmp_path / name).search(model, "The wind rose.", "sentence", k=30) for name in ("index", "whole")]
    assert [result.text for result in found[0]] == [result.text for result in found[1]]


@pytest.mark.parametrize(("documents", "expected"), [(1, 64), (1024, 64), (16_001, 1001), (10**6, 8192)])
def test_shards_of_a_default_size_let_processes_share(documents: int, expected: int) -> None:
    assert default_shard_documents(documents) == expected


def test_a_shard_has_a_document(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "text.txt").write_text("The wind rose.", encoding="utf-8")
    arguments = [str(tmp_path / "text.txt"), "--model", run, "--out", str(tmp_path / "index")]
    assert main(["embed", *arguments, "--shard-documents", "0"]) == 2
    assert "--shard-documents is 0; it must be 1 or more" in capsys.readouterr().err


@pytest.mark.usefixtures("one_thread")
def test_two_processes_write_the_files_that_one_does(
    model: HierarchicalTextVAE, run: str, prepared: Path, tmp_path: Path
) -> None:
    """From the start, going on where one was interrupted, and appending."""
    options = ("--batch-tokens", "100", "--shard-documents", "5")

    def command(out: str) -> list[str]:
        return ["textvae/cli/main.py", "embed", str(prepared), "--model", run, "--out", str(tmp_path / out), *options]

    half = interrupted(open_documents(str(prepared), model.processor, "train"), 12)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(model, half, tmp_path / "half", run, 100, shard_documents=5)
    (tmp_path / "more.jsonl").write_text('{"text": "The wind rose."}\n{"text": "Is there soup?"}\n', encoding="utf-8")
    more = {out: [*command(out), "--append", "--shard-documents", "1"] for out in ("one", "two", "half")}
    for arguments in more.values():
        arguments[arguments.index(str(prepared))] = str(tmp_path / "more.jsonl")
    printed = forked(2, command("two"), command("half"), more["two"], more["half"])
    assert printed.count("embedded into") == 4
    assert printed.count("going on after 10 documents") == 1
    assert run_script(*command("one")) == 0
    assert len(IndexDescription.read(tmp_path / "one").shards) > 3
    assert run_script(*more["one"]) == 0
    for out in ("two", "half"):
        assert differing(tmp_path / out, tmp_path / "one") == []


# Shared out to workers


class Elsewhere:
    """A worker that gets everything pickled, as another machine would, and does every task as often as `times` says."""

    def __init__(self, times: int = 1) -> None:
        self.times = times

    def run(self, do: Callable[[T], None], tasks: Sequence[T], purpose: str, *, alone: bool = False) -> None:
        assert alone, "it holds a model"
        sent = [pickle.dumps((do, task)) for task in tasks for _ in range(self.times)]
        for one in sent:
            there, task = pickle.loads(one)
            there(task)


@pytest.mark.usefixtures("one_thread")
def test_workers_write_the_files_that_one_process_does(
    model: HierarchicalTextVAE, run: str, prepared: Path, tmp_path: Path
) -> None:
    """Though each loads the model for itself, a task is done twice, and a beginning of a lost one lies about; going on,
    and appending."""
    whole = open_documents(str(prepared), model.processor, "train")
    more = documents_of(model)
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(model, interrupted(whole, 12), tmp_path / "there", run, 100, shard_documents=5)
    kept = {path: path.stat().st_ino for path in (tmp_path / "there.partial").glob("shard-*/*")}
    lost = tmp_path / "there.partial" / "shard-000000000010-lost.partial"
    lost.mkdir()
    (lost / "shard.json").touch()
    for documents, options in ((whole, {}), (more, {"append": True})):
        for out, workers in (("here", None), ("there", Elsewhere(2))):
            embed_corpus(model, documents, tmp_path / out, run, 100, shard_documents=5, workers=workers, **options)
        assert differing(tmp_path / "here", tmp_path / "there") == []
    moved = {tmp_path / "there" / path.relative_to(tmp_path / "there.partial"): inode for path, inode in kept.items()}
    assert kept
    assert {path: path.stat().st_ino for path in moved} == moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_worker_has_the_model_of_the_process_that_sends_it(run: str, dtype: torch.dtype) -> None:
    model = load_run(run, "cpu", dtype)
    model.set_chunk_tokens(50)
    copy = ModelCopy.of(model, run, weights_sha256(run)).load()
    assert [p.dtype for p in copy.parameters()] == [p.dtype for p in model.parameters()]
    assert copy.layout == model.layout


def test_prepared_documents_travel_by_the_names_of_their_files(model: HierarchicalTextVAE, prepared: Path) -> None:
    read = open_documents(str(prepared), model.processor, "train").read
    sent = pickle.dumps(read)
    assert pickle.loads(sent)(3).sentences == read(3).sentences
    assert not any(sentence.strip().encode() in sent for row in range(20) for sentence in read(row).sentences)


def test_a_worker_that_finds_another_model_writes_nothing(model: HierarchicalTextVAE, run: str, tmp_path: Path) -> None:
    class Late(Elsewhere):
        def run(self, do: Callable[[T], None], tasks: Sequence[T], purpose: str, *, alone: bool = False) -> None:
            other = load_run(there, "cpu")
            next(other.parameters()).data.add_(1)
            other.save_pretrained(there)
            super().run(do, tasks, purpose, alone=alone)

    there = str(shutil.copytree(run, tmp_path / "run"))
    with pytest.raises(ValueError, match="is another where a worker reads it: give all machines the same files"):
        embed_corpus(model, documents_of(model), tmp_path / "index", there, workers=Late())
    assert [path.name for path in (tmp_path / "index.partial").iterdir()] == ["embedding.json"]


def test_a_worker_takes_the_device_that_it_is_given(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["text.txt", "--model", run, "--out", str(tmp_path / "index"), "--ray", "--device", "cpu"]
    assert main(["embed", *arguments]) == 2
    assert "with --ray every worker takes a GPU of the cluster, or a processor: leave out" in capsys.readouterr().err


# Killed before any change to a file


def embed_three(model: HierarchicalTextVAE, run: str, out: Path) -> None:
    embed_corpus(model, documents_of(model), out, run, shard_documents=3)


def nothing(*_: object) -> None:
    """Where a job begins with an empty folder."""


def test_an_embedding_that_is_killed_anywhere_ends_as_if_it_had_not_been(
    model: HierarchicalTextVAE, run: str, tmp_path: Path
) -> None:
    lines = list(killed_everywhere(model, run, tmp_path, nothing, embed_three))
    assert len(lines) > 15
    assert any(re.search(r"rename shard-000000000003-\w+\.partial", line) for line in lines)
    assert any("rename index.json.partial" in line for line in lines)
    assert [line for line in lines if not line.endswith(": ")] == []
