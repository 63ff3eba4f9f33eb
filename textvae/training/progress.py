"""What a person watching a run, its metrics.jsonl and the tracker are told."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from torch import Tensor

from textvae.config import TrainConfig
from textvae.model.vae import DocumentVAE
from textvae.training.distributed import how_shared
from textvae.training.output import RunOutput
from textvae.training.sums import Sums

logger = get_logger(__name__)


@dataclass(frozen=True)
class Gradients:
    """What was measured of one optimiser step's gradient."""

    norm: Tensor
    """Before clipping, over all parameters."""
    ratio: Mapping[str, Tensor]
    """Norm of the gradient, before clipping too, over norm of the parameters, by level and other part of the model;
    empty where it was not measured."""
    applied: bool
    """Whether the step was taken: not where the loss or the gradient was not finite."""


class Progress:
    """Logs training and validation, and remembers the best validation; checkpointed with the model."""

    def __init__(self, settings: TrainConfig, accelerator: Accelerator, output: RunOutput) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.output = output
        self.best = math.inf
        self.tokens_seen = 0.0
        self.warned: set[str] = set()
        self.logged = 0
        """Lines of metrics.jsonl."""
        self.skipped = 0
        """Steps not taken, in all."""
        self.skipped_in_a_row = 0
        self._since = (time.monotonic(), 0.0)

    def begin(self, first: int, model: DocumentVAE, documents: str) -> None:
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        self.accelerator.print(
            f"levels {list(model.level_names) or 'none (plain language model)'}; {trainable / 1e6:.1f} M parameters "
            f"trained, {frozen / 1e6:.1f} M frozen; {documents}; steps {first} to {self.settings.steps}; "
            f"{how_shared(model, self.accelerator)}, {self.accelerator.device}, mixed precision "
            f"{self.accelerator.mixed_precision}"
        )
        self._since = (time.monotonic(), self.tokens_seen)

    def is_due(self, step: int) -> bool:
        """Whether this optimiser step, counted from 1, is logged."""
        return step % self.settings.log_every == 0 or step == self.settings.steps

    def log(
        self,
        step: int,
        sums: Sums,
        weights: Mapping[str, Any],
        gradients: Gradients,
        learning_rate: float,
        collapsed: Mapping[str, float],
    ) -> None:
        """Tell of one optimiser step; `collapsed`: levels whose rate has vanished, warned of once each."""
        self.tokens_seen += sums.tokens
        for name in collapsed.keys() - self.warned:
            logger.warning(
                f"level '{name}' has collapsed: its rate is {collapsed[name]:.3f} nats per unit at step {step}, so the "
                f"decoder does without it. Try objective.levels.{name}.free_bits=0.1 or a target_rate, a later start "
                "of its annealing, a bag-of-words warm start (objective.likelihood), or leave the level out."
            )
        self.warned |= collapsed.keys()
        if not gradients.applied:
            self._note_skipped(step)
            return
        self.skipped_in_a_row = 0
        if not self.is_due(step):
            return
        now = time.monotonic()
        speed = (self.tokens_seen - self._since[1]) / (now - self._since[0])
        left = (self.settings.steps - step) * sums.tokens / speed
        self._since = (now, self.tokens_seen)
        report = sums.report()
        betas = {name: float(torch.as_tensor(weight).mean()) for name, weight in weights.items()}
        record = {
            "step": step,
            "split": "train",
            "tokens_seen": int(self.tokens_seen),
            **report,
            "beta": betas,
            "gradient_norm": float(gradients.norm),
            "learning_rate": learning_rate,
            "tokens_per_second": speed,
            "skipped_steps": self.skipped,
            "gradient_ratio": {part: float(ratio) for part, ratio in gradients.ratio.items()},
        }
        rates = "  ".join(f"{name} {rate:.1f}" for name, rate in report["rate_per_unit"].items())
        self.accelerator.print(
            f"step {step}/{self.settings.steps}  nll/token {report['nll_per_token']:.3f}  "
            f"{'rate/unit ' + rates + '  ' if rates else ''}{speed:.0f} tokens/s  {_clock(left)} left",
            flush=True,
        )
        self._write(record)

    def _note_skipped(self, step: int) -> None:
        """Of a step that was not taken no numbers are logged: they are not finite."""
        self.skipped += 1
        self.skipped_in_a_row += 1
        logger.warning(f"step {step} is skipped: its loss or gradient is not finite ({self.skipped} so far)")
        if self.skipped_in_a_row == self.settings.max_skipped_steps:
            raise ValueError(
                f"the loss or its gradient is not finite at step {step}, {self.skipped_in_a_row} times in a row "
                f"(train.max_skipped_steps); lower train.learning_rate, or set train.mixed_precision=no"
            )

    def validated(self, step: int, sums: Sums) -> bool:
        """Report a validation; true when it is the best so far. Raises ValueError when it is not finite."""
        if not math.isfinite(sums.negative_elbo):
            raise ValueError(
                f"the validation at step {step} is not finite; lower train.learning_rate, or set "
                "train.mixed_precision=no"
            )
        report = sums.report()
        rates = "  ".join(f"{name} {rate:.1f}" for name, rate in report["rate_per_unit"].items())
        self.accelerator.print(
            f"validation at step {step}: perplexity/token {report['perplexity_per_token']:.1f}"
            f"{'  rate/unit ' + rates if rates else ''}",
            flush=True,
        )
        self._write({"step": step, "split": "validation", "tokens_seen": int(self.tokens_seen), **report})
        is_best = sums.negative_elbo / sums.tokens < self.best
        self.best = min(self.best, sums.negative_elbo / sums.tokens)
        self._since = (time.monotonic(), self.tokens_seen)
        return is_best

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": None if math.isinf(self.best) else self.best,
            "tokens_seen": self.tokens_seen,
            "warned": sorted(self.warned),
            "logged": self.logged,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = math.inf if state["best"] is None else state["best"]
        self.tokens_seen = state["tokens_seen"]
        self.warned = set(state["warned"])
        self.logged = state["logged"]
        self.skipped = state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]

    def flush(self) -> None:
        """What a checkpoint takes for logged is on the disk, in the tracker's files, too."""
        if self.accelerator.is_main_process:
            for tracker in self.accelerator.trackers:
                tracker.tracker.flush()

    def _write(self, record: dict[str, Any]) -> None:
        self.logged += 1
        if self.accelerator.is_main_process:
            self.output.log(record)
        flat: dict[str, float] = {}
        for key, value in record.items():
            if isinstance(value, dict):
                flat |= {f"{record['split']}/{key}/{name}": number for name, number in value.items()}
            elif isinstance(value, int | float):
                flat[f"{record['split']}/{key}"] = value
        self.accelerator.log(flat, step=record["step"])


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
