"""A small run of `experiments/damaged_files.py`, and what its cases cannot tell: edits on purpose, missing weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_scripts import in_a_process, run_script
from safetensors.torch import load_file, save_file

from textvae.damage import CHECKSUMS_FILE, reading
from textvae.runs import load_run

MakeRun = Callable[..., str]


@pytest.fixture
def run(make_run: MakeRun, tmp_path: Path) -> Path:
    """One that may be damaged."""
    return shutil.copytree(make_run("document"), tmp_path / "run")


def test_damaged_files_are_refused_by_name_or_read_as_they_were(tmp_path: Path) -> None:
    # In a process of its own: it forks, and this one may have threads whose locks a fork would wait for.
    out = ("--out", str(tmp_path / "cases.jsonl"))
    status = in_a_process(run_script, "experiments/damaged_files.py", "--count", "36", "--seed", "4", *out)
    cases = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {case["target"] for case in cases} == {"configuration", "log", "model", "data set", "index", "resume"}
    assert [case for case in cases if case["outcome"].isupper()] == []
    assert (status, len(cases)) == (0, 36)
    assert sum(case["outcome"] == "refused" for case in cases) > 10


def test_a_changed_weight_is_noticed(run: Path) -> None:
    content = bytearray((run / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (run / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"run/model\.safetensors' is damaged, it has not its SHA-256"):
        load_run(run, "cpu")


def test_a_file_that_was_changed_on_purpose_is_read_without_checksums(run: Path) -> None:
    settings = json.loads((run / "processor.json").read_text(encoding="utf-8"))
    (run / "processor.json").write_text(json.dumps(settings | {"language": "de"}), encoding="utf-8")
    with pytest.raises(ValueError, match=f"remove {CHECKSUMS_FILE} beside the model"):
        load_run(run, "cpu")
    (run / CHECKSUMS_FILE).unlink()
    assert load_run(run, "cpu").processor.language == "de"


def test_weights_that_are_missing_are_not_drawn_at_random(run: Path) -> None:
    weights = load_file(run / "model.safetensors")
    lost = next(name for name in weights if name.startswith("hierarchy."))
    del weights[lost]
    save_file(weights, run / "model.safetensors", metadata={"format": "pt"})
    (run / CHECKSUMS_FILE).unlink()
    with pytest.raises(ValueError, match=f"1 weights are missing, the first is {lost}"):
        load_run(run, "cpu")


def test_what_another_package_raises_is_told_in_a_line_with_the_file_and_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    told = pytest.raises(ValueError, match=r"there' is damaged.*\(expected `,` or `}`\); make it again$")
    with told, reading(tmp_path / "there", "make it again"):
        raise Exception("expected\n `,` or `}`")
    with pytest.raises(KeyError), reading(tmp_path / "a-name-of-the-hub", "make it again"):
        raise KeyError("x")
