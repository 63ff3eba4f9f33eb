"""eval/latents.py as a user runs it: one process or several, good input and bad."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
from comparing import assert_same_numbers
from run_scripts import ROOT, forked, refusal, run_script
from tiny import DOCUMENT

from textvae.data.dataset import load_prepared
from textvae.data.document import SourceDocument
from textvae.data.plan import spread
from textvae.evaluation.diagnostics import Reconstruction, reconstruct
from textvae.runs import load_run
from textvae.writing.operations import written_anew
from textvae.writing.options import SamplingOptions

MakeRun = Callable[..., str]
KEYS = {
    "dims",
    "units",
    "active_units",
    "active_units_marginal",
    "rate_per_unit",
    "rate_per_document",
    "mutual_information",
    "mutual_information_ceiling",
    "nll_increase_when_shuffled",
    "nll_increase_when_shuffled_interval",
    "nll_increase_when_shuffled_structure",
    "nll_increase_when_zeroed",
    "nll_increase_when_zeroed_interval",
    "payoff",
    "payoff_over_prior_mean",
}


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> str:
    return make_run(*DOCUMENT)


def command(run: str, prepared: Path, out: Path, *more: str) -> list[str]:
    return ["eval/latents.py", "--model", run, "--data", str(prepared), "--split", "train", "--out", str(out), *more]


def test_file_and_table_hold_every_level(
    run: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "deep" / "latents.json"
    assert run_script(*command(run, prepared, out, "--limit", "9", "--reconstruct", "3")) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    split = load_prepared(prepared, "train")
    members = [split.read(int(number)) for number in spread(9, len(split))]
    assert (result["documents"], result["tokens"]) == (9, sum(document.num_tokens for document in members))
    units = [9, sum(len(d.structure[1]) for d in members), sum(len(d.sentences) for d in members)]
    *header, document, paragraph, sentence, rebuilt = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in (*header, document, paragraph, sentence)}) == 1, "columns stand under their names"
    for name, count, line in zip(DOCUMENT, units, (document, paragraph, sentence), strict=True):
        level = result["levels"][name]
        assert level.keys() >= KEYS
        assert level["units"] == count
        cells = line.replace("|", " ").split()
        assert cells[:2] == [name, str(count)]
        assert cells[3] == f"{level['rate_per_unit']:.2f}"
        assert cells[-2:] == [f"{level[key]:.2f}" for key in ("payoff", "payoff_over_prior_mean")]
        gain = result["nll_gain"][name]
        assert gain["by_unit_position"]["level"] == "paragraph"
        for curve in gain.values():
            assert len(curve["position"]) == len(curve["nats_per_token"]) == len(curve["tokens"])
    found = result["reconstruction"]
    assert (found["documents"], found["sentences"]) == (3, sum(len(members[n].sentences) for n in (0, 4, 8)))
    assert f"of {found['sentences']} sentences exactly, sacreBLEU {found['sacrebleu']:.2f}" in rebuilt


def test_reconstruction_may_be_left_out(
    run: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "latents.json"
    assert run_script(*command(run, prepared, out, "--limit", "2", "--reconstruct", "0")) == 0
    assert "reconstruction" not in json.loads(out.read_text(encoding="utf-8"))
    assert "reconstruction" not in capsys.readouterr().out


def test_documents_are_reconstructed_as_by_hand(run: str, prepared: Path) -> None:
    """Written side by side, each is what the model writes of its text alone."""
    model, split = load_run(run), load_prepared(prepared, "train")
    found = reconstruct(model, split.documents.select(range(7)), 4)
    assert len(found) == 4
    for number, reconstruction in zip((0, 2, 4, 6), found, strict=True):
        document = split.read(number)
        assert reconstruction.original == [sentence.strip() for sentence in document.sentences]
        paragraphs, start = [], 0
        for count in document.structure[1]:
            paragraphs.append([sentence.strip() for sentence in document.sentences[start : start + count]])
            start += count
        plan = written_anew(model.plan(SourceDocument(id="alone", paragraphs=paragraphs)))
        (alone,) = model.write([plan], options=SamplingOptions(temperature=0, max_sentence_tokens=48))
        assert reconstruction.written == alone.sentences
        assert any(alone.sentences)


def test_a_perfect_reconstruction_scores_all() -> None:
    scores = runpy.run_path(str(ROOT / "eval" / "latents.py"))["scores"]
    text = ["The harbour lay quiet in the early light.", "A single boat moved out past the wall."]
    perfect = scores([Reconstruction(text, text), Reconstruction(text[:1], text[:1])])
    assert (perfect["documents"], perfect["sentences"], perfect["exact_match"]) == (2, 3, 1.0)
    assert perfect["sacrebleu"] == pytest.approx(100)
    assert "version:" in perfect["sacrebleu_signature"]
    half = scores([Reconstruction(text, [text[0], "A single boat moved out past the house."])])
    assert half["exact_match"] == 0.5
    assert 50 < half["sacrebleu"] < 100


def test_sections_of_one_source_are_said(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    texts = ["The harbour lay quiet. A boat moved out. It was late.", "Marta laughed. The wind rose. Is there soup?"]
    source, out = tmp_path / "source.jsonl", tmp_path / "out.json"
    source.write_text(
        "\n".join(json.dumps({"id": f"article-{n}", "text": text}) for n, text in enumerate(texts)), encoding="utf-8"
    )
    given = ["--model", run, "--data", str(source), "--max-document-sentences", "1", "--out", str(out)]
    assert run_script("eval/latents.py", *given, "--reconstruct", "0") == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["documents"], found["sources"]) == (6, 2)
    assert "6 sections of 2 documents: intervals are clustered by document" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_three_processes_report_what_one_does(run: str, prepared: Path, tmp_path: Path) -> None:
    """With uneven shares, and with more processes than documents."""
    cases = {"many": ["--batch-tokens", "70", "--reconstruct", "22"], "two": ["--limit", "2", "--batch-tokens", "1"]}
    commands = [command(run, prepared, tmp_path / f"{name}-3", *case) for name, case in cases.items()]
    printed = forked(3, *commands)
    assert printed.count("sacreBLEU") == len(cases), "only the main process prints"
    for name, case in cases.items():
        assert run_script(*command(run, prepared, tmp_path / f"{name}-1", *case)) == 0
        one, three = (json.loads((tmp_path / f"{name}-{n}").read_text(encoding="utf-8")) for n in (1, 3))
        # Differences of sums of some 50 nats each, in fp32.
        assert_same_numbers(one, three, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "LM"], "is a plain language model: it has no latents to examine"),
        (["--model", "RUN", "--reconstruct", "-1"], "--reconstruct is -1; it must be 0 or more"),
        (["--model", "RUN", "--limit", "1"], "the data hold 1 source: give documents of two or more"),
        (["--model", "RUN", "--split", "tset"], "no split 'tset'; it has train, validation, test"),
        (["--model", "missing/run/folder"], "there is no run folder missing/run/folder"),
    ],
)
def test_what_cannot_be_examined_is_said_in_a_line(
    make_run: MakeRun,
    run: str,
    prepared: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    given = [make_run() if word == "LM" else run if word == "RUN" else word for word in arguments]
    assert message in refusal(capfd, tmp_path / "out.json", "eval/latents.py", "--data", str(prepared), *given)
