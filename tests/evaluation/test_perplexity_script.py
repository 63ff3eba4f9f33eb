"""Evaluation scripts: one result for any number of processes and any way of batching."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import assert_same_numbers
from run_scripts import forked, refusal, run_script
from tiny import DOCUMENT

from textvae.data.dataset import Documents, load_prepared
from textvae.data.plan import spread
from textvae.evaluation.likelihood.perplexity import DocumentScore, Estimator, score_documents
from textvae.runs import load_run
from textvae.text_vae import HierarchicalTextVAE

MakeRun = Callable[..., str]


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> str:
    return make_run(*DOCUMENT, context="document")


@pytest.fixture(scope="module")
def model(run: str) -> HierarchicalTextVAE:
    return load_run(run)


@pytest.mark.usefixtures("one_thread")
def test_two_processes_report_what_one_does(run: str, prepared: Path, tmp_path: Path) -> None:
    """Every estimator; also with an uneven last batch, and with fewer documents than processes."""
    commands = {
        "elbo": ["--estimator", "elbo", "--batch-tokens", "70"],
        "iwae": ["--estimator", "iwae", "--samples", "3", "--limit", "5"],
        "smc": ["--estimator", "smc", "--samples", "4", "--limit", "5"],
        "one-elbo": ["--estimator", "elbo", "--limit", "1"],
        "one-smc": ["--estimator", "smc", "--samples", "4", "--limit", "1"],
    }

    def complete(name: str, folder: Path) -> list[str]:
        given = ["--model", run, "--data", str(prepared), "--split", "train", "--out", str(folder / f"{name}.json")]
        return ["eval/perplexity.py", *given, *commands[name]]

    printed = forked(2, *(complete(name, tmp_path / "two") for name in commands))
    assert printed.count("perplexity") == len(commands), "only the main process prints"
    for name in commands:
        assert run_script(*complete(name, tmp_path / "one")) == 0
        one, two = (json.loads((tmp_path / n / f"{name}.json").read_text(encoding="utf-8")) for n in ("one", "two"))
        # Gains are differences of hundreds of nats.
        assert_same_numbers(one, two, abs=1e-3)


def scores(
    model: HierarchicalTextVAE, documents: Documents, estimator: Estimator, chunk_tokens: int = 8192, **options: Any
) -> list[DocumentScore]:
    before = model.layout.chunk_tokens
    model.set_chunk_tokens(chunk_tokens)
    found = score_documents(model, documents, estimator, 4, **options)
    model.set_chunk_tokens(before)
    return found


@pytest.mark.parametrize("estimator", ["elbo", "iwae", "smc"])
def test_no_number_depends_on_order_or_batching(
    model: HierarchicalTextVAE, prepared: Path, estimator: Estimator
) -> None:
    """A document's score is its own: not that of its neighbours, its padding or the memory it is scored in."""
    split = load_prepared(prepared, "train")
    some = split.documents.select(range(5))
    expected = scores(model, some, estimator)
    assert len({score.nll for score in expected}) == len(expected) == 5
    order = np.random.default_rng(0).permutation(5)
    shuffled = some.select(order)
    alone = some.select([3])
    for row, score in enumerate(scores(model, shuffled, estimator)):
        assert_same_numbers(asdict(expected[order[row]]) | {"row": row}, asdict(score), abs=1e-3)
    assert_same_numbers(asdict(expected[3]) | {"row": 0}, asdict(scores(model, alone, estimator)[0]), abs=1e-3)
    for chunk_tokens, batch_tokens in ((8192, 1), (64, 100)):
        found = scores(model, some, estimator, chunk_tokens, batch_tokens=batch_tokens)
        assert_same_numbers([asdict(score) for score in expected], [asdict(score) for score in found], abs=1e-3)


