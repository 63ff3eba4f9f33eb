"""A preparation that is killed, or meets a bad file or a full disk, goes on and ends with the same bytes."""

import gzip
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preparing import (
    contents,
    encode_or_die,
    prepare_and_die,
    prepare_on_a_full_disk,
    small_parts,
    write_corpus,
)
from run_scripts import in_a_process

from textvae.data.dataset import load_prepared
from textvae.data.prepare import pipeline, vocabulary
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.lock import locked
from textvae.workers import LocalWorkers


@pytest.fixture(autouse=True)
def several_parts() -> Iterator[None]:
    with small_parts():
        yield


@pytest.fixture
def options(tmp_path: Path, encoder_folder: str) -> PrepareOptions:
    """A vocabulary is trained."""
    source = str(write_corpus(tmp_path / "corpus"))
    return PrepareOptions(
        source, str(tmp_path / "out"), encoder_folder, vocabulary_size=380, max_sentence_tokens=48, num_proc=1
    )


@pytest.fixture
def whole(options: PrepareOptions, tmp_path: Path) -> dict[str, Any]:
    """What is written where nothing happens."""
    prepare(replace(options, out=str(tmp_path / "whole")))
    return contents(tmp_path / "whole")


def test_a_corpus_is_prepared_in_parts(options: PrepareOptions, whole: dict[str, Any], tmp_path: Path) -> None:
    assert len(list((tmp_path / "whole" / "train").glob("*.arrow"))) > 1
    splits = (load_prepared(tmp_path / "whole", split) for split in ("train", "validation", "test"))
    ids = [name for split in splits for name in split.documents.ids]
    assert len(ids) == len(set(ids)) == 30
    assert {"twice", "twice~2", "twice~3"} <= set(ids)


def test_a_vocabulary_is_trained_on_documents_from_all_over_the_training_split(
    options: PrepareOptions, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = load_prepared(tmp_path / "whole", "train")
    documents = [list(train.read(row).paragraphs()) for row in range(len(train))]
    taken: list[str] = []

    def take(texts: Iterable[str], _: int) -> None:
        taken.extend(texts)
        raise KeyboardInterrupt

    monkeypatch.setattr(vocabulary, "train_sentencepiece", take)
    monkeypatch.setattr(vocabulary, "SAMPLED_BYTES", 3000)
    with pytest.raises(KeyboardInterrupt):
        prepare(options)
    found = [step for step in range(1, 20) if taken == list(chain.from_iterable(documents[::step]))]
    assert len(found) == 1
    assert 3 <= found[0] <= 8


def test_killed_again_and_again_it_ends_as_if_it_had_not_been(
    options: PrepareOptions, whole: dict[str, Any], tmp_path: Path
) -> None:
    """Each life renames three files or folders, and is killed before the next."""
    lives = 1
    while (status := in_a_process(prepare_and_die, options, 3)) == -signal.SIGKILL:
        assert not (tmp_path / "out").exists()
        lives += 1
        assert lives < 20, "a life achieved nothing"
    assert status == 0
    assert lives > 5
    assert contents(tmp_path / "out") == whole
    assert not (tmp_path / "out.partial").exists()


def test_other_options_do_not_go_on_with_what_was_begun(options: PrepareOptions, tmp_path: Path) -> None:
    assert in_a_process(prepare_and_die, options, 8) == -signal.SIGKILL
    other = replace(options, max_sentence_tokens=40)
    with pytest.raises(ValueError, match=r"differs in max_sentence_tokens \(then 48\).*--start-over"):
        prepare(other)
    assert (tmp_path / "out.partial" / "encoded").is_dir()
    prepare(other, start_over=True)
    expected = replace(other, out=str(tmp_path / "other"))
    prepare(expected)
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def test_a_file_that_was_mended_is_read_again_and_the_others_are_not(
    options: PrepareOptions, whole: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "corpus" / "part1.jsonl"
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=r"part1\.jsonl, line \d+: not valid JSON"):
        prepare(options)
    raw = tmp_path / "out.partial" / "raw"
    (kept,) = raw.iterdir()
    before = kept.stat().st_mtime_ns
    path.write_bytes(good)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "encode", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(options)
    assert kept.stat().st_mtime_ns == before
    assert len(list(raw.glob("*/*.arrow"))) == 6
    prepare(options)
    assert contents(tmp_path / "out") == whole


def _interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_source_that_changed_is_divided_and_encoded_again(options: PrepareOptions, tmp_path: Path) -> None:
    assert in_a_process(prepare_and_die, options, 9) == -signal.SIGKILL
    assert any((tmp_path / "out.partial" / "encoded").iterdir())
    with (tmp_path / "corpus" / "part0.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "new", "text": "It is new."}\n')
    (tmp_path / "corpus" / "part2.jsonl").unlink()
    prepare(options)
    prepare(replace(options, out=str(tmp_path / "other")))
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def test_a_truncated_archive_is_named(options: PrepareOptions, tmp_path: Path) -> None:
    path = tmp_path / "corpus" / "part1.jsonl"
    packed = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_suffix(".jsonl.gz").write_bytes(packed[:-20])
    with pytest.raises(ValueError, match=r"part1\.jsonl\.gz is damaged"):
        prepare(options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", [600, 4_000, 9_000, 14_000])
def test_on_a_full_disk_it_says_so_and_goes_on(
    options: PrepareOptions, whole: dict[str, Any], tmp_path: Path, limit: int
) -> None:
    """Files may not become larger than this: raw parts, encoded ones, shards, or the vocabulary's."""
    said = tmp_path / "said.txt"
    assert in_a_process(prepare_on_a_full_disk, options, limit, str(said)) == 0
    assert "make room, and the same command goes on" in said.read_text(encoding="utf-8")
    assert not (tmp_path / "out").exists()
    prepare(options)
    assert contents(tmp_path / "out") == whole


def test_features_go_on_too(options: PrepareOptions, tmp_path: Path) -> None:
    def lengths(sentences: list[list[int]]) -> np.ndarray:
        return np.array([[len(ids), ids[1]] for ids in sentences], dtype=np.float32)

    calls = [0]

    def failing(sentences: list[list[int]]) -> np.ndarray:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return lengths(sentences)

    cached = replace(options, cache_features=True)
    with pytest.raises(KeyboardInterrupt):
        prepare(cached, failing)
    prepare(cached, failing)
    prepare(replace(cached, out=str(tmp_path / "whole")), lengths)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_two_do_not_write_to_one_folder(options: PrepareOptions, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    with locked(tmp_path / "out.partial"), pytest.raises(ValueError, match="another process is writing"):
        prepare(options)


def _die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_lost_process_is_an_error_that_says_how_to_go_on(options: PrepareOptions, tmp_path: Path) -> None:
    two = replace(options, num_proc=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "encode", encode_or_die)
        with pytest.raises(OSError, match=r"a process was lost while tokenising.*goes on where it stood"):
            prepare(two)
    prepare(two)
    prepare(replace(two, out=str(tmp_path / "whole")))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("num_proc", [1, 3])
def test_workers_do_every_task_or_tell_the_error(num_proc: int, tmp_path: Path) -> None:
    LocalWorkers(num_proc).run(Path.touch, [tmp_path / f"{number}" for number in range(9)], "touching")
    assert len(list(tmp_path.iterdir())) == 9
    do: Callable[[Path], None] = Path.unlink
    with pytest.raises(FileNotFoundError):
        LocalWorkers(num_proc).run(do, [tmp_path / "nowhere", tmp_path / "0"], "removing")
