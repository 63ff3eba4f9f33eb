"""Structure: which unit ends its parent, who predicts it, and the same said as numbers of children.

The structure of a document is one flag a unit: `last`, "this unit ends its parent". Read in order, the flags of a level
give the numbers of children of the level above (`child_counts`), and those give every unit's parent (`parents`).

Shapes: U units of one level, P units of the level above, E stop heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textvae.data.batch import DocumentBatch


@dataclass(frozen=True)
class StopHeads:
    """Which part of the model predicts the ends of which level's units. Levels are given by depth, the root's is 0.

    A stop head is a Bernoulli on `last`. That of a latent level sits on the level's own latent; that of a level
    without latent on the nearest latent level below it, at its last unit; where there is none, on the decoder at the
    sentence end. So every model, the plain language model included, scores the same ends.
    """

    by_level: dict[int, tuple[int, ...]]
    """Depth of a latent level -> depths of the levels whose ends its heads predict, lowest first."""
    decoder: tuple[int, ...]
    """Depths of the levels whose ends the decoder predicts, lowest first."""

    @classmethod
    def of(cls, hierarchy: Sequence[str], latent_levels: Sequence[str]) -> StopHeads:
        latent = {hierarchy.index(name) for name in latent_levels}
        lowest = len(hierarchy) - 1
        by_level = {depth: _up_to_next_latent(depth, latent) for depth in latent}
        return cls(by_level, () if lowest in latent else _up_to_next_latent(lowest, latent))


def _up_to_next_latent(start: int, latent: set[int]) -> tuple[int, ...]:
    """`start` and the depths above it, up to but without the next latent one; the root ends nothing."""
    depths: list[int] = []
    for depth in range(start, 0, -1):
        if depth != start and depth in latent:
            break
        depths.append(depth)
    return tuple(depths)


def stop_labels(batch: DocumentBatch, depth: int, heads: Sequence[int]) -> Tensor:
    """What the stop heads at the units of `depth` predict, [U, E] for the E depths in `heads`, lowest first.

    1 where a unit of that depth ends its parent, -1 where it does not, 0 where the question does not arise because
    the unit is not yet complete.
    """
    level = batch.levels[depth]
    unit = torch.arange(len(level), device=level.parent.device)
    complete = torch.ones(len(level), device=unit.device)
    columns = []
    for above in heads:
        last = batch.levels[above].last[unit].float()
        columns.append(complete * (2 * last - 1))
        complete = complete * last
        unit = batch.levels[above].parent[unit]
    return torch.stack(columns, dim=1) if columns else complete.new_zeros(len(level), 0)


def child_counts(last: Tensor) -> Tensor:
    """Numbers of children [P] of all parents, of the flags `last` [U] of their children in reading order."""
    return last.nonzero().flatten().diff(prepend=last.new_full((1,), -1, dtype=torch.long))


def parents(counts: Tensor) -> Tensor:
    """Index [U] of every child's parent, of the parents' numbers of children [P]."""
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
