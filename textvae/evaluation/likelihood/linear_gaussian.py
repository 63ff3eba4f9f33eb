"""A hierarchical linear-Gaussian model of any depth, whose log-likelihood is known exactly.

Every unit's latent is linear in its ancestors' latents and in the latent of the unit before it on its level,
which may have another parent; every leaf emits a Gaussian vector, the stand-in for its tokens, that is linear
in its latent and its ancestors'. There are no structure events: given the latents they would only be further
factors of a leaf.

Latents of all units form one vector `z` [Z], level after level, top first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from textvae.evaluation.likelihood.sequential import LeafIncrement, UnitDraw

FAN_OUT = 5  # leaves per paragraph


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    size = max(rows, columns)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return basis[:rows, :columns]


def gaussian_log_density(values: Tensor, mean: Tensor, deviation: Tensor | float) -> Tensor:
    deviation = torch.as_tensor(deviation, dtype=values.dtype)
    standard = (values - mean) / deviation
    return (-0.5 * standard.square() - deviation.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


class LinearGaussianHierarchy:
    """z = transition z + scale * noise,  x = emission z + noise.

    Args:
        num_leaves: units of the lowest level; `FAN_OUT` of them make a unit of the level above; one root.
        coupling: weight of the unit before on a unit of the same level, 0 (independent siblings) to below 1.
        dims: latent size of each level, top first.
        observed: size of a leaf's observation.
    """

    def __init__(
        self,
        num_leaves: int,
        coupling: float,
        dims: tuple[int, ...] = (4, 3, 2),
        observed: int = 4,
        parent_weight: float = 0.7,
        seed: int = 0,
    ) -> None:
        self.num_leaves, self.dims, self.observed = num_leaves, dims, observed
        counts = [num_leaves]
        for _ in dims[1:]:
            counts.insert(0, -(-counts[0] // FAN_OUT))
        counts[0] = 1
        self.parents = [torch.arange(below) // (FAN_OUT if level else below) for level, below in enumerate(counts[1:])]
        offsets = torch.tensor([0, *(n * d for n, d in zip(counts, dims, strict=True))]).cumsum(0).tolist()
        self.units = [
            torch.arange(offsets[level], offsets[level + 1]).view(counts[level], dims[level])
            for level in range(len(dims))
        ]  # per level [U, D], places in z
        self.size = offsets[-1]
        self.ancestors = [
            [self._ancestors_of(level, unit) for unit in range(count)] for level, count in enumerate(counts)
        ]  # per level and unit, places in z of all ancestors, top first
        self.read_by = [
            torch.cat(pair) for pair in zip(self.ancestors[-1], self.units[-1], strict=True)
        ]  # per leaf, places in z that its observation depends on
        units_of = [torch.arange(num_leaves)]
        for parent in reversed(self.parents):
            units_of.insert(0, parent[units_of[0]])
        self.unit_of = [units.tolist() for units in units_of]  # per level and leaf, the unit that it is in
        self._fill_matrices(coupling, parent_weight, torch.Generator().manual_seed(seed))
        identity = torch.eye(self.size, dtype=torch.float64)
        whitened = (identity - self.transition) / self.scale[:, None]
        self.prior_precision = whitened.T @ whitened
        self.posterior_precision = self.prior_precision + self.emission.T @ self.emission

    def _fill_matrices(self, coupling: float, parent_weight: float, generator: torch.Generator) -> None:
        self.transition = torch.zeros(self.size, self.size, dtype=torch.float64)
        self.scale = torch.ones(self.size, dtype=torch.float64)
        for level in range(1, len(self.dims)):
            before = coupling * _orthonormal(self.dims[level], self.dims[level], generator)
            above = parent_weight * _orthonormal(self.dims[level], sum(self.dims[:level]), generator)
            for unit, place in enumerate(self.units[level]):
                share = 1 - coupling if unit else 1.0
                self.transition[place[:, None], self.ancestors[level][unit]] = share * above
                if unit:
                    self.transition[place[:, None], self.units[level][unit - 1]] = before
                self.scale[place] = math.sqrt((1 - parent_weight**2) * (1 - coupling**2 if unit else 1))
        blocks = [_orthonormal(self.observed, dim, generator) for dim in self.dims]
        self.emission = torch.zeros(self.num_leaves, self.observed, self.size, dtype=torch.float64)
        for leaf in range(self.num_leaves):
            self.emission[leaf][:, self.read_by[leaf]] = torch.cat(blocks, 1)
        self.emission = self.emission.flatten(0, 1)

    def _ancestors_of(self, level: int, unit: int) -> Tensor:
        places = [torch.zeros(0, dtype=torch.long)]
        for above in reversed(range(level)):
            unit = int(self.parents[above][unit])
            places.insert(0, self.units[above][unit])
        return torch.cat(places)

    def sample(self, seed: int) -> Tensor:
        """An observed document x [N * observed]."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(self.size + len(self.emission), generator=generator, dtype=torch.float64)
        identity = torch.eye(self.size, dtype=torch.float64)
        latents = torch.linalg.solve(identity - self.transition, self.scale * noise[: self.size])
        return self.emission @ latents + noise[self.size :]

    def log_likelihood(self, observation: Tensor) -> float:
        """Exact log p(x): the dense joint Gaussian of all observations."""
        covariance = self.emission @ torch.linalg.solve(self.prior_precision, self.emission.T)
        covariance = covariance + torch.eye(len(observation), dtype=torch.float64)
        mean = torch.zeros_like(observation)
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(observation).item()


