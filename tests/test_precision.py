"""Mixed precision `auto`: bfloat16 where it pays, and what is chosen trains."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from textvae.build import FrozenEncoder
from textvae.config import Config, DataConfig, ModelConfig, TrainConfig
from textvae.devices import best_precision, inference_dtype
from textvae.training.loop import train

CPU_FLAGS = Path("/proc/cpuinfo")


def test_bfloat16_needs_a_processor_that_multiplies_it() -> None:
    if not CPU_FLAGS.is_file():
        pytest.skip(f"{CPU_FLAGS} is for Linux")
    words = set(CPU_FLAGS.read_text(encoding="utf-8").split())
    device = torch.device("cpu")
    assert (best_precision(device) == "bf16") == ("amx_tile" in words)
    assert (best_precision(device, training=False) == "bf16") == bool({"amx_tile", "avx512_bf16"} & words)


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
