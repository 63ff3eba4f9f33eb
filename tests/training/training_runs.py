"""Tiny training runs and how they are compared."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from textvae.config import Config, DataConfig, ModelConfig, ObjectiveConfig, RatePolicy, TrainConfig, to_dict
from textvae.runs import RunFolder
from textvae.training.loop import Progress, train
from textvae.training.state_file import read_state

Settings = Callable[..., ModelConfig]
POLICY = RatePolicy(start=0.0, end=0.5, beta_start=0.2, free_bits=0.01, target_rate=2.0)
EXACT = {"schedule": "constant", "warmup_steps": 0, "mixed_precision": "no", "tracker": "none", "log_every": 1}


def configured(
    prepared: Path,
    output: Path,
    model: ModelConfig,
    *,
    batch_tokens: int = 400,
    micro_batch_tokens: int = 400,
    policy: RatePolicy = POLICY,
    objective: dict[str, Any] | None = None,
    **options: Any,
) -> Config:
    usual = {"steps": 8, "learning_rate": 5e-3, "validate_every": 4, "save_every": 4, **EXACT}
    return Config(
        DataConfig(str(prepared), batch_tokens, micro_batch_tokens),
        model,
        ObjectiveConfig(default=policy, balance_until=0.3, **(objective or {})),
        TrainConfig(output=str(output), **{**usual, **options}),
    )


def written(config: Config, output: Path) -> list[str]:
    """The command that trains as `config` says, into `output`."""
    path = output.with_suffix(".yaml")
    there = replace(config, train=replace(config.train, output=str(output)))
    path.write_text(yaml.safe_dump(to_dict(there)), encoding="utf-8")
    return ["train.py", "--config", str(path)]


def train_until(config: Config, last: int) -> None:
    """Train, interrupted once step `last` is logged."""
    log = Progress.log

    def stop(self: Progress, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == last:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint."""
    folder = RunFolder(run)
    step = folder.latest_step()
    assert step is not None
    return read_state(folder.step_folder(step) / "model.safetensors")


def records(run: Path, split: str = "train") -> list[dict[str, Any]]:
    """What was logged, without how long it took."""
    found = [record for record in RunFolder(run).records() if record["split"] == split]
    return [{key: value for key, value in r.items() if key != "tokens_per_second"} for r in found]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit: last weights, best model, everything that was logged."""
    for ours, theirs in (
        (final_weights(one), final_weights(other)),
        (load_file(one / "model.safetensors"), load_file(other / "model.safetensors")),
    ):
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for split in ("train", "validation"):
        assert records(one, split) == records(other, split)


def assert_close_records(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    for split in ("train", "validation"):
        assert len(records(one, split)) == len(records(other, split)) > 0
        for a, b in zip(records(one, split), records(other, split), strict=True):
            assert _flat(a) == pytest.approx(_flat(b), rel=tolerance, abs=tolerance)


def assert_close_weights(one: Path, other: Path) -> None:
    ours, theirs = final_weights(one), final_weights(other)
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        torch.testing.assert_close(theirs[name], values, atol=2e-4, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


def _flat(record: dict[str, Any]) -> dict[str, float]:
    found = {}
    for key, value in record.items():
        inner = value if isinstance(value, dict) else {"": value}
        found |= {f"{key}.{name}": v for name, v in inner.items() if not isinstance(v, str)}
    return found