@pytest.mark.parametrize(("levels", "estimator"), [((), "elbo"), (("document",), "iwae"), (DOCUMENT, "smc")], ids=str)
def test_the_file_adds_up(
    make_run: MakeRun,
    prepared: Path,
    tmp_path: Path,
    levels: tuple[str, ...],
    estimator: Estimator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A language model, a flat VAE and three levels through one command; sums over documents from their scores."""
    run, out = make_run(*levels), tmp_path / "perplexity.json"
    given = ["--model", run, "--data", str(prepared), "--split", "train", "--limit", "5", "--out", str(out)]
    assert run_script("eval/perplexity.py", *given, "--estimator", estimator, "--samples", "4") == 0
    assert ("the elbo takes one sample, not 4" in caplog.text) == (estimator == "elbo")
    found = json.loads(out.read_text(encoding="utf-8"))
    split = load_prepared(prepared, "train")
    expected = scores(load_run(run), split.documents.select(spread(5, len(split))), estimator)
    nll, tokens, words = (sum(getattr(s, name) for s in expected) for name in ("nll", "tokens", "words"))
    assert (found["documents"], found["tokens"], found["words"]) == (5, tokens, words)
    assert (found["estimator"], found["samples"]) == (estimator, 1 if estimator == "elbo" else 4)
    assert found["nll_nats_per_document"] == pytest.approx(nll / 5)
    assert found["nll_by_document"] == pytest.approx([score.nll for score in expected])
    assert found["perplexity_per_token"] == pytest.approx(math.exp(nll / tokens))
    assert found["perplexity_per_word"] == pytest.approx(math.exp(nll / words))
    assert found["bits_per_byte"] == pytest.approx(nll / math.log(2) / sum(score.bytes for score in expected))
    elbo = 5 * (found["distortion_tokens"] + found["distortion_structure"] + sum(found["rate"].values()))
    assert elbo == pytest.approx(sum(score.negative_elbo for score in expected))
    assert found["rate"].keys() == set(levels)
    curve, gains = found["perplexity_per_token_by_samples"], found["gain_over_elbo_by_samples"]
    assert curve.keys() == gains.keys() == (set() if estimator == "elbo" else {"1", "2", "4"})
    for size, gain in gains.items():
        assert gain["mean"] == pytest.approx(elbo / 5 - tokens * math.log(curve[size]) / 5, abs=1e-3)
    if curve:
        assert curve["4"] == pytest.approx(found["perplexity_per_token"])


def test_sections_of_one_source_are_said_and_clustered(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    texts = ["The harbour lay quiet. A boat moved out. It was late.", "Marta laughed. The wind rose. Is there soup?"]
    source, out = tmp_path / "source.jsonl", tmp_path / "out.json"
    source.write_text(
        "\n".join(json.dumps({"id": f"article-{n}", "text": text}) for n, text in enumerate(texts)), encoding="utf-8"
    )
    given = ["--model", run, "--data", str(source), "--max-document-sentences", "1", "--out", str(out)]
    assert run_script("eval/perplexity.py", *given) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert capsys.readouterr().out.startswith("6 sections of 2 documents: perplexity ")
    assert (found["documents"], found["sources"]) == (6, 2)
    assert found["source_by_document"] == ["article-0"] * 3 + ["article-1"] * 3
    nll, mean = found["nll_by_document"], found["nll_nats_per_document"]
    of_sources = [sum(nll[:3]) - 3 * mean, sum(nll[3:]) - 3 * mean]
    expected = math.sqrt(2 * sum(value**2 for value in of_sources)) / 6
    assert found["nll_nats_per_document_standard_error"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "LM", "--estimator", "iwae"], "use the estimator elbo"),
        (["--model", "RUN", "--estimator", "smc", "--samples", "0"], "samples must be at least 1"),
        (["--model", "RUN", "--split", "tset"], "tset"),
    ],
)
def test_what_cannot_be_scored_is_said_in_a_line(
    make_run: MakeRun,
    run: str,
    prepared: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    arguments: list[str],
    message: str,
) -> None:
    given = [make_run() if word == "LM" else run if word == "RUN" else word for word in arguments]
    assert message in refusal(capfd, tmp_path / "out.json", "eval/perplexity.py", "--data", str(prepared), *given)
