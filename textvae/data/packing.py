"""Sequences of different lengths, several to a row.

Shapes: U units (members of all sequences, one sequence after the other), R rows, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

IGNORED = -1


@dataclass(frozen=True)
class PackedRows:
    """The units of several documents laid side by side in rows."""

    slot: Tensor
    """[U] position of every unit in the flattened rows."""
    segment: Tensor
    """[R, C] document of every slot, -1 where empty."""
    position: Tensor
    """[R, C] reading-order number within the document."""

    def scatter(self, values: Tensor) -> Tensor:
        """[U, D] -> [R, C, D], zeros where empty."""
        rows, columns = self.segment.shape
        out = values.new_zeros(rows * columns, values.shape[-1])
        return out.index_copy(0, self.slot, values).view(rows, columns, -1)

    def gather(self, rows: Tensor) -> Tensor:
        """[R, C, D] -> [U, D]."""
        return rows.flatten(0, 1)[self.slot]

    def mask(self, window: int, causal: bool) -> Tensor:
        """[R, 1, C, C], true where a unit may look: its own document, at most `window` - 1 units away."""
        same = self.segment[:, :, None] == self.segment[:, None, :]
        distance = self.position[:, :, None] - self.position[:, None, :]
        near = (distance >= 0) & (distance < window) if causal else distance.abs() < window
        return (same & near)[:, None]


def pack(lengths: Sequence[int], columns: int = 0) -> PackedRows:
    """Lay sequences of `lengths` into rows as long as the longest (rounded up to 8), or of `columns` if those are more,
    first fit decreasing."""
    columns = max(columns, round_up(max(lengths), 8))
    shortest = min(lengths)
    free: list[int] = []
    open_rows: list[int] = []
    start = [0] * len(lengths)
    for sequence in sorted(range(len(lengths)), key=lambda s: -lengths[s]):
        row = next((row for row in open_rows if free[row] >= lengths[sequence]), len(free))
        if row == len(free):
            free.append(columns)
            open_rows.append(row)
        start[sequence] = (row + 1) * columns - free[row]
        free[row] -= lengths[sequence]
        if free[row] < shortest:
            open_rows.remove(row)
    sizes = np.asarray(lengths)
    position = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    slot = np.repeat(start, sizes) + position
    segments = np.full(len(free) * columns, IGNORED)
    positions = np.zeros(len(free) * columns, dtype=np.int64)
    segments[slot] = np.repeat(np.arange(len(lengths)), sizes)
    positions[slot] = position
    shape = (len(free), columns)
    return PackedRows(
        torch.from_numpy(slot),
        torch.from_numpy(segments.reshape(shape)),
        torch.from_numpy(positions.reshape(shape)),
    )


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple that is not below `value`."""
    return -(-int(value) // multiple) * multiple
