"""Stopping on request: a signal ends training after the step that is being computed, its state saved; the loss of the
launcher, which may not have passed one on, does, too."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import torch
from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LAUNCHERS = {
    "accelerate",
    "accelerate-launch",
    "accelerate.commands.accelerate_cli",
    "accelerate.commands.launch",
    "torchrun",
    "torch.distributed.run",
}
"""Scripts and modules that start the processes of training and wait for them."""


class TrainingStopped(Exception):  # noqa: N818
    """A signal stopped training; the run can be resumed."""

    def __init__(self, number: int, message: str) -> None:
        """number: of the signal."""
        super().__init__(message)
        self.number = number


class StopRequest:
    """While entered, notes the first SIGINT or SIGTERM; a second one ends the process as it would have without. A
    launcher that was this process's parent when the request was made, and is no more, counts as a SIGTERM."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self._launcher = _launcher()
        self._received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """Number of the signal that any process has received, 0 for none; every process calls it after every step."""
        if self._launcher is not None and os.getppid() != self._launcher:
            self._received = self._received or signal.SIGTERM
        if self.accelerator.num_processes == 1:
            return self._received
        received = torch.tensor(self._received, device=self.accelerator.device)
        anywhere = int(self.accelerator.reduce(received, reduction="sum"))
        return self._received or (signal.SIGTERM if anywhere else 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        for each, handler in self._before.items():
            signal.signal(each, handler)


def _launcher() -> int | None:
    """Id of the parent process where it is a launcher: a shell's end is no request to those who outlive it."""
    try:
        parent = psutil.Process(os.getppid())
        words = parent.cmdline()
    except psutil.Error:
        return None
    return parent.pid if LAUNCHERS.intersection(Path(word).name for word in words) else None
