"""The objective: what the model returns, turned into a loss. Only this module knows beta.

    minimise  distortion + sum over levels of beta_l(t) * regularised rate_l (+ weight * auxiliary losses)

Shapes: B documents, U_l units of level l, Z_l latent size. All amounts are nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from textvae.config import ObjectiveConfig, RatePolicy
from textvae.data.batch import DocumentBatch
from textvae.model.vae import VAEOutput
from textvae.training.schedules import beta

MOMENTUM = 0.9
"""Of the running mean of rates that clamps and controllers look at."""
SCALE_LIMIT = math.log(100.0)
"""The controller scales beta by at most this factor up or down."""
COLLAPSED = 0.2
"""Nats per unit: a level whose running mean rate falls below, under pressure, counts as collapsed."""


@dataclass(frozen=True)
class ElboTerms:
    """Every term of the negative ELBO, raw, for every document."""

    distortion_tokens: Tensor
    """[B]"""
    distortion_structure: Tensor
    """[B]"""
    rate: dict[str, Tensor]
    """[B] by level."""
    rate_by_dimension: dict[str, Tensor]
    """[Z_l] by level, summed over units."""
    bag_of_words: Tensor | None = None
    """[B] the words as predicted from the top latent alone: an auxiliary loss, no part of the ELBO."""
    similarity: Tensor | None = None
    """[B] how differently the latents and the encoder see which others of the batch it is like, once for each of its
    predicted tokens: another."""

    @property
    def negative_elbo(self) -> Tensor:
        """[B]"""
        return self.distortion_tokens + self.distortion_structure + sum(self.rate.values())


def distortions(output: VAEOutput, batch: DocumentBatch, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """-log p(text | z) and -log p(structure | z), each [B], summed in `dtype` (default: that of the scores)."""

    def negative(log_prob: Tensor, document: Tensor) -> Tensor:
        return -batch.by_document(log_prob.to(dtype), document)

    sentences = batch.levels[-1].document
    structure = negative(output.text.structure.log_prob, sentences)
    for name, level in output.hierarchy.levels.items():
        structure = structure + negative(level.structure.log_prob, batch.levels[batch.level_number(name)].document)
    return negative(output.text.token_log_prob, sentences[batch.token_sentence]), structure


def elbo_terms(output: VAEOutput, batch: DocumentBatch, with_similarity: bool = False) -> ElboTerms:
    """Sum what the model returned over each document of the batch."""
    tokens, structure = distortions(output, batch)
    rate, by_dimension = {}, {}
    for name, level in output.hierarchy.levels.items():
        rates = level.rate
        rate[name] = batch.by_document(rates.sum(-1), batch.levels[batch.level_number(name)].document)
        by_dimension[name] = rates.sum(0)
    bag = None
    if output.bag is not None:
        bag = -batch.by_document(output.bag.token_log_prob, batch.levels[-1].document[batch.token_sentence])
    similarity = None
    if with_similarity and output.states is not None:
        name, top = next(iter(output.hierarchy.levels.items()))
        assert top.posterior is not None
        number = batch.level_number(name)
        unit = batch.ancestor(len(batch.levels) - 1, number)[batch.token_sentence]
        unlike = similarity_loss(top.posterior.mean, output.states) * unit.bincount(minlength=len(top.z))
        similarity = batch.by_document(unlike, batch.levels[number].document)
    return ElboTerms(tokens, structure, rate, by_dimension, bag, similarity)


def similarity_loss(means: Tensor, states: Tensor) -> Tensor:
    """[U] mean over the other units of the squared difference of two cosines: that of the latents' means [U, Z],
    standardised as an index does it, and that of the encoder's states [U, F], less their mean.

    With a latent that is linear in the states this is classical scaling (Torgerson 1952), whose solution are principal
    components. The scale of a dimension does not matter, so what only search needs costs next to no rate. The units are
    those of one micro-batch: unlike all other terms it changes with how a global batch is shared out over processes and
    micro-batches.
    """
    variance, mean = torch.var_mean(means, dim=0, correction=0)
    ours = F.normalize((means - mean) * (variance + torch.finfo(variance.dtype).eps).rsqrt(), dim=-1)
    theirs = F.normalize(states - states.mean(0), dim=-1)
    return (ours @ ours.T - theirs @ theirs.T).square().sum(1) / max(1, len(means) - 1)


class RateRegulariser:
    """One level's policy and what it remembers of earlier steps.

    Clamps and controllers look at the running mean of rates that were reduced over all processes and
    accumulation steps, so neither changes the objective.
    """

    def __init__(self, policy: RatePolicy) -> None:
        self.policy = policy
        self.mean_rate: Tensor | None = None
        """[Z] nats per unit and dimension, None before the first step."""
        self.log_scale = 0.0
        """What the controller has added to log beta."""

    def weight(self, progress: float) -> Tensor | float:
        """Weight of every dimension's rate, [Z] or one for all."""
        weight = beta(self.policy, progress) * math.exp(self.log_scale)
        if self.mean_rate is None or not self.policy.free_bits:
            return weight
        # max(rate, free bits) has no gradient below the threshold (Kingma et al. 2016, eq. 15).
        return weight * (self.mean_rate >= self.policy.free_bits).float()

    def update(self, rate: Tensor, progress: float) -> None:
        """Take in the mean rate [Z] per unit of one optimiser step."""
        self.mean_rate = rate if self.mean_rate is None else MOMENTUM * self.mean_rate + (1 - MOMENTUM) * rate
        if self.policy.target_rate is not None and beta(self.policy, progress) > 0:
            # Integral control of log beta (after Shao et al. 2020); the limit keeps it from winding up.
            error = math.log(max(float(self.mean_rate.sum()), 1e-6) / self.policy.target_rate)
            scale = self.log_scale + self.policy.controller_gain * max(-1.0, min(1.0, error))
            self.log_scale = max(-SCALE_LIMIT, min(SCALE_LIMIT, scale))


