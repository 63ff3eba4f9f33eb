"""Embedding on a local Ray cluster of two machines: the files of one process, one worker killed in the middle."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from indexes import SOURCES, differing, embed_on_a_cluster
from ray_machines import on_two_machines

from textvae.cli.main import main


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'textvae[ray]'")
def test_a_cluster_writes_what_one_process_writes_though_a_worker_is_killed(
    run: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prepared data set, and what is appended of another source; paths are relative."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, "run")
    shutil.copytree(prepared, "prepared")
    lines = (json.dumps({"id": source.id, "text": source.text}) for source in SOURCES)
    Path("more.jsonl").write_text("\n".join(lines), encoding="utf-8")
    commands = {
        out: [
            ["embed", "prepared", "--model", "run", "--out", out, "--batch-tokens", "100", "--shard-documents", "4"],
            ["embed", "more.jsonl", "--model", "run", "--out", out, "--append", "--shard-documents", "3"],
        ]
        for out in ("one", "many")
    }
    for command in commands["one"]:
        assert main(command) == 0
    printed = on_two_machines(embed_on_a_cluster, commands["many"])
    assert printed.count("embedded into many") == 2
    assert Path("killed").exists()
    assert set(Path("gpus").read_text(encoding="utf-8").split()) == {"0"}, "every task has a GPU"
    assert differing(Path("one"), Path("many")) == []
