import json
from pathlib import Path
from typing import Any

import pytest
from run_scripts import run_script

SCRIPT = "eval/compare.py"


def scored(folder: Path, perplexity: float, **other: Any) -> str:
    folder.mkdir()
    result = {"documents": 2, "tokens": 100, "estimator": "elbo", "samples": 1, "perplexity_per_token": perplexity,
              "bits_per_byte": 1.5, "distortion_tokens": 300.0, "distortion_structure": 4.0, "rate": {}}  # fmt: skip
    (folder / "perplexity.json").write_text(json.dumps(result | other), encoding="utf-8")
    return str(folder)


def test_every_run_stands_beside_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = scored(tmp_path / "lm", 80.0)
    vae = scored(tmp_path / "vae", 60.0, rate={"document": 12.0, "sentence": 3.0})
    level = {"dims": 8, "active_units": 7, "nll_increase_when_shuffled": 2.5, "payoff_over_prior_mean": 1.25}
    (tmp_path / "vae" / "latents.json").write_text(json.dumps({"levels": {"document": level}}), encoding="utf-8")
    assert run_script(SCRIPT, lm, vae) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in first.split("|")[1:4]] == ["lm", "80.00", "1.000"]
    assert [cell.strip() for cell in second.split("|")[1:-1]] == [
        "vae", "60.00", "0.750", "1.500", "304.0", "document 12.0, sentence 3.0", "7/8", "+2.50", "1.25",
    ]  # fmt: skip


@pytest.mark.parametrize("other", [{"tokens": 99}, {"estimator": "smc"}, {"samples": 4}], ids=str)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    (key,) = other
    status = run_script(SCRIPT, scored(tmp_path / "lm", 80.0), scored(tmp_path / "vae", 60.0, **other))
    assert status == 2
    assert key in capsys.readouterr().err


def test_a_missing_score_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(SCRIPT, str(tmp_path)) == 2
    assert "eval/perplexity.py" in capsys.readouterr().err
