"""Where a model runs: the choice, and that every command takes it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_scripts import ROOT, run_script
from tiny import DOCUMENT

from textvae import __version__
from textvae.cli.main import build_parser, main
from textvae.devices import choose_device
from textvae.runs import load_run

SCRIPTS = ("perplexity", "latents", "probe", "report", "compare", "linear_gaussian")
ON_A_MODEL = {
    "perplexity": ["--model", "RUN", "--data", "DATA"],
    "latents": ["--model", "RUN", "--data", "DATA"],
    "probe": ["--model", "RUN", "--data", "DATA"],
}


def pretend(monkeypatch: pytest.MonkeyPatch, kind: str | None, count: int = 1) -> None:
    device = None if kind is None else torch.device(kind)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: device)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)


@pytest.mark.parametrize(("here", "expected"), [(None, "cpu"), ("cuda", "cuda"), ("xpu", "xpu"), ("mps", "cpu")])
def test_the_accelerator_is_taken_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, here: str | None, expected: str
) -> None:
    """Apple's has no float64, which noise and sums are in."""
    pretend(monkeypatch, here)
    assert choose_device().type == expected
    assert choose_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    ("here", "name", "message"),
    [
        (None, "cuda", "device 'cuda' is not here: use cpu, or an accelerator of this machine, which has none"),
        ("cuda", "cuda:2", "device 'cuda:2' is not here: .* which has 2 of type cuda"),
        ("cuda", "xpu", "device 'xpu' is not here"),
        ("mps", "mps", "device 'mps' has no float64"),
        (None, "gpu", "there is no kind of device 'gpu'; use cpu"),
    ],
)
def test_a_device_that_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, here: str | None, name: str, message: str
) -> None:
    pretend(monkeypatch, here, count=2)
    with pytest.raises(ValueError, match=message):
        choose_device(name)


def test_the_second_of_two_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda", count=2)
    assert choose_device("cuda:1") == torch.device("cuda:1")


def test_a_run_is_loaded_in_the_numbers_that_were_asked_for(make_run: Callable[..., str]) -> None:
    run = make_run(*DOCUMENT)
    assert load_run(run).decoder.backbone.dtype == torch.float32
    for dtype in (torch.float32, torch.bfloat16):
        model = load_run(run, "cpu", dtype)
        for part in (model.encoder, model.decoder):
            assert {weight.dtype for weight in part.backbone.parameters()} == {dtype}
    assert not load_run(run, dtype=torch.bfloat16).training


@pytest.mark.parametrize("command", ["generate", "interpolate", "reconstruct", "embed", "search"])
def test_every_command_with_a_model_takes_a_device(command: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        build_parser().parse_args([command, "--help"])
    said = capsys.readouterr().out
    assert all(option in said for option in ("--model", "--device", "--dtype", "--verbose"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_its_version_and_its_options(script: str, capsys: pytest.CaptureFixture) -> None:
    assert run_script(f"eval/{script}.py", "--version") == 0
    assert capsys.readouterr().out == f"textvae {__version__}\n"
    assert run_script(f"eval/{script}.py", "--help") == 0
    said = capsys.readouterr().out
    assert "--verbose" in said
    if script not in ("compare", "linear_gaussian"):
        assert all(option in said for option in ("--device", "--dtype", "--batch-tokens", "--seed", "--data"))


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"textvae {__version__}\n"


@pytest.mark.parametrize("script", ON_A_MODEL)
def test_a_device_that_is_not_here_is_said_in_a_line(
    script: str, make_run: Callable[..., str], prepared: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    given = {"RUN": make_run(*DOCUMENT), "DATA": str(prepared)}
    arguments = [given.get(word, word) for word in ON_A_MODEL[script]]
    out = ["--out", str(tmp_path / "out.json")]
    assert run_script(f"eval/{script}.py", *arguments, *out, "--device", "cuda:99") == 2
    assert "device 'cuda:99' is not here" in capfd.readouterr().err
    assert run_script(f"eval/{script}.py", *arguments, *out, "--batch-tokens", "0") == 2
    assert "--batch-tokens is 0; it must be 1 or more" in capfd.readouterr().err


def test_verbose_says_where_the_model_is_and_twice_where_it_went_wrong(
    make_run: Callable[..., str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, text = make_run(*DOCUMENT), tmp_path / "text.txt"
    text.write_text("The harbour lay quiet.", encoding="utf-8")
    command = ["reconstruct", "--model", run, str(text), "--device", "cpu"]
    assert main(command) == 0
    assert not caplog.records
    assert main([*command, "-v"]) == 0
    assert f"{run}: on cpu, in torch.float32" in caplog.text
    assert main(["reconstruct", "--model", "nowhere/at/all", str(text), "-vv"]) == 2
    assert "Traceback" in caplog.text


OPTIONAL = ("evaluate", "sklearn", "matplotlib", "jinja2", "sacrebleu", "gguf", "peft", "hypothesis")
WITHOUT = """
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.split(".")[0] in {absent!r} else find(name, *rest)
)
from textvae.cli.main import build_parser

build_parser(["prepare"])
print("transformers.modeling_utils" in sys.modules)
build_parser()
import textvae.training.loop, textvae.cli.evaluation
import textvae.evaluation.diagnostics, textvae.evaluation.likelihood.perplexity
print(textvae.HierarchicalTextVAE.__name__)
"""


def test_the_package_needs_no_optional_package() -> None:
    """Importing it, training, the commands, likelihood and diagnostics work with the core dependencies alone; and
    `textvae prepare` without models, which take seconds to import."""
    # In one process, as importing takes longest.
    code = WITHOUT.format(absent=set(OPTIONAL)) + "import textvae.evaluation.accumulation"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "HierarchicalTextVAE"], done.stderr
    assert "No module named 'evaluate'" in done.stderr
