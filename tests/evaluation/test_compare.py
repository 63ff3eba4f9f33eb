from pathlib import Path
from typing import Any

import pytest
from report_results import ELBO, LATENTS, LEVEL, written
from run_scripts import run_script

SCRIPT = "eval/compare.py"


def scored(folder: Path, perplexity: float, **other: Any) -> str:
    folder.mkdir()
    nll = [perplexity, 2 * perplexity]
    result = {
        "documents": 2,
        "tokens": 100,
        "estimator": "elbo",
        "samples": 1,
        "perplexity_per_token": perplexity,
        "bits_per_byte": 1.5,
        "distortion_tokens": 300.0,
        "distortion_structure": 4.0,
        "rate": {},
        "nll_by_document": nll,
        "source_by_document": ["a", "b"],
    }
    written(folder, perplexity=ELBO | result | other)
    return str(folder)


def test_every_run_stands_beside_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = scored(tmp_path / "lm", 80.0)
    vae = scored(tmp_path / "vae", 60.0, rate={"document": 12.0, "sentence": 3.0})
    level = {"dims": 8, "active_units": 7, "nll_increase_when_shuffled": 2.5, "payoff_over_prior_mean": 1.25}
    levels = {"document": LEVEL | level, "sentence": LEVEL | {"payoff_over_prior_mean": None}}
    written(tmp_path / "vae", latents=LATENTS | {"levels": levels})
    assert run_script(SCRIPT, lm, vae) == 0
    *_, first, second = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in first.split("|")[1:5]] == ["lm", "80.00", "1.000", "+0.0 ± 0.0"]
    assert [cell.strip() for cell in second.split("|")[1:-1]] == [
        "vae",
        "60.00",
        "0.750",
        "-30.0 ± 10.0",
        "1.500",
        "304.0",
        "document 12.0, sentence 3.0",
        "7/8, 1/2",
        "+2.50, +14.22",
        "1.25, -",
    ]


def test_the_error_of_a_difference_is_over_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four sections of two articles: differences of 1, 3, 5 and 7 nats, of which the articles have 4 and 12."""
    scores = {"lm": [10.0, 20.0, 30.0, 40.0], "vae": [9.0, 17.0, 25.0, 33.0]}
    runs = [
        scored(tmp_path / name, 80.0, documents=4, nll_by_document=nll, source_by_document=["a", "a", "b", "b"])
        for name, nll in scores.items()
    ]
    assert run_script(SCRIPT, *runs) == 0
    header, *_, last = capsys.readouterr().out.splitlines()
    assert "standard error clustered by source (2)" in header
    # Residuals of -4 and 4: sqrt(2 * 32) / 4.
    assert last.split("|")[4].strip() == "-4.0 ± 2.0"


def test_files_without_sources_are_said_to_be_taken_as_independent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [scored(tmp_path / name, 80.0, source_by_document=None) for name in ("lm", "vae")]
    assert run_script(SCRIPT, *runs) == 0
    assert "as if documents were independent" in capsys.readouterr().out
    other = scored(tmp_path / "other", 80.0, source_by_document=["a", "c"])
    assert run_script(SCRIPT, runs[0], other) == 2
    assert "other was scored with other documents, unlike" in capsys.readouterr().err


@pytest.mark.parametrize("other", [{"tokens": 99}, {"estimator": "smc"}, {"samples": 4}], ids=str)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    (key,) = other
    rate = {"document": 12.0}
    status = run_script(
        SCRIPT, scored(tmp_path / "flat", 80.0, rate=rate), scored(tmp_path / "vae", 60.0, rate=rate, **other)
    )
    assert status == 2
    assert f"vae was scored with {key}" in capsys.readouterr().err


def test_a_language_model_is_exact_and_stands_beside_any_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vae = scored(tmp_path / "vae", 60.0, rate={"document": 12.0}, estimator="smc", samples=32)
    assert run_script(SCRIPT, scored(tmp_path / "lm", 80.0), vae) == 0
    assert "smc, K = 32" in capsys.readouterr().out
    assert run_script(SCRIPT, scored(tmp_path / "other", 80.0, tokens=99), vae) == 2
    assert "tokens" in capsys.readouterr().err


def test_a_missing_score_names_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(SCRIPT, str(tmp_path)) == 2
    assert "eval/perplexity.py" in capsys.readouterr().err
