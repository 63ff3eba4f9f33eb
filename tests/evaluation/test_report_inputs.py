"""What the report does not take, it names with the remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from report_results import ELBO, LATENTS, LEVEL, written
from run_scripts import run_script

from textvae.build import build_model
from textvae.config import ModelConfig
from textvae.data.text.processor import DocumentProcessor
from textvae.evaluation.report.inputs import read_latents, read_perplexity, read_run
from textvae.evaluation.report.measurements import ReportDocuments, document_map

RUN_FILES = {"config.yaml": "data: {path: x}", "versions.json": "{}", "metrics.jsonl": '{"step": 1}'}
BAD_RUNS = {
    "no run": (None, "there is no run folder '{run}'; give the folder that train.py wrote"),
    "no configuration": ({"config.yaml": None}, "'{run}' has no config.yaml, so it is no run of train.py"),
    "no metrics": ({"metrics.jsonl": None}, "'{run}' has no metrics.jsonl, so it is no run of train.py"),
    "no step yet": ({"metrics.jsonl": ""}, "metrics.jsonl' is empty; wait until training has logged a step"),
    "broken metrics": (
        {"metrics.jsonl": '{"st\n{"step": 1}\n'},
        "metrics.jsonl, line 1: this is no record",
    ),
}
PART = {"levels": {"sentence": {key: value for key, value in LEVEL.items() if key != "variance_spectrum"}}}
EMPTY = LATENTS | {"nll_gain": {"sentence": {"by_token_position": {"position": [], "nats_per_token": []}}}}
BAD_LATENTS = {
    "no file": (None, "there is no file '{file}'; write it with: python eval/latents.py --model RUN"),
    "no object": ([1], "'{file}' is not what eval/latents.py writes (the whole: Input should be a dictionary"),
    "another result": (ELBO, "(levels: Field required); write it with: python eval/latents.py --model RUN"),
    "part of a level": (PART, "(levels.sentence.variance_spectrum: Field required); write it"),
    "an empty curve": (EMPTY, "(nll_gain.sentence.by_token_position.position: List should have at least 1 item"),
    "another model": (LATENTS | {"levels": {"word": LEVEL}}, "'{file}' is about levels ['word'], but the run's are"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_a_bad_run_is_named(case: str, tmp_path: Path) -> None:
    changed, message = BAD_RUNS[case]
    run = tmp_path / "run"
    if changed is not None:
        run.mkdir()
        for name, content in (RUN_FILES | changed).items():
            if content is not None:
                (run / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError) as found:  # noqa: PT011
        read_run(run)
    assert message.format(run=run) in str(found.value)


@pytest.mark.parametrize("case", BAD_LATENTS)
def test_a_bad_latents_file_is_named(case: str, tmp_path: Path) -> None:
    content, message = BAD_LATENTS[case]
    file = str(tmp_path / "latents.json") if content is None else written(tmp_path, latents=content)["latents"]
    with pytest.raises(ValueError) as found:  # noqa: PT011
        read_latents(file, ("sentence",))
    assert message.format(file=file) in str(found.value)


def test_a_bad_perplexity_file_is_named(tmp_path: Path) -> None:
    files = written(tmp_path, latents=LATENTS)
    with pytest.raises(
        ValueError, match=r"latents.json' is not what eval/perplexity.py .*write it with: python eval/perplexity"
    ):
        read_perplexity(files["latents"])
    (tmp_path / "text.json").write_text("no JSON", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text.json' is not JSON .*write it with: python eval/perplexity"):
        read_perplexity(str(tmp_path / "text.json"))


def test_too_few_documents_are_told(
    settings: Callable[..., ModelConfig], make_processor: Callable[..., DocumentProcessor], story_file: Path
) -> None:
    model = build_model(settings("document"), make_processor()).eval()
    documents = ReportDocuments.open(str(story_file), model, "validation", 3).measured
    with pytest.raises(ValueError, match="a map needs three documents, the data have 1; give more with --data"):
        document_map(model, documents, 0)


def test_the_script_tells_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script("eval/report.py", str(tmp_path / "nowhere")) == 2
    assert run_script("eval/report.py", str(tmp_path), "--limit", "2") == 2
    for name, content in RUN_FILES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert run_script("eval/report.py", str(tmp_path)) == 2
    first, second, third = capsys.readouterr().err.strip().splitlines()[-3:]
    assert first.startswith("error: there is no run folder")
    assert third == f"error: the data of '{tmp_path}' are not at 'x', where training had them; give --data DATA"
    assert second == "error: --limit 2 is too few: a map of the documents needs three"
