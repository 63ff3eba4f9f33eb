"""Stopping on request: a signal ends training after the step that is being computed, its state saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingStopped(Exception):  # noqa: N818
    """A signal stopped training; the run can be resumed."""

    def __init__(self, number: int, message: str) -> None:
        """number: of the signal."""
        super().__init__(message)
        self.number = number


class StopRequest:
    """While entered, notes the first SIGINT or SIGTERM; a second one ends the process as it would have without."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
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
        if self.accelerator.num_processes == 1:
            return self._received
        received = torch.tensor(self._received, device=self.accelerator.device)
        anywhere = int(self.accelerator.reduce(received, reduction="sum"))
        return self._received or (signal.SIGTERM if anywhere else 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        for each, handler in self._before.items():
            signal.signal(each, handler)