class Objective:
    """The loss and the state of its regularisers; checkpointed with the model."""

    def __init__(self, config: ObjectiveConfig, levels: tuple[str, ...], steps: int) -> None:
        self.config = config
        self.steps = steps
        self.regularisers = {name: RateRegulariser(config.policy(name)) for name in levels}

    def weights(self, step: int) -> dict[str, Tensor | float]:
        """Weight of every level's rate at `step`, [Z_l] or a number."""
        progress = step / self.steps
        weights = {name: level.weight(progress) for name, level in self.regularisers.items()}
        if progress < self.config.balance_until:
            shares = self._shares()
            weights = {name: weight * shares[name] for name, weight in weights.items()}
        return weights

    def loss(self, terms: ElboTerms, weights: Mapping[str, Tensor | float]) -> Tensor:
        """Sum over the batch, in nats, to be divided once by the tokens of the global batch."""
        loss = terms.distortion_tokens.sum() + terms.distortion_structure.sum()
        for name, weight in weights.items():
            loss = loss + (weight * terms.rate_by_dimension[name]).sum()
        if terms.bag_of_words is not None:
            loss = loss + self.config.bag_of_words * terms.bag_of_words.sum()
        if terms.similarity is not None:
            loss = loss + self.config.similarity * terms.similarity.sum()
        return loss

    def terms(self, output: VAEOutput, batch: DocumentBatch) -> ElboTerms:
        """What `loss` is made of."""
        return elbo_terms(output, batch, with_similarity=self.config.similarity > 0)

    @property
    def asks(self) -> dict[str, Any]:
        """What the objective asks of the model's forward pass."""
        return {"likelihood": self.config.likelihood, "with_bag": self.config.bag_of_words > 0}

    def collapsed(self, step: int) -> dict[str, float]:
        """Levels whose rate has vanished since pressure on it began, with their rates in nats per unit."""
        rates = {
            name: float(level.mean_rate.sum())
            for name, level in self.regularisers.items()
            if level.mean_rate is not None and beta(level.policy, step / self.steps) > 0
        }
        return {name: rate for name, rate in rates.items() if rate < COLLAPSED}

    def update(self, step: int, mean_rates: Mapping[str, Tensor]) -> None:
        """Take in the mean rate per unit [Z_l] of every level over the whole global batch of `step`."""
        for name, rate in mean_rates.items():
            self.regularisers[name].update(rate, step / self.steps)

    def _shares(self) -> dict[str, float]:
        """Balance over levels (Vahdat & Kautz 2020, NVAE): in proportion to the rate, one on average."""
        rates = {
            name: 1.0 if level.mean_rate is None else float(level.mean_rate.sum())
            for name, level in self.regularisers.items()
        }
        mean = max(sum(rates.values()) / max(1, len(rates)), 1e-8)
        return {name: rate / mean for name, rate in rates.items()}

    def state_dict(self) -> dict[str, Any]:
        return {n: {"mean_rate": r.mean_rate, "log_scale": r.log_scale} for n, r in self.regularisers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, values in state.items():
            self.regularisers[name].mean_rate = values["mean_rate"]
            self.regularisers[name].log_scale = values["log_scale"]
