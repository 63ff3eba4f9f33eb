"""The levels stacked: one top-down pass, over all units in parallel (`Hierarchy.forward`: training, scoring, replaying)
or unit by unit (`TopDownState`: writing, particles).

Shapes: U_l units of level l, K documents side by side, D unit width, Z_l latent size, E stop heads of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from textvae.config import LevelConfig, UnitConfig
from textvae.data.batch import DocumentBatch
from textvae.model.gaussian import DiagonalGaussian
from textvae.model.level import LatentSource, Level, LevelPass, LevelState, UnitFeatures
from textvae.model.noise import KeyedNoise
from textvae.model.structure import StopHeads, stop_labels


@dataclass(frozen=True)
class HierarchyPass:
    levels: dict[str, LevelPass]
    """Top first."""

    @property
    def z(self) -> dict[str, Tensor]:
        return {name: level.z for name, level in self.levels.items()}


@dataclass
class _LevelWalk:
    """Where K documents stand at one level."""

    parent: Tensor
    """[K] index, among the units of the latent level above, of the parent of the next unit."""
    count: Tensor
    """[K] units so far."""
    steps: LevelState | None = None
    hidden: Tensor | None = None
    """[K, D] of the next unit, once its prior was asked for."""
    below: Tensor | None = None
    """[K, n, D] what the children of the last n units stand under."""
    num_passed: int = 0
    """Units before those n: every document is past their children."""

    def select(self, indices: Tensor) -> _LevelWalk:
        return _LevelWalk(
            self.parent[indices],
            self.count[indices],
            None if self.steps is None else self.steps.select(indices),
            None if self.hidden is None else self.hidden[indices],
            None if self.below is None else self.below[indices],
            self.num_passed,
        )


class TopDownState:
    """K documents that come into being unit by unit: their priors, their structure, what stands below each unit.

    For the next unit of a level, one of every document: `prior`, then `stop_logits` for the z that was taken, then
    `commit`. Levels may be walked one after the other, as when planning, or all together in reading order, as
    particles are; a unit only needs its ancestors, and what precedes it at its own level, to be committed. A document
    without a next unit at a level (see `is_open`) may go along: what it commits there is not counted.
    """

    def __init__(self, hierarchy: Hierarchy, num_documents: int, device: torch.device) -> None:
        self.hierarchy = hierarchy
        self.num_documents = num_documents
        self.device = device
        self.walks = {name: _LevelWalk(self._zeros(), self._zeros()) for name in hierarchy.stack}
        names = list(self.walks)
        self._upper: dict[str, str | None] = {names[0]: None} if names else {}
        self._upper |= {lower: upper for upper, lower in pairwise(names)}
        self._lower = dict(pairwise(names))

    def _zeros(self, *width: int) -> Tensor:
        return torch.zeros(self.num_documents, *width, device=self.device, dtype=None if width else torch.long)

    def is_open(self, name: str) -> Tensor:
        """[K] whether the next unit's parent is there: a document, or a committed unit of the latent level above."""
        upper = self._upper[name]
        return self.walks[name].parent < (1 if upper is None else self.walks[upper].count)

    def parent(self, name: str) -> Tensor:
        """[K] number, among the units of the latent level above, of the next unit's parent, committed or not."""
        return self.walks[name].parent

    def above(self, name: str) -> Tensor:
        """[K, D] what the next unit of a level knows of its ancestors."""
        upper = self._upper[name]
        if upper is None:
            return self._zeros(self.hierarchy.width)
        walk = self.walks[upper]
        if walk.below is None:
            raise AssertionError(f"no unit of level '{upper}' was committed before one of '{name}'")
        index = (self.walks[name].parent - walk.num_passed).clamp(0, walk.below.shape[1] - 1)
        return walk.below[torch.arange(self.num_documents, device=self.device), index]

    def prior(self, name: str) -> DiagonalGaussian:
        """p(z of the next unit), [K, Z], given its ancestors and what precedes it at its level; once for each unit."""
        level, walk, above = self.hierarchy.stack[name], self.walks[name], self.above(name)
        if walk.steps is None:
            walk.steps = level.start(above)
        walk.hidden, prior = level.next_prior(walk.steps, above)
        return prior

    def stop_logits(self, name: str, z: Tensor) -> Tensor:
        """[K, E] of the next unit's stop heads, for its latent z [K, Z]."""
        hidden = self.walks[name].hidden
        if hidden is None:
            raise AssertionError(f"the prior of the next unit of level '{name}' was not asked for")
        return self.hierarchy.stack[name].stop_logits(hidden, z)

    def commit(self, name: str, z: Tensor, labels: Tensor) -> None:
        """The next unit has latent z [K, Z] and stop labels [K, E] (as `stop_labels` makes them)."""
        level, walk = self.hierarchy.stack[name], self.walks[name]
        if walk.steps is None or walk.hidden is None:
            raise AssertionError(f"the prior of the next unit of level '{name}' was not asked for")
        level.commit(walk.steps, z, labels)
        if level.descend is not None:
            self._keep_below(name, level.state_below(self.above(name), z, labels))
        exists = self.is_open(name)
        walk.count = walk.count + exists
        walk.parent = walk.parent + (exists & (labels == 1).all(dim=1))
        walk.hidden = None

    def _keep_below(self, name: str, state: Tensor) -> None:
        walk, lower = self.walks[name], self._lower.get(name)
        if walk.below is None or lower is None:
            walk.below = state[:, None]
            return
        done = min(int(self.walks[lower].parent.min()) - walk.num_passed, walk.below.shape[1])
        walk.below = torch.cat([walk.below[:, done:], state[:, None]], dim=1)
        walk.num_passed += done

    def select(self, indices: Tensor) -> TopDownState:
        """Document k goes on from where document indices[k] stands; this state is used up."""
        chosen = TopDownState(self.hierarchy, len(indices), self.device)
        chosen.walks = {name: walk.select(indices) for name, walk in self.walks.items()}
        return chosen


