"""What worker processes hand over, its tensors in one.

PyTorch sends every tensor as an open file of its own: a step of many micro-batches has more of them than a process may
open. One is also copied at once where it is pinned.
"""

from __future__ import annotations

import pickle
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

_ALIGNED = 64
"""Bytes: a tensor of any type may begin at their multiples."""
_LENGTH = 8
"""Bytes that say how many those before them are."""


def to_bytes(value: Any) -> Tensor:
    """[bytes] `value`, which can be pickled: its tensors, the pickle of all around them, its length."""
    pickled = BytesIO()
    pickler = _Pickler(pickled)
    pickler.dump(value)
    tail = bytearray(pickled.getvalue() + pickled.tell().to_bytes(_LENGTH, "little"))
    whole = torch.empty(pickler.end + len(tail), dtype=torch.uint8)
    for begin, flat in pickler.tensors:
        whole[begin : begin + len(flat)] = flat
    whole[pickler.end :] = torch.frombuffer(tail, dtype=torch.uint8)
    return whole


def from_bytes(whole: Tensor) -> Any:
    """What `to_bytes` was given; its tensors are views of `whole`."""
    length = int.from_bytes(whole[-_LENGTH:].numpy().tobytes(), "little")
    return _Unpickler(whole, BytesIO(whole[-_LENGTH - length : -_LENGTH].numpy().tobytes())).load()


class _Pickler(pickle.Pickler):
    """Puts places in the stead of tensors, which are on the CPU."""

    def __init__(self, file: BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[tuple[int, Tensor]] = []
        """Where each begins, and its bytes."""
        self.end = 0

    def persistent_id(self, value: Any) -> tuple[int, torch.Size, torch.dtype] | None:
        if not isinstance(value, Tensor):
            return None
        begin, flat = self.end, value.reshape(-1).view(torch.uint8)
        self.tensors.append((begin, flat))
        self.end += -(-len(flat) // _ALIGNED) * _ALIGNED
        return begin, value.shape, value.dtype


class _Unpickler(pickle.Unpickler):
    def __init__(self, whole: Tensor, file: BytesIO) -> None:
        super().__init__(file)
        self.whole = whole

    def persistent_load(self, place: tuple[int, torch.Size, torch.dtype]) -> Tensor:
        begin, shape, dtype = place
        return self.whole[begin : begin + shape.numel() * dtype.itemsize].view(dtype).view(shape)
