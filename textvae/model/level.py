"""One latent level: its inference part (posterior) and its generative part (prior, structure).

Shapes: U units, K parallel documents, D unit width, F size of the encoder's states, Z latent size, E stop heads at this
level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache

from textvae.config import LevelConfig, UnitConfig
from textvae.data.batch import UnitLevel
from textvae.model.gaussian import DiagonalGaussian, raw_log_variance
from textvae.model.unit_transformer import UnitTransformer

START_DEVIATION = 0.5
"""Of every component of means that start from principal components: an eighth of a nat beside a standard normal."""
SMALLEST_DEVIATION = 1e-4
"""Of a component, beside the first: what varies less is noise of the arithmetic."""

LatentSource = Literal["posterior", "mean", "prior", "prior mean"] | Tensor
"""Where a level's z comes from: a posterior sample, the posterior mean, a prior sample, the prior mean, or given
[U, Z]. Both prior sources are ancestral: a unit's prior is given what was taken for the units before it."""


@dataclass(frozen=True)
class UnitFeatures:
    """What the posterior of a level reads of its units."""

    hidden: Tensor
    """[U, D] states, words and context of the unit and of what it is made of."""
    states: Tensor
    """[U, F] mean of the pretrained encoder's states alone, those of every sentence normalised."""

    def of(self, unit: int) -> UnitFeatures:
        """Those of one unit."""
        return UnitFeatures(self.hidden[unit, None], self.states[unit, None])

    def repeated(self, count: int) -> UnitFeatures:
        """Those of all units, `count` times one after the other."""
        return UnitFeatures(self.hidden.repeat(count, 1), self.states.repeat(count, 1))


@dataclass(frozen=True)
class StructureScores:
    """Whether units end their parents: Bernoulli logits of the stop heads and what is so."""

    logits: Tensor
    """[U, E]"""
    labels: Tensor
    """[U, E] 1 where a parent ends, -1 where it goes on, 0 where the question does not arise."""

    @property
    def log_prob(self) -> Tensor:
        """[U] in nats."""
        return (F.logsigmoid(self.labels * self.logits.float()) * self.labels.abs()).sum(-1)


@dataclass(frozen=True)
class LevelPass:
    """What one level did for a batch."""

    name: str
    z: Tensor
    """[U, Z]"""
    prior: DiagonalGaussian
    posterior: DiagonalGaussian | None
    """None when nothing was inferred at this level."""
    structure: StructureScores

    @property
    def rate(self) -> Tensor:
        """KL(posterior || prior) of every unit and dimension [U, Z], nats."""
        if self.posterior is None:
            raise ValueError(f"level '{self.name}' was not inferred, so it has no rate")
        return self.posterior.kl(self.prior)


@dataclass
class LevelState:
    """Where K parallel documents stand when the units of a level are drawn one after the other."""

    previous: Tensor
    """[K, D] what the next unit knows of the one before."""
    cache: DynamicCache | None
    first: bool = True

    def select(self, indices: Tensor) -> LevelState:
        """Document k goes on from where document indices[k] stands; this state is used up."""
        if self.cache is not None:
            self.cache.batch_select_indices(indices)
        return LevelState(self.previous[indices], self.cache, self.first)


