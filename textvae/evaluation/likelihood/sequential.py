"""What a model must offer so that its likelihood can be estimated.

Shapes: `K` particles (importance samples), `N` leaves (the units of text, in reading order), `L` levels with
latents, top first, `D` latent dimensions of a level. Everything is in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

State = TypeVar("State")


@dataclass(frozen=True)
class UnitDraw:
    """One unit's latent, drawn for every particle."""

    log_ratio: Tensor  # [K] log p(z | ancestors, earlier z of the level) - log (density it was drawn from)
    innovation: Tensor  # [K, D] the standard normal noise it was drawn with: (z - mean) / standard deviation


@dataclass(frozen=True)
class LeafIncrement:
    """What one leaf adds to the log weight of every particle."""

    log_likelihood: Tensor  # [K] tokens of the leaf, and structure events decided there
    draws: Mapping[int, UnitDraw]  # level -> the unit that starts at this leaf; other levels are absent


class SequentialDocument(Protocol[State]):
    """One document under one model, read leaf by leaf by K particles or scored in parallel over its leaves.

    `exposure` [L, N] is the fraction of the text of the unit above (or at) a leaf that has been scored once
    the leaf is done: 1 at a unit's last leaf, and always 1 at a level whose units are the leaves. Sample
    number k has the same noise in slot k of `advance` and in `joint_log_weights`. Noise belongs to the slot
    and not to the particle in it, so copies of a particle go separate ways.
    """

    @property
    def num_leaves(self) -> int: ...

    @property
    def exposure(self) -> Tensor: ...

    def start(self, num_particles: int) -> State:
        """Particles before the first leaf; slot k has the noise of sample k."""

    def advance(self, state: State, leaf: int) -> tuple[State, LeafIncrement]:
        """Draw the units that start at this leaf, parents first; score its tokens and structure events."""

    def select(self, state: State, indices: Tensor) -> State:
        """Slot k continues the particle of slot indices[k]; `indices` [K] is on the CPU."""

    def joint_log_weights(self, num_samples: int, first_sample: int) -> Tensor:
        """log p(x, s, z) - log q(z | x) of samples first_sample onwards [num_samples], all drawn from q."""
