"""eval/linear_gaussian.py as a user runs it, on hierarchies small enough for a second."""

import json
from pathlib import Path

import pytest
from run_scripts import run_script


def test_the_table_and_the_file_hold_every_gap(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "gaps.json"
    sizes = ["--dims", "2", "1", "--sentences", "3", "--documents", "2", "--runs", "2"]
    assert run_script("eval/linear_gaussian.py", "--out", str(out), *sizes) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    rows = {(row["coupling"], row["estimator"], row["samples"]): row for row in found["rows"]}
    assert len(rows) == 3 * 6 * 3
    for coupling in ("weak", "medium", "strong"):
        gaps = [rows[coupling, name, 256]["gap"] for name in ("elbo", "iwae", "smc")]
        assert gaps[0] > gaps[1] > -0.1
        assert abs(gaps[2]) < 0.2
    lines = capsys.readouterr().out.splitlines()
    shown = rows["strong", "smc", 64]
    (line,) = [line for line in lines if line.startswith("| strong | 3 | smc |")]
    assert f"| {shown['gap']:.2f} ± {shown['standard_error']:.2f} |" in line


def test_one_run_has_no_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["--out", str(tmp_path / "gaps.json"), "--documents", "1", "--runs", "1"]
    assert run_script("eval/linear_gaussian.py", *command) == 2
    assert "needs --documents times --runs of two or more" in capsys.readouterr().err