@dataclass(frozen=True)
class MeanFieldPosterior:
    """q(z_u | ancestors) = N(offset + gain z, deviation^2), units independent given their ancestors."""

    offset: Tensor  # [Z]
    gain: Tensor  # [Z, Z], non-zero at a unit's ancestors only
    deviation: Tensor  # [Z]


def mean_field_posterior(model: LinearGaussianHierarchy, observation: Tensor) -> MeanFieldPosterior:
    """What training with the ELBO would approach: the mean-field optimum level by level.

    Per level, the exact p(level | levels above, x), lower levels marginalised, gives the means; other units
    of the upper levels, which q may not see, are replaced by their own q-mean given the unit's ancestors. The
    variances are the inverse diagonal of that conditional's precision, the minimum of KL(q || p), narrower
    than its marginals.
    """
    precision = model.posterior_precision
    mean = torch.linalg.solve(precision, model.emission.T @ observation)
    gain = torch.zeros_like(precision)
    deviation = torch.ones_like(mean)
    for level, units in enumerate(model.units):
        places, upper = units.flatten(), torch.arange(int(units[0, 0]))
        upto, lower = torch.cat([upper, places]), torch.arange(int(units[-1, -1]) + 1, model.size)
        cross = precision[upto][:, lower]
        marginal = precision[upto][:, upto] - cross @ torch.linalg.solve(precision[lower][:, lower], cross.T)
        own = marginal[len(upper) :, len(upper) :]
        deviation[places] = own.diagonal().rsqrt()
        exact_gain = -torch.linalg.solve(own, marginal[len(upper) :, : len(upper)])
        for unit, place in enumerate(units):
            ancestors = model.ancestors[level][unit]
            expected = torch.zeros(model.size, len(ancestors), dtype=torch.float64)
            expected[ancestors] = torch.eye(len(ancestors), dtype=torch.float64)
            for above in model.units[:level]:
                hidden = above[~torch.isin(above[:, 0], ancestors)].flatten()
                expected[hidden] = gain[hidden] @ expected
            gain[place[:, None], ancestors] = exact_gain[place - len(upper)] @ expected[upper]
    return MeanFieldPosterior(mean - gain @ mean, gain, deviation)


@dataclass(frozen=True)
class Particles:
    latents: Tensor  # [K, Z]
    expected: Tensor  # [K, Z] mean of q given the particle's ancestors
    noise: Tensor  # [K, Z] belongs to the slot


