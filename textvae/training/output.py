"""What training writes into its run folder, but for the checkpoints."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from textvae.atomic import partial, publish, remove_partial, write_json, write_text
from textvae.config import Config, to_dict
from textvae.damage import CHECKSUMS_FILE, sha256_of
from textvae.runs import RunFolder, changed_settings, versions
from textvae.text_vae import HierarchicalTextVAE

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
ONE_FILE = 1 << 62
"""Bytes that a file of weights may have: all go into one, which one rename replaces."""


class RunOutput:
    """The writer of one run folder: the main process, and it alone, calls what writes."""

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder(path)

    def check(self, config: Config) -> None:
        """Called by every process before any writes: ValueError when a new run would overwrite one, or when a
        resumed one has another model, objective or schedule than it started with."""
        folder = self.folder
        if not config.train.resume:
            if folder.checkpoints.exists() or folder.metrics.exists() or (folder.path / "last").exists():
                raise ValueError(
                    f"{folder.path} already holds a run; continue it with train.resume=true, "
                    "choose another train.output, or delete the folder"
                )
            return
        if not folder.config.is_file():
            raise ValueError(f"there is no run in {folder.path} to resume; start one without train.resume")
        if (folder.path / "last").exists() and folder.latest_step() is None:
            raise ValueError(
                f"{folder.path} was written by an older textvae, whose checkpoint can run code and is not read; "
                "start again in another train.output"
            )
        changed = changed_settings(folder.stored_config(), config)
        if changed:
            raise ValueError(
                f"{folder.path} was started with other settings of {', '.join(changed)}; resume it with its own "
                f"configuration, {folder.config}"
            )

    def begin(self, config: Config) -> None:
        """Start a run, or start one over that was killed before its first checkpoint."""
        folder = self.folder
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.metrics.unlink(missing_ok=True)
        shutil.rmtree(folder.path / "tensorboard", ignore_errors=True)
        write_json(folder.versions, versions())
        write_text(folder.config, yaml.safe_dump(to_dict(config), sort_keys=False))

    def log(self, record: dict[str, Any]) -> None:
        """Append a line; the file is opened anew, so that nothing is lost in a buffer."""
        with self.folder.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def forget_after(self, step: int, logged: int) -> None:
        """Steps logged after the checkpoint, `logged` lines in all, will be run, and logged, again.

        Warns of lines that are missing. Raises ValueError for a damaged line before the last.
        """
        kept = [record for record in self.folder.records() if record["step"] <= step]
        if len(kept) < logged:
            logger.warning(
                "%s: %d of the %d lines logged until step %d are missing: the file was shortened since",
                *(self.folder.metrics, logged - len(kept), logged, step),
            )
        write_text(self.folder.metrics, "".join(json.dumps(record) + "\n" for record in kept))

    def save_model(self, model: HierarchicalTextVAE, weights: Mapping[str, Tensor] | None = None) -> None:
        """Replace the run's model. Of one run only the weights change, so that a kill leaves the old model or the
        new.

        weights: the whole state dict, where processes share the model's own.
        """
        remove_partial(self.folder.path)
        aside, replaced = partial(self.folder.path / "model"), self.folder.path / WEIGHTS
        model.save_pretrained(aside, max_shard_size=ONE_FILE, state_dict=weights)
        if replaced.exists():
            # Until they are replaced, after the checksums, those of the old weights are right, too.
            described = json.loads((aside / CHECKSUMS_FILE).read_bytes())
            described[WEIGHTS] += f" {sha256_of(replaced)}"
            write_json(aside / CHECKSUMS_FILE, described)
        publish(aside, self.folder.path, last=WEIGHTS)
