"""Preparation on a local Ray cluster of two machines: the bytes of one process, one worker killed in the middle."""

from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from preparing import contents, lose_every_worker, prepare_on_a_cluster, write_corpus
from ray_machines import on_two_machines

from textvae.cluster import RayWorkers
from textvae.data.prepare.pipeline import PrepareOptions, prepare


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'textvae[ray]'")
def test_a_cluster_writes_what_one_process_writes_though_a_worker_is_killed(
    tmp_path: Path, encoder_folder: str
) -> None:
    source = write_corpus(tmp_path / "corpus", 60)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "bad.jsonl").write_text("{broken", encoding="utf-8")
    one = PrepareOptions(
        str(source), str(tmp_path / "one"), encoder_folder, vocabulary_size=380, max_sentence_tokens=48
    )
    prepare(one)
    refused = replace(one, source=str(bad), out=str(tmp_path / "refused"))
    (tmp_path / "cluster").mkdir()
    many = replace(one, out=str(tmp_path / "cluster" / "many"))
    printed = on_two_machines(prepare_on_a_cluster, [asdict(refused), asdict(many)])
    assert "bad.jsonl, line 1: not valid JSON" in printed
    assert (tmp_path / "cluster" / "killed").exists()
    assert contents(tmp_path / "cluster" / "many") == contents(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'textvae[ray]'")
def test_a_task_that_is_lost_every_time_is_one_error(tmp_path: Path, encoder_folder: str) -> None:
    source = write_corpus(tmp_path / "corpus", 4)
    options = PrepareOptions(str(source), str(tmp_path / "out"), encoder_folder, vocabulary_size=380)
    printed = on_two_machines(lose_every_worker, asdict(options))
    (told,) = [line for line in printed.splitlines() if line.startswith("lost:")]
    assert "lost a task again and again while tokenising (" in told
    assert told.endswith("the same command goes on where it stood")


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_is_said_how_to_get_it() -> None:
    with pytest.raises(ValueError, match=r"pip install 'textvae\[ray\]'"):
        RayWorkers("auto")
