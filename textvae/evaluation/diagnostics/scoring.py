"""What a batch costs under one choice of latents, and how much more without one level's.

Shapes: B documents, N predicted tokens. Amounts are nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from textvae.data.batch import DocumentBatch
from textvae.model.hierarchy import HierarchyPass
from textvae.model.level import LatentSource, UnitFeatures
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE
from textvae.training.objective import distortions


@dataclass(frozen=True)
class Scores:
    passed: HierarchyPass
    token_nll: Tensor
    """[N]"""
    tokens: Tensor
    """[B] distortion of the text, float64."""
    structure: Tensor
    """[B] distortion of the structure, float64."""
    rate: dict[str, Tensor]
    """[B] by level, float64; empty when nothing was inferred."""

    @property
    def distortion(self) -> Tensor:
        """[B] of tokens and structure."""
        return self.tokens + self.structure

    def cost(self, levels: tuple[str, ...]) -> Tensor:
        """[B] distortion and the rates of `levels`."""
        return self.distortion + sum(self.rate[name] for name in levels)


class Scorer:
    """Scores one batch under different latents, always with the same noise."""

    def __init__(
        self, model: DocumentVAE, batch: DocumentBatch, features: Mapping[str, UnitFeatures] | None, noise: KeyedNoise
    ) -> None:
        """features: as of `DocumentVAE.features`; None when all latents are going to be given."""
        self.model = model
        self.batch = batch
        self.features = features
        self.noise = noise

    @torch.no_grad()
    def __call__(self, sources: Mapping[str, LatentSource]) -> Scores:
        """`sources`: where each level's z comes from; a level not named draws from its posterior."""
        batch = self.batch
        passed = self.model.hierarchy(self.features, batch, self.noise, sources)
        output = self.model.score(passed, batch)
        tokens, structure = distortions(output, batch, torch.float64)
        rate = {
            name: batch.by_document(level.rate.sum(-1).double(), batch.levels[batch.level_number(name)].document)
            for name, level in passed.levels.items()
            if level.posterior is not None
        }
        return Scores(passed, -output.text.token_log_prob, tokens, structure, rate)


@dataclass(frozen=True)
class LevelEffects:
    """What a batch pays for one level, and what it would pay without it; each [B] on the CPU."""

    rate: Tensor
    nll_when_zeroed: Tensor
    """Increase of the distortion with the level at its prior mean, all other samples kept."""
    saved: Tensor
    """Increase of distortion and lower rates with the level drawn from its prior, lower levels inferred again."""
    saved_over_prior_mean: Tensor
    """The same with the level at its prior mean."""


def level_effects(score: Scorer, reference: Scores, name: str) -> LevelEffects:
    """`reference`: the batch with every level drawn from its posterior."""
    names = tuple(reference.passed.levels)
    below = names[names.index(name) + 1 :]
    # The levels above draw the same samples again: the noise is keyed.
    kept = {lower: reference.passed.z[lower] for lower in below}
    without = score({name: "prior mean"})
    zeroed = score({name: "prior mean", **kept}) if below else without
    drawn = score({name: "prior"})
    return LevelEffects(
        reference.rate[name].cpu(),
        (zeroed.distortion - reference.distortion).cpu(),
        (drawn.cost(below) - reference.cost(below)).cpu(),
        (without.cost(below) - reference.cost(below)).cpu(),
    )
