"""What becomes of the parts of a document that are held while others are written anew."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from run_scripts import refusal, run_script
from tiny import DOCUMENT

from textvae.evaluation.generation.edits import neighbours_fit
from textvae.evaluation.generation.judge import Judge

MakeRun = Callable[..., str]


def command(run: str, prepared: Path, *more: str) -> list[str]:
    given = ["--model", run, "--data", str(prepared), "--split", "train", "--themes", "6"]
    return ["eval/edits.py", *given, "--max-children", "3", "--max-sentence-tokens", "12", *more]


def test_neighbours_fit_where_a_text_is_likelier_after_its_own() -> None:
    """A judge to whom a text costs 1 after a text of the same word, 3 after another's, and none where it is empty."""

    def nats_after(context: str, text: str) -> float:
        return float("nan") if not text else 1.0 if context == text else 3.0

    judge = cast(Judge, SimpleNamespace(nats_after=nats_after))
    fit = neighbours_fit(judge, [["a", "a", "a"], ["b", "b"], ["c", "c", "c"]])
    assert (fit.own, fit.stranger, fit.gain, fit.standard_error) == (1, 3, 2, 0)
    assert neighbours_fit(judge, [["a", "b"], ["b", "c"], ["c", "a"]]).gain == -2
    assert neighbours_fit(judge, [["a", "a"], ["b", "b"], ["c", ""]]).own == 1


def test_what_is_held_is_found_in_the_file(
    run: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "edits.json"
    assert run_script(*command(run, prepared, "--out", str(out))) == 0
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert found["kept"]["to_the_letter"] == 1
    assert 2 <= found["kept"]["documents"] <= found["documents"] == 6
    assert set(found["resampled"]["plan"]) == {"paragraph"}
    plan = found["resampled"]["plan"]["paragraph"]
    assert plan["held"]["units"] == plan["theme_alone"]["units"]
    assert "100% to the letter" in capsys.readouterr().out


def test_a_level_with_nothing_between_it_and_the_theme_is_refused(
    make_run: MakeRun, run: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "edits.json"
    script, *arguments = command(run, prepared, "--level", "paragraph")
    assert "no latent level lies between" in refusal(capsys, out, script, *arguments)
    script, *arguments = command(run, prepared, "--level", "chapter")
    assert "there is no level 'chapter'" in refusal(capsys, out, script, *arguments)
    script, *arguments = command(make_run(*DOCUMENT[1:]), prepared)
    assert "a theme is a latent at level 'document'" in refusal(capsys, out, script, *arguments)
