"""The levels stacked: one top-down pass for training, scoring, sampling and replaying.

Shapes: U_l units of level l, D unit width, Z_l latent size, E structure events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from textvae.config import LevelConfig, UnitConfig
from textvae.data.batch import DocumentBatch
from textvae.model.level import LatentSource, Level, LevelPass
from textvae.model.noise import KeyedNoise


@dataclass(frozen=True)
class HierarchyPass:
    levels: dict[str, LevelPass]
    """Top first."""

    @property
    def z(self) -> dict[str, Tensor]:
        return {name: level.z for name, level in self.levels.items()}


@dataclass(frozen=True)
class EventPlan:
    """Which model part tells the end of which level's units.

    The end of a unit is told by the latent of the level itself; for a level without latent, by the nearest
    latent level below it (at its last unit); where there is none, by the decoder at the sentence end. So
    every model, the plain language model included, scores the same events.
    """

    hosts: dict[int, tuple[int, ...]]
    """Level number of a latent level -> numbers of the levels whose ends it tells, lowest first."""
    decoder: tuple[int, ...]
    """Numbers of the levels whose ends the decoder tells, lowest first."""

    @classmethod
    def of(cls, hierarchy: Sequence[str], latent_levels: Sequence[str]) -> EventPlan:
        latent = {hierarchy.index(name) for name in latent_levels}
        lowest = len(hierarchy) - 1
        hosts = {number: _silent_above(number, latent) for number in latent}
        return cls(hosts, () if lowest in latent else _silent_above(lowest, latent))


def _silent_above(start: int, latent: set[int]) -> tuple[int, ...]:
    """`start` and the levels above it up to, not including, the next latent one; the root's end is no event."""
    told: list[int] = []
    for number in range(start, 0, -1):
        if number != start and number in latent:
            break
        told.append(number)
    return tuple(told)


def structure_events(batch: DocumentBatch, host: int, told: Sequence[int]) -> Tensor:
    """[U_host, E]: 1 where a unit of a `told` level ends its parent, -1 where not, 0 before its last part."""
    level = batch.levels[host]
    unit = torch.arange(len(level), device=level.parent.device)
    asked = torch.ones(len(level), device=unit.device)
    columns = []
    for number in told:
        last = batch.levels[number].last[unit].float()
        columns.append(asked * (2 * last - 1))
        asked = asked * last
        unit = batch.levels[number].parent[unit]
    return torch.stack(columns, dim=1) if columns else asked.new_zeros(len(level), 0)


class Hierarchy(nn.Module):
    """Latent levels, top first."""

    def __init__(self, hierarchy: Sequence[str], levels: Sequence[LevelConfig], units: UnitConfig) -> None:
        super().__init__()
        self.hierarchy = tuple(hierarchy)
        self.width = units.width
        self.plan = EventPlan.of(hierarchy, [level.name for level in levels])
        self.levels = nn.ModuleDict()
        for order, config in enumerate(levels):
            number = self.hierarchy.index(config.name)
            self.levels[config.name] = Level(
                config,
                units,
                num_events=len(self.plan.hosts[number]),
                is_root=number == 0,
                has_parent=order > 0,
                has_child=order < len(levels) - 1,
            )

    @property
    def stack(self) -> dict[str, Level]:
        """The levels by name, top first."""
        return cast(dict[str, Level], dict(self.levels.items()))

    def forward(
        self,
        features: Mapping[str, Tensor] | None,
        batch: DocumentBatch,
        noise: KeyedNoise,
        sources: Mapping[str, LatentSource] | None = None,
    ) -> HierarchyPass:
        """One pass from the top.

        features: bottom-up features [U_l, D] by level, or None when every source is a prior or given.
        sources: where each level's z comes from; a level not named draws from its posterior.
        """
        sources = sources or {}
        for name in sources:
            if name not in self.levels:
                raise ValueError(f"there is no latent level '{name}'; this model's are {list(self.levels)}")
        passes: dict[str, LevelPass] = {}
        state = None  # top-down state of the units of the level above
        number_above = 0
        for name, level in self.stack.items():
            number = self.hierarchy.index(name)
            units = batch.levels[number]
            if state is None:
                above = torch.zeros(len(units), self.width, device=units.parent.device)
            else:
                above = state[batch.ancestor(number, number_above)]
            events = structure_events(batch, number, self.plan.hosts[number])
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
                events,
                sources.get(name, "posterior"),
                draws,
            )
            if level.descend is not None:
                state = level.state_below(above, passes[name].z, events)
                number_above = number
        return HierarchyPass(passes)
