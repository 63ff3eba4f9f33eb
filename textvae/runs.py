"""The run folder: what training writes and every other command reads."""

from __future__ import annotations

import json
import logging
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from torch import nn

from textvae.config import Config, to_dict
from textvae.devices import choose_device
from textvae.text_vae import HierarchicalTextVAE

logger = logging.getLogger(__name__)
REQUIRED = ("config.json", "model.safetensors", "processor.json")
MAY_CHANGE = (
    "train.resume",
    "train.output",
    "train.tracker",
    "train.log_every",
    "train.save_every",
    "train.validate_every",
    "train.validation_documents",
    "data.path",
    "data.num_workers",
    "data.micro_batch_tokens",
)
"""Settings that do not change what is computed."""
PACKAGES = (
    "textvae",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "sentencepiece",
    "accelerate",
    "numpy",
)


class RunFolder:
    """Files of one run.

    RUN/                best model so far (Hugging Face layout, with its processor)
    RUN/config.yaml     resolved training configuration
    RUN/versions.json   package versions
    RUN/metrics.jsonl   one JSON object a line
    RUN/last/           last checkpoint: everything that a resume needs
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.last = self.path / "last"
        self.metrics = self.path / "metrics.jsonl"

    def check(self, config: Config) -> None:
        """Called by every process before any writes: ValueError when a new run would overwrite one, or when a
        resumed one has another model, objective or schedule than it started with."""
        if not config.train.resume:
            if self.last.exists() or self.metrics.exists():
                raise ValueError(
                    f"{self.path} already holds a run; continue it with train.resume=true, "
                    "choose another train.output, or delete the folder"
                )
            return
        stored = self.path / "config.yaml"
        if not stored.exists():
            raise ValueError(f"{self.path} holds no complete checkpoint to resume; start without train.resume")
        before, now = yaml.safe_load(stored.read_text(encoding="utf-8")), to_dict(config)
        changed = [
            f"{section}.{key}"
            for section, values in before.items()
            for key, value in values.items()
            if value != now[section].get(key) and f"{section}.{key}" not in MAY_CHANGE
        ]
        if changed:
            raise ValueError(
                f"{self.path} was started with other settings of {', '.join(changed)}; resume it with its own "
                f"configuration, {stored}"
            )

    def begin(self, config: Config) -> None:
        """Start a new run: its folder, configuration and versions."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
        (self.path / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")

    def save_state(self, accelerator: Accelerator, step: int) -> None:
        """Write the resumable state of all processes; an interruption leaves the previous one whole."""
        partial = self.path / "last.partial"
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        accelerator.wait_for_everyone()
        # Pickled, not safetensors: tied weights stay one tensor, so nothing is renamed or warned about.
        accelerator.save_state(str(partial), safe_serialization=False)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (partial / "step.json").write_text(json.dumps({"step": step}), encoding="utf-8")
            old = self.path / "last.old"
            shutil.rmtree(old, ignore_errors=True)
            if self.last.exists():
                self.last.rename(old)
            partial.rename(self.last)
            shutil.rmtree(old, ignore_errors=True)
        accelerator.wait_for_everyone()

    def load_state(self, accelerator: Accelerator) -> int:
        """Restore what `save_state` wrote; returns the number of steps done.

        Raises ValueError when there is no complete checkpoint.
        """
        folder = self.last if (self.last / "step.json").exists() else self.path / "last.old"
        if not (folder / "step.json").exists():
            raise ValueError(f"{self.path} holds no complete checkpoint to resume; start without train.resume")
        accelerator.load_state(str(folder))
        step = int(json.loads((folder / "step.json").read_text(encoding="utf-8"))["step"])
        if accelerator.is_main_process and self.metrics.exists():
            self._forget_after(step)
        return step

    def log(self, record: dict[str, Any]) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """Everything logged so far; empty before the first step."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text(encoding="utf-8").splitlines()]

    def _forget_after(self, step: int) -> None:
        """Steps logged after the checkpoint will be run, and logged, again."""
        kept = [record for record in self.records() if record["step"] <= step]
        self.metrics.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")


def load_run(
    run: str | Path, device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> HierarchicalTextVAE:
    """The model of a run folder or Hub name, in evaluation mode, on `device` (default: the accelerator, where there
    is one) and with weights of `dtype` (default: as they were saved).

    Raises ValueError when the folder lacks a file that every run has, or when there is no such device.
    """
    chosen = choose_device(device)
    folder = Path(run)
    if folder.is_dir():
        missing = [name for name in REQUIRED if not (folder / name).exists()]
        if missing:
            raise ValueError(
                f"{folder} is not a complete run: {', '.join(missing)} missing; "
                "a run folder is what train.py or save_pretrained writes"
            )
    elif len(folder.parts) > 2 or str(run).startswith((".", "/", "runs/")):
        raise ValueError(f"there is no run folder {folder}")
    model = HierarchicalTextVAE.from_pretrained(str(run), **({} if dtype is None else {"dtype": dtype}))
    logger.info("%s: on %s, in %s", run, chosen, model.dtype)
    return nn.Module.to(model, chosen).eval()


def versions() -> dict[str, str]:
    """Versions of Python, the platform and the packages that decide results."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