class Level(nn.Module):
    """Prior, structure and posterior of the units of one level.

    `above` [U, D] is the top-down state of a unit's ancestors: all that the level knows of them.
    """

    def __init__(
        self,
        config: LevelConfig,
        units: UnitConfig,
        feature_size: int,
        *,
        num_stops: int,
        is_root: bool,
        has_parent: bool,
        has_child: bool,
    ) -> None:
        """`feature_size`: F, of the states that have a linear path to the posterior's mean; 0 for none. `is_root`: one
        unit a document, so there are no siblings; `has_parent`, `has_child`: whether another latent level stands above,
        below."""
        super().__init__()
        self.name = config.name
        self.latent_size = config.latent_size
        self.posterior_sees_ancestors = config.posterior_sees_ancestors
        self.has_parent = has_parent
        width, size = units.width, config.latent_size
        self.posterior = _perceptron(2 * width, width, 2 * size)
        output = cast(nn.Linear, self.posterior[-1])
        nn.init.zeros_(output.weight[size:])
        nn.init.constant_(output.bias[size:], raw_log_variance(config.initial_posterior_std))
        self.linear = nn.Linear(feature_size, size, bias=False) if feature_size else None
        if self.linear is not None:
            nn.init.zeros_(self.linear.weight)
        self.siblings = None
        if config.prior == "autoregressive" and not is_root:
            self.siblings = UnitTransformer(units, causal=True)
            self.previous = nn.Linear(size + num_stops, width)
            self.beginning = nn.Parameter(torch.zeros(width))
        # Without parent or predecessor the prior is N(0, I) and has no parameters.
        self.prior = nn.Linear(width, 2 * size) if has_parent or self.siblings is not None else None
        if self.prior is not None:
            nn.init.zeros_(self.prior.weight)
            nn.init.zeros_(self.prior.bias)
        self.structure = _perceptron(width + size, width, num_stops) if num_stops else None
        self.descend = _perceptron(width + size + num_stops, width, width) if has_child else None

    def forward(
        self,
        above: Tensor,
        features: UnitFeatures | None,
        level: UnitLevel,
        labels: Tensor,
        source: LatentSource,
        noise: Tensor,
    ) -> LevelPass:
        """All units in parallel. `features` may be None when `source` needs no posterior; `noise` [U, Z]."""
        posterior = None if features is None else self.infer(features, above)
        if isinstance(source, Tensor):
            z = source
        elif source in ("prior", "prior mean"):
            z = self.sample_prior(above, level, labels, noise if source == "prior" else torch.zeros_like(noise))
        elif posterior is None:
            raise ValueError(f"level '{self.name}': source '{source}' needs the text's features")
        else:
            z = posterior.sample(noise) if source == "posterior" else posterior.mean
        state = self._states(above, z, level, labels)
        return LevelPass(
            self.name, z, self._prior(state, level.index == 0), posterior, self._structure(state, z, labels)
        )

    def infer(self, features: UnitFeatures, above: Tensor) -> DiagonalGaussian:
        """q(z | ancestors, text) of every unit, siblings in parallel.

        The mean is the sum of what a perceptron makes of all that is known and of a linear map of the encoder's states
        alone: what the former learns of its training text does not carry over to text of another kind, a projection of
        the latter does.
        """
        seen = above if self.posterior_sees_ancestors else torch.zeros_like(above)
        parameters = self.posterior(torch.cat([features.hidden, seen], dim=-1))
        if self.linear is not None:
            parameters = parameters + F.pad(self.linear(features.states), (0, self.latent_size))
        return DiagonalGaussian.from_parameters(parameters)

    @torch.no_grad()
    def start_linear(self, states: Tensor) -> None:
        """Let the means of fresh posteriors be the principal components of the encoder's `states` [N, F], less their
        own mean, each of deviation `START_DEVIATION`; where F or N is small, the last dimensions stay at 0."""
        assert self.linear is not None
        centre = states.mean(0)
        _, deviations, directions = torch.linalg.svd(states - centre, full_matrices=False)
        count = min(self.latent_size, int((deviations > SMALLEST_DEVIATION * deviations[0]).sum()))
        scale = START_DEVIATION * len(states) ** 0.5 / deviations[:count, None]
        self.linear.weight.zero_()
        self.linear.weight[:count] = directions[:count] * scale
        output = cast(nn.Linear, self.posterior[-1])
        output.weight[: self.latent_size].zero_()
        output.bias[: self.latent_size] = -self.linear.weight @ centre

    def state_below(self, above: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        """The top-down state [U, D] that the children of these units stand under."""
        if self.descend is None:
            raise AssertionError(f"level '{self.name}' has no level below")
        return above + self.descend(torch.cat([above, z, labels], dim=-1))

    def start(self, above: Tensor) -> LevelState:
        """The state before the first unit of K documents, for `next_prior` and `commit`; above [K, D]."""
        if self.siblings is None:
            return LevelState(torch.zeros_like(above), None)
        return LevelState(self.beginning.expand_as(above), self.siblings.start())

    def next_prior(self, state: LevelState, above: Tensor) -> tuple[Tensor, DiagonalGaussian]:
        """The next unit's hidden state [K, D] and p(z) given the units committed so far and `above` [K, D]."""
        hidden = above
        if self.siblings is not None and state.cache is not None:
            hidden = self.siblings.step(above + state.previous, state.cache)
        first = torch.full((len(above),), state.first, device=above.device)
        return hidden, self._prior(hidden, first)

    def commit(self, state: LevelState, z: Tensor, labels: Tensor) -> None:
        """Enter the next unit into `state`: its z [K, Z] and stop labels [K, E]."""
        state.first = False
        if self.siblings is not None:
            state.previous = self.previous(torch.cat([z, labels], dim=-1))

    def stop_logits(self, hidden: Tensor, z: Tensor) -> Tensor:
        """[U, E]"""
        if self.structure is None:
            return z.new_zeros(len(z), 0)
        return self.structure(torch.cat([hidden, z], dim=-1))

    def sample_prior(self, above: Tensor, level: UnitLevel, labels: Tensor, noise: Tensor) -> Tensor:
        """Ancestral samples [U, Z] for a given structure, one unit of every document at a time."""
        if self.siblings is None:
            return self._prior(above, level.index == 0).sample(noise)
        num_documents = int(level.document.max()) + 1
        longest = int(level.index.max()) + 1
        # Documents that have ended go on with unit 0's inputs; what they draw is not kept.
        unit = torch.zeros(num_documents, longest, dtype=torch.long, device=above.device)
        unit[level.document, level.index] = torch.arange(len(level), device=above.device)
        state = self.start(above[unit[:, 0]])
        drawn = []
        for column in unit.unbind(dim=1):
            _, prior = self.next_prior(state, above[column])
            drawn.append(prior.sample(noise[column]))
            self.commit(state, drawn[-1], labels[column])
        return torch.stack(drawn, dim=1)[level.document, level.index]

    def _states(self, above: Tensor, z: Tensor, level: UnitLevel, labels: Tensor) -> Tensor:
        if self.siblings is None:
            return above
        known = self.previous(torch.cat([z, labels], dim=-1))
        before = torch.cat([known[:1], known[:-1]])
        before = torch.where((level.index == 0)[:, None], self.beginning.to(before.dtype), before)
        return self.siblings(above + before, level.rows)

    def _prior(self, state: Tensor, first: Tensor) -> DiagonalGaussian:
        if self.prior is None:
            return DiagonalGaussian.standard((len(state), self.latent_size), state.device)
        parameters = self.prior(state)
        if not self.has_parent:
            parameters = torch.where(first[:, None], torch.zeros_like(parameters), parameters)
        return DiagonalGaussian.from_parameters(parameters)

    def _structure(self, state: Tensor, z: Tensor, labels: Tensor) -> StructureScores:
        return StructureScores(self.stop_logits(state, z), labels)


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
