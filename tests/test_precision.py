"""Mixed precision `auto`: bfloat16 where it pays, and what is chosen trains."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.benchmark import Timer

from textvae.build import FrozenEncoder
from textvae.config import Config, DataConfig, ModelConfig, TrainConfig
from textvae.devices import best_precision, inference_dtype
from textvae.training import loop
from textvae.training.loop import train


def test_bfloat16_is_for_processors_that_multiply_it_faster() -> None:
    left, right = torch.randn(512, 768), torch.randn(768, 1024)

    def seconds(dtype: torch.dtype) -> float:
        timer = Timer("a @ b", globals={"a": left.to(dtype), "b": right.to(dtype)}, num_threads=1)
        return timer.blocked_autorange(min_run_time=0.05).median

    gain = seconds(torch.float32) / seconds(torch.bfloat16)
    if not 1.2 < gain < 1.8:
        assert best_precision(torch.device("cpu")) == ("bf16" if gain > 1.5 else "no")


def test_features_are_computed_in_what_is_asked_for(encoder_backbone: str) -> None:
    """And the fingerprint says in what."""
    sentences = [[2, number % 40 + 5, 9, 3] for number in range(30)]
    exact, coarse, best = (
        FrozenEncoder.pretrained(encoder_backbone, "cpu", dtype) for dtype in (torch.float32, torch.bfloat16, None)
    )
    reference = exact(sentences)
    with torch.no_grad():
        alone = exact.encoder.backbone(torch.tensor(sentences)).last_hidden_state.mean(1).numpy()
    np.testing.assert_allclose(reference, alone, atol=1e-5)
    error = np.linalg.norm(coarse(sentences) - reference) / np.linalg.norm(reference)
    assert 1e-5 < error < 0.02
    assert (exact.fingerprint.dtype, coarse.fingerprint.dtype) == ("float32", "bfloat16")
    assert exact.fingerprint.computes_as(coarse.fingerprint)
    assert best.dtype == inference_dtype(torch.device("cpu"))
    with pytest.raises(ValueError, match="device 'cuda:99' is not here"):
        FrozenEncoder.pretrained(encoder_backbone, "cuda:99")


def test_a_device_that_is_not_known_computes_in_single_precision() -> None:
    assert best_precision(torch.device("meta")) == "no"


def test_auto_trains_in_what_is_best_here(
    prepared: Path,
    settings: Callable[..., ModelConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = TrainConfig(output=str(tmp_path), steps=2, validate_every=2, log_every=1, tracker="none")
    assert options.mixed_precision == "auto"
    train(Config(DataConfig(str(prepared), 400, 400), settings("document"), train=options))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert f"mixed precision {best_precision(device)}\n" in capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["step"] for record in records if record["split"] == "train"] == [1, 2]


def test_runs_of_one_process_have_a_precision_each(
    prepared: Path,
    settings: Callable[..., ModelConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = TrainConfig(steps=1, validate_every=1, tracker="none")
    distortions = {}
    for precision in ("bf16", "no"):
        train(
            Config(
                DataConfig(str(prepared), 400, 400),
                settings("document"),
                train=replace(options, mixed_precision=precision, output=str(tmp_path / precision)),
            )
        )
        assert f"mixed precision {precision}\n" in capsys.readouterr().out
        records = (tmp_path / precision / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        distortions[precision] = json.loads(records[0])["nll_per_token"]
    assert distortions["bf16"] != distortions["no"]
    assert distortions["bf16"] == pytest.approx(distortions["no"], rel=0.02)


def test_a_machine_with_another_best_precision_says_so_and_goes_on(
    prepared: Path,
    settings: Callable[..., ModelConfig],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(best: str, resume: bool) -> str:
        monkeypatch.setattr(loop, "best_precision", lambda device: best)
        options = TrainConfig(output=str(tmp_path), steps=1, validate_every=1, tracker="none", resume=resume)
        train(Config(DataConfig(str(prepared), 400, 400), settings("document"), train=options))
        return capsys.readouterr().out

    run("no", resume=False)
    assert "was trained with mixed precision" not in run("no", resume=True)
    assert "was trained with mixed precision no, which is bf16 on this machine" in run("bf16", resume=True)