class Hierarchy(nn.Module):
    """Latent levels, top first."""

    def __init__(
        self, hierarchy: Sequence[str], levels: Sequence[LevelConfig], units: UnitConfig, feature_size: int = 0
    ) -> None:
        """`hierarchy`: names of all levels, `levels`: those with latents; `feature_size`: as of `Level`."""
        super().__init__()
        self.hierarchy = tuple(hierarchy)
        self.width = units.width
        self.stop_heads = StopHeads.of(hierarchy, [level.name for level in levels])
        self.levels = nn.ModuleDict()
        for order, config in enumerate(levels):
            depth = self.hierarchy.index(config.name)
            self.levels[config.name] = Level(
                config,
                units,
                feature_size,
                num_stops=len(self.stop_heads.by_level[depth]),
                is_root=depth == 0,
                has_parent=order > 0,
                has_child=order < len(levels) - 1,
            )

    @property
    def stack(self) -> dict[str, Level]:
        """The levels by name, top first."""
        return cast(dict[str, Level], dict(self.levels.items()))

    def start(self, num_documents: int, device: torch.device) -> TopDownState:
        """The state before the first unit of `num_documents` documents."""
        return TopDownState(self, num_documents, device)

    def forward(
        self,
        features: Mapping[str, UnitFeatures] | None,
        batch: DocumentBatch,
        noise: KeyedNoise,
        sources: Mapping[str, LatentSource] | None = None,
    ) -> HierarchyPass:
        """One pass from the top.

        features: bottom-up features by level, or None when every source is a prior or given.
        sources: where each level's z comes from; a level not named draws from its posterior.
        """
        sources = sources or {}
        for name in sources:
            if name not in self.levels:
                raise ValueError(f"there is no latent level '{name}'; this model's are {list(self.levels)}")
        passes: dict[str, LevelPass] = {}
        state = None  # top-down state of the units of the level above
        depth_above = 0
        for name, level in self.stack.items():
            depth = self.hierarchy.index(name)
            units = batch.levels[depth]
            if state is None:
                above = torch.zeros(len(units), self.width, device=units.parent.device)
            else:
                above = state[batch.ancestor(depth, depth_above)]
            labels = stop_labels(batch, depth, self.stop_heads.by_level[depth])
            draws = noise.normal(
                batch.document_key[units.document],
                name,
                units.index,
                level.latent_size,
                batch.sample[units.document],
            )
            passes[name] = level(
                above,
                None if features is None else features[name],
                units,
                labels,
                sources.get(name, "posterior"),
                draws,
            )
            if level.descend is not None:
                state = level.state_below(above, passes[name].z, labels)
                depth_above = depth
        return HierarchyPass(passes)
