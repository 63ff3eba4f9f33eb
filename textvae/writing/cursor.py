"""Where documents stand in their plans while their units come into being.

Shapes: N places, K of them that move on together, D plans, E stop heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from textvae.writing.plan import DocumentPlan

UNLISTED = -1


class Cursor:
    """N places in D plans, each at a unit of depth `bottom` under a known unit of depth `top`, in reading order.

    Decides with the plans, or where they leave it open as drawn, which units end their parents.
    """

    def __init__(
        self, plans: Sequence[DocumentPlan], top: int, bottom: int, document: Tensor, unit: Tensor, max_children: int
    ) -> None:
        """document [N]: whose plan; unit [N]: number in it of the unit of depth `top`, or `UNLISTED`."""
        self.top, self.bottom, self.max_children = top, bottom, max_children
        self.document = document
        device = document.device
        # One more column, so that there is one where no plan lists a unit.
        self.counts = {
            depth: F.pad(pad_sequence([plan.children[depth] for plan in plans], batch_first=True), (0, 1)).to(device)
            for depth in range(top, bottom)
        }
        self.first = {depth: counts.cumsum(1) - counts for depth, counts in self.counts.items()}
        self.sibling = {depth: torch.zeros_like(document) for depth in range(top + 1, bottom + 1)}
        """Depth -> [N] number of the open unit among its parent's children."""
        self.listed = {top: unit.clone()}
        """Depth -> [N] number of the open unit in the plan, `UNLISTED` where the plan leaves it open."""
        self._find_children(torch.arange(len(document), device=device))

    def labels(self, rows: Tensor, drawn: Tensor) -> Tensor:
        """Stop labels [K, E] of the open units of places `rows` [K], lowest depth first; drawn [K, E] says how it is
        where the plan leaves it open."""
        complete = torch.ones(len(rows), device=drawn.device)
        columns = []
        for column, depth in enumerate(range(self.bottom, self.top, -1)):
            wanted, children = self._wanted(depth - 1, rows), self.sibling[depth][rows] + 1
            open_end = drawn[:, column] | (children >= self.max_children)
            last = torch.where(wanted > 0, children >= wanted, open_end).float()
            columns.append(complete * (2 * last - 1))
            complete = complete * last
        return torch.stack(columns, dim=1) if columns else complete.new_zeros(len(rows), 0)

    def advance(self, rows: Tensor, labels: Tensor, unit: Tensor) -> None:
        """On to the next units; unit [K]: that of depth `top` where the open one has ended."""
        self.listed[self.top][rows] = torch.where((labels == 1).all(1), unit, self.listed[self.top][rows])
        for column, depth in enumerate(range(self.bottom, self.top, -1)):
            label, sibling = labels[:, column], self.sibling[depth][rows]
            self.sibling[depth][rows] = torch.where(label == 1, 0, sibling + (label == -1))
        self._find_children(rows)

    def _wanted(self, depth: int, rows: Tensor) -> Tensor:
        """[K] decided number of children of the open unit of `depth`, 0 where it is open."""
        listed = self.listed[depth][rows]
        return torch.where(listed >= 0, self.counts[depth][self.document[rows], listed.clamp(min=0)], 0)

    def _find_children(self, rows: Tensor) -> None:
        for depth in range(self.top + 1, self.bottom + 1):
            wanted = self._wanted(depth - 1, rows)
            first = self.first[depth - 1][self.document[rows], self.listed[depth - 1][rows].clamp(min=0)]
            child = torch.where(wanted > 0, first + self.sibling[depth][rows], UNLISTED)
            if depth not in self.listed:
                self.listed[depth] = torch.full_like(self.document, UNLISTED)
            self.listed[depth][rows] = child
