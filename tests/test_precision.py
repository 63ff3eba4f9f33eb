"""Mixed precision `auto`: bfloat16 where it pays, and what is chosen trains."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from textvae.config import Config, DataConfig, ModelConfig, TrainConfig
from textvae.devices import best_precision
from textvae.training.loop import train

CPU_FLAGS = Path("/proc/cpuinfo")


def test_bfloat16_needs_a_processor_that_multiplies_its_tiles() -> None:
    if not CPU_FLAGS.is_file():
        pytest.skip(f"{CPU_FLAGS} is for Linux")
    words = set(CPU_FLAGS.read_text(encoding="utf-8").split())
    expected = "bf16" if "amx_tile" in words else "no"
    assert best_precision(torch.device("cpu")) == expected


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
