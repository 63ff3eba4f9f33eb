"""`textvae adapt`, end to end: a model with random weights learns the words of a corpus, its decoder stays."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tiny import DOCUMENT

from textvae.cli.main import main
from textvae.config_file import load_config
from textvae.data.dataset import load_prepared
from textvae.runs import RunFolder, load_run
from textvae.training.loop import validate

STEPS = ["--steps", "40", "--batch-tokens", "500", "--validation-fraction", "0.2", "--learning-rate", "0.01"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty documents of two kinds that share no words."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    kinds = (("wind", "boat", "harbour", "wall", "light"), ("soup", "bread", "window", "lamp", "rope"))
    with path.open("w", encoding="utf-8") as file:
        for number in range(40):
            sentences = [" ".join(random.choice(kinds[number % 2], 5)).capitalize() + "." for _ in range(4)]
            text = " ".join(sentences[:2]) + "\n\n" + " ".join(sentences[2:])
            file.write(json.dumps({"id": f"d{number}", "text": text}) + "\n")
    return path


@pytest.fixture(scope="module")
def before(make_run: Callable[..., str]) -> str:
    return make_run(*DOCUMENT)


@pytest.fixture(scope="module")
def adapted(before: str, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapted") / "run"
    assert main(["adapt", str(corpus), "--model", before, "--out", str(out), *STEPS]) == 0
    return out


def test_the_words_of_documents_never_seen_are_predicted_better(before: str, adapted: Path) -> None:
    held_out, config = load_prepared(adapted / "data", "validation"), load_config(adapted / "config.yaml")
    found = {run: validate(load_run(run, "cpu"), held_out, config, Accelerator()) for run in (before, str(adapted))}
    per_token = {run: sums.negative_elbo / sums.tokens for run, sums in found.items()}
    assert per_token[str(adapted)] < 0.8 * per_token[before]


def test_the_decoder_stays_as_it_is(before: str, adapted: Path) -> None:
    old, new = (load_run(run, "cpu").state_dict() for run in (before, adapted))
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert not {name for name in changed if name.startswith(("decoder.backbone.", "encoder."))}
    assert {name.split(".")[0] for name in changed} >= {"decoder", "hierarchy", "bottom_up"}


def test_the_same_command_goes_on_where_it_was_stopped(
    before: str, corpus: Path, adapted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ["adapt", str(corpus), "--model", before, "--out", str(out), *STEPS]
    shutil.copytree(adapted, out)
    shutil.rmtree(RunFolder(out).checkpoints)
    prepared = (out / "data" / "textvae_data.json").read_bytes()
    assert main(command) == 0
    assert (out / "data" / "textvae_data.json").read_bytes() == prepared, "text is not prepared again"
    again, first = (load_run(run, "cpu").state_dict() for run in (out, adapted))
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_another_source_does_not_go_on(before: str, adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = adapted.parent / "other.txt"
    other.write_text("Is there soup?\n", encoding="utf-8")
    assert main(["adapt", str(other), "--model", before, "--out", str(adapted), *STEPS]) == 2
    assert "was begun with another source" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("levels", "decoder", "said"),
    [((), {}, "no latents to adapt"), (DOCUMENT, {"logit_rank": 0}, "no path from its latents to words")],
)
def test_models_that_cannot_are_named(
    levels: tuple[str, ...],
    decoder: dict[str, int],
    said: str,
    make_run: Callable[..., str],
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = make_run(*levels, **decoder)
    assert main(["adapt", str(corpus), "--model", run, "--out", str(tmp_path / "out"), *STEPS]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_run_is_left_as_it_is(
    make_run: Callable[..., str], corpus: Path, adapted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in adapted.rglob("*")}
    assert main(["adapt", str(corpus), "--model", make_run(*DOCUMENT), "--out", str(adapted), *STEPS]) == 2
    assert "was started with other settings of train.start_from" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in adapted.rglob("*")} == before
