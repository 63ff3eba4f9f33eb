"""The run folder as a reader sees it; `training.output` and `training.checkpoint` write it."""

from __future__ import annotations

import json
import logging
import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers.utils import cached_file

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
    "train.keep_checkpoints",
    "train.validate_every",
    "train.validation_documents",
    "train.max_skipped_steps",
    "train.compile",
    "data.path",
    "data.stream",
    "data.num_workers",
    "data.micro_batch_tokens",
)
"""Settings that do not change what is computed; other data in `data.path` and `data.stream` are refused by their
fingerprints."""
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
CONFIG_FILE = "config.yaml"
LATEST = "latest"
_STEP = re.compile(r"step-(\d{6,})")

logger = logging.getLogger(__name__)


class RunFolder:
    """Files of one run.

    RUN/                           best model so far (Hugging Face layout, with its processor)
    RUN/checksums.json             SHA-256 of the model's files; where they are being replaced, of the old ones, too
    RUN/config.yaml                resolved training configuration
    RUN/versions.json              package versions
    RUN/metrics.jsonl              one JSON object a line
    RUN/checkpoints/step-000400/   everything that a resume needs; the last few steps' are kept
    RUN/checkpoints/latest         the name of the one to resume from

    A step folder is written under another name, so that one that is there is whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / CONFIG_FILE
        self.versions = self.path / "versions.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"

    def step_folder(self, step: int) -> Path:
        return self.checkpoints / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps whose checkpoints are whole, in order."""
        names = (path.name for path in self.checkpoints.glob("step-*"))
        return sorted(int(found[1]) for found in map(_STEP.fullmatch, names) if found)

    def latest_step(self) -> int | None:
        """The step to resume from: the one that `latest` names, the newest if that is gone, None if there is none."""
        steps = self.steps()
        file = self.checkpoints / LATEST
        if file.is_file():
            named = _STEP.fullmatch(file.read_text(encoding="utf-8", errors="replace").strip())
            if named and int(named[1]) in steps:
                return int(named[1])
        return steps[-1] if steps else None

    def stored_config(self) -> dict[str, Any]:
        """The resolved configuration as plain values.

        Raises ValueError when there is none, or it is damaged.
        """
        if not self.config.is_file():
            raise ValueError(f"{self.path} holds no run: it has no config.yaml")
        try:
            values = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.config} is damaged ({' '.join(str(error).split())})") from None
        if not isinstance(values, dict) or not all(isinstance(section, dict) for section in values.values()):
            raise ValueError(f"{self.config} is damaged: it holds no mapping of sections")
        return values

    def records(self) -> list[dict[str, Any]]:
        """Everything logged so far; empty before the first step.

        A last line that was cut short, as by a kill, is left out with a warning. Raises ValueError for any other line
        that is no record.
        """
        if not self.metrics.exists():
            return []
        lines = self.metrics.read_bytes().splitlines(keepends=True)
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                if number == len(lines) and not line.endswith(b"\n"):
                    logger.warning("%s: its last line, %d, was cut short and is left out", self.metrics, number)
                    break
                record = None
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise ValueError(
                    f"{self.metrics}, line {number}: this is no record of training; mend or remove that line"
                )
            found.append(record)
        return found


def changed_settings(before: Mapping[str, Any], config: Config) -> list[str]:
    """Names of the settings that decide what is computed and differ between a stored configuration, as plain values,
    and `config`; one that the stored configuration does not know counts at its default."""
    now, default = to_dict(config), to_dict(Config())
    return [
        f"{section}.{key}"
        for section, values in now.items()
        for key, value in values.items()
        if f"{section}.{key}" not in MAY_CHANGE and value != before.get(section, {}).get(key, default[section][key])
    ]


def has_learned_bag(run: str) -> bool:
    """Whether the run of a folder or Hub name learned sentences as bags of words, its decoder not run."""
    found = cached_file(run, CONFIG_FILE, _raise_exceptions_for_missing_entries=False)
    if found is None:
        return False
    return bool(RunFolder(Path(found).parent).stored_config().get("objective", {}).get("likelihood") == "bag_of_words")


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
    # The build counts as well (CPU, CUDA), and not every wheel's metadata name it.
    return found | {"torch": torch.__version__}
