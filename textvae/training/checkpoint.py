"""Checkpoints: everything that decides how training goes on, written so that a kill never leaves half of one.

RUN/checkpoints/step-000400/model.safetensors           weights, tied ones once
RUN/checkpoints/step-000400/training.safetensors        optimiser, schedule, objective, progress, the data's fingerprint
RUN/checkpoints/step-000400/process-00000.safetensors   every process's random generators, and its stream's
RUN/checkpoints/step-000400/checksums.json              SHA-256 of these files

Nothing in them is pickled: to resume a stranger's run folder runs no code of it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from textvae.atomic import partial, remove, remove_partial, rename, sync, write_text
from textvae.damage import CHECKSUMS_FILE, checksums, sha256_of
from textvae.data.fingerprint import DataFingerprint, StreamFingerprint
from textvae.runs import LATEST, RunFolder
from textvae.training.distributed import load_optimizer, load_weights, whole_state, whole_weights
from textvae.training.state_file import read_state, write_state


class Stateful(Protocol):
    """What can be stored and restored."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class Checkpoints:
    """The step folders of one run."""

    def __init__(
        self,
        folder: RunFolder,
        accelerator: Accelerator,
        model: nn.Module,
        members: Mapping[str, Stateful],
        data: Mapping[str, DataFingerprint | StreamFingerprint],
        keep: int,
        stream: Stateful | None = None,
    ) -> None:
        """model: unwrapped; members: what else is restored, by name; data: fingerprints of the splits, and of the
        `stream`, where there is one, which has a state in every process; keep: number of step folders."""
        self.folder = folder
        self.accelerator = accelerator
        self.model = model
        self.members = dict(members)
        if accelerator.scaler is not None:
            self.members["scaler"] = accelerator.scaler
        self.data = {split: asdict(found) for split, found in data.items()}
        self.keep = keep
        self.stream = stream

    def save(self, step: int) -> None:
        """Write the state of all processes; the last one counts until the new one is whole."""
        accelerator, whole = self.accelerator, self.folder.step_folder(step)
        aside = partial(whole)
        if accelerator.is_main_process:
            self.folder.checkpoints.mkdir(exist_ok=True)
            self._clean()
            aside.mkdir()
        accelerator.wait_for_everyone()
        own = _random_state(accelerator.device)
        if self.stream is not None:
            own["stream"] = self.stream.state_dict()
        write_state(aside / _process_file(accelerator.process_index), own)
        weights = whole_weights(self.model, accelerator.is_main_process)
        states = {name: member.state_dict() for name, member in self.members.items()}
        states = whole_state(states, accelerator.is_main_process)
        if accelerator.is_main_process:
            write_state(aside / "model.safetensors", weights)
            facts = {
                "step": step,
                "processes": accelerator.num_processes,
                "precision": accelerator.mixed_precision,
                "data": self.data,
            }
            write_state(aside / "training.safetensors", {**facts, "states": states})
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            processes = map(_process_file, range(accelerator.num_processes))
            files = [aside / name for name in ("model.safetensors", "training.safetensors", *processes)]
            missing = next((file for file in files if not file.is_file()), None)
            if missing is not None:
                raise OSError(
                    f"'{missing}', which another process wrote, is not seen by the first: train.output must "
                    "be in a file system that all of them share"
                )
            write_text(aside / CHECKSUMS_FILE, json.dumps(checksums(aside, files)))
            for file in files:
                sync(file)
            rename(aside, whole)
            write_text(self.folder.checkpoints / LATEST, f"{whole.name}\n")
            self._remove_old()
        accelerator.wait_for_everyone()

    def restore(self) -> int:
        """Take up the latest checkpoint; returns the number of steps done.

        Raises ValueError when there is none, when it is damaged, when it was made on other data, or when it holds the
        states of a stream of another number of processes.
        """
        step = self.folder.latest_step()
        if step is None:
            raise ValueError(f"{self.folder.path} holds no checkpoint to resume")
        path = self.folder.step_folder(step)
        stored = _read(path / "training.safetensors")
        self._check_data(stored["data"])
        processes = stored["processes"]
        if self.stream is not None and processes != self.accelerator.num_processes:
            raise ValueError(
                f"{path} was written by {processes} processes, each with its own part of data.stream, but there are "
                f"{self.accelerator.num_processes} now; resume it with {processes}"
            )
        try:
            load_weights(self.model, _read(path / "model.safetensors"))
        except RuntimeError as error:
            raise ValueError(f"{path} holds another model's weights: {' '.join(str(error).split())}") from None
        for name, member in self.members.items():
            if isinstance(member, torch.optim.Optimizer):
                load_optimizer(member, stored["states"][name])
            else:
                member.load_state_dict(stored["states"][name])
        if processes == self.accelerator.num_processes:
            own = _read(path / _process_file(self.accelerator.process_index))
            if self.stream is not None:
                self.stream.load_state_dict(own["stream"])
            _set_random_state(own, self.accelerator.device)
        else:
            self.accelerator.print(
                f"{path} was written by {processes} processes, there are {self.accelerator.num_processes} now: dropout "
                "goes on with other random numbers"
            )
        precision = stored.get("precision", self.accelerator.mixed_precision)
        if precision != self.accelerator.mixed_precision:
            self.accelerator.print(
                f"{path} was trained with mixed precision {precision}, which is {self.accelerator.mixed_precision} on "
                "this machine: training goes on with that"
            )
        if self.accelerator.is_main_process:
            # Left by a run that was killed before it did so; this one may have no other checkpoint to write.
            self._clean()
            self._remove_old()
        return step

    def _check_data(self, stored: Mapping[str, Any]) -> None:
        for name in {**self.data, **stored}:
            before, now = stored.get(name), self.data.get(name)
            if before != now:
                what, key = ("stream", "data.stream") if name == "stream" else (f"{name} split", "data.path")
                raise ValueError(
                    f"{self.folder.path} was trained on other data: its {what} had {_told(before)}, this one has "
                    f"{_told(now)}; give the data that it started with as {key}"
                )

    def _remove_old(self) -> None:
        for old in self.folder.steps()[: -self.keep]:
            remove(self.folder.step_folder(old))

    def _clean(self) -> None:
        """Remove what killed writers left: half folders, and whole ones that never came to count."""
        remove_partial(self.folder.checkpoints)
        latest = self.folder.latest_step()
        for step in self.folder.steps():
            if latest is not None and step > latest:
                remove(self.folder.step_folder(step))


def _told(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "none"
    counts = ", ".join(f"{value} {name}" for name, value in found.items() if name != "sha256")
    return f"{counts} ({found['sha256'][:8]})"


def _process_file(index: int) -> str:
    return f"process-{index:05d}.safetensors"


def _read(file: Path) -> Any:
    """A state whose file is as it was written; ValueError otherwise."""
    remedy = f"remove {file.parent} to resume from the checkpoint before it"
    try:
        expected = json.loads((file.parent / CHECKSUMS_FILE).read_bytes())[file.name]
        found = sha256_of(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file.parent} is damaged ({' '.join(str(error).split())}); {remedy}") from None
    if found != expected:
        raise ValueError(f"{file} is damaged, it has not its SHA-256; {remedy}")
    return read_state(file)


def _random_state(device: torch.device) -> dict[str, Any]:
    """This process's generators: Python's, NumPy's, PyTorch's for the CPU and for `device`."""
    mersenne = cast(dict[str, Any], np.random.get_state(legacy=False))
    mersenne["state"]["key"] = mersenne["state"]["key"].tolist()
    state = {
        "python": random.getstate(),
        "numpy": mersenne,
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    np.random.set_state(dict(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type])