@dataclass(frozen=True)
class GaussianDocument:
    """`SequentialDocument` of one observation.

    With `sibling_informed`, `advance` draws from q shifted by what the earlier units of the level turned out
    to be: with d the departure of their prior mean from the one at their q-means, by (q variance / prior
    variance) d, as in a product of q with a prior whose mean has moved by d.
    """

    model: LinearGaussianHierarchy
    observation: Tensor
    posterior: MeanFieldPosterior
    seed: int
    sibling_informed: bool = False

    @property
    def num_leaves(self) -> int:
        return self.model.num_leaves

    @property
    def exposure(self) -> Tensor:
        rows = []
        for units in self.model.unit_of:
            counts = torch.tensor(units).bincount().tolist()
            rows.append(torch.cat([torch.arange(1, count + 1) / count for count in counts]))
        return torch.stack(rows)

    def _noise(self, num_samples: int, first_sample: int) -> Tensor:
        seeds = range(first_sample, first_sample + num_samples)
        generators = [torch.Generator().manual_seed(self.seed * 1_000_003 + sample) for sample in seeds]
        return torch.stack([torch.randn(self.model.size, generator=key, dtype=torch.float64) for key in generators])

    def start(self, num_particles: int) -> Particles:
        latents = torch.zeros(num_particles, self.model.size, dtype=torch.float64)
        return Particles(latents, latents.clone(), self._noise(num_particles, 0))

    def advance(self, state: Particles, leaf: int) -> tuple[Particles, LeafIncrement]:
        draws = {}
        for level, units in enumerate(self.model.unit_of):
            if leaf == 0 or units[leaf] != units[leaf - 1]:
                draws[level] = self._draw(state, level, units[leaf])
        rows = slice(leaf * self.model.observed, (leaf + 1) * self.model.observed)
        read = self.model.read_by[leaf]
        mean = state.latents[:, read] @ self.model.emission[rows][:, read].T
        return state, LeafIncrement(gaussian_log_density(self.observation[rows], mean, 1.0), draws)

    def _draw(self, state: Particles, level: int, unit: int) -> UnitDraw:
        """Writes one unit's latent into the state."""
        model, posterior = self.model, self.posterior
        place, ancestors = model.units[level][unit], model.ancestors[level][unit]
        scale, deviation = model.scale[place], posterior.deviation[place]
        above = state.latents[:, ancestors]
        prior_mean = above @ model.transition[place][:, ancestors].T
        mean = posterior.offset[place] + above @ posterior.gain[place][:, ancestors].T
        state.expected[:, place] = mean
        if unit and level:
            before = model.units[level][unit - 1]
            weight = model.transition[place][:, before].T
            prior_mean = prior_mean + state.latents[:, before] @ weight
            if self.sibling_informed:
                departure = (state.latents[:, before] - state.expected[:, before]) @ weight
                mean = mean + (deviation / scale).square() * departure
        innovation = state.noise[:, place]
        latent = mean + deviation * innovation
        state.latents[:, place] = latent
        log_prior = gaussian_log_density(latent, prior_mean, scale)
        return UnitDraw(log_prior - gaussian_log_density(latent, mean, deviation), innovation)

    def select(self, state: Particles, indices: Tensor) -> Particles:
        return Particles(state.latents[indices], state.expected[indices], state.noise)

    def joint_log_weights(self, num_samples: int, first_sample: int) -> Tensor:
        noise = self._noise(num_samples, first_sample)
        latents = torch.zeros_like(noise)
        posterior, model = self.posterior, self.model
        for units in model.units:
            places = units.flatten()
            mean = posterior.offset[places] + latents @ posterior.gain[places].T
            latents[:, places] = mean + posterior.deviation[places] * noise[:, places]
        log_prior = gaussian_log_density(latents, latents @ model.transition.T, model.scale)
        q_mean = posterior.offset + latents @ posterior.gain.T
        log_likelihood = gaussian_log_density(self.observation, latents @ model.emission.T, 1.0)
        return log_prior + log_likelihood - gaussian_log_density(latents, q_mean, posterior.deviation)


def document(
    model: LinearGaussianHierarchy, document_seed: int, seed: int, sibling_informed: bool = False
) -> GaussianDocument:
    """Document number `document_seed` of a model, scored with the noise of `seed`."""
    observation = model.sample(document_seed)
    posterior = mean_field_posterior(model, observation)
    return GaussianDocument(model, observation, posterior, seed, sibling_informed)
