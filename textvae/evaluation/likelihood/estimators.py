"""Lower bounds on the log-likelihood of one document: `elbo`, `iwae` and `smc`. Shapes as in `sequential`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from textvae.evaluation.likelihood.particles import ParticleSystem, Target, effective_samples, exact
from textvae.evaluation.likelihood.sequential import SequentialDocument, State


@dataclass(frozen=True)
class LikelihoodEstimate:
    """An estimate of log p(x, s) in nats; its expectation is a lower bound."""

    estimator: str
    samples: int
    log_likelihood: float
    curve: dict[int, float]  # the same bound with fewer samples: {K: nats}
    min_effective_samples: float
    resamplings: int = 0


def elbo(document: SequentialDocument[State], samples: int, samples_per_chunk: int = 16) -> LikelihoodEstimate:
    """Mean log weight: an unbiased estimate of the evidence lower bound, whatever the number of samples."""
    log_weights = _joint_log_weights(document, samples, samples_per_chunk)
    ess = effective_samples(log_weights)
    value = log_weights.mean().item()
    return LikelihoodEstimate("elbo", samples, value, {1: value}, ess)


def iwae(document: SequentialDocument[State], samples: int, samples_per_chunk: int = 16) -> LikelihoodEstimate:
    """Log of the mean weight over joint samples of all levels (Burda et al. 2016, eq. 8).

    Every point K' of the curve is the mean of the K'-sample estimate over disjoint groups of the same
    samples, hence unbiased for the K'-sample bound; a remainder that does not fill a group is left out.
    """
    log_weights = _joint_log_weights(document, samples, samples_per_chunk)
    ess = effective_samples(log_weights)
    curve = {}
    for size in _halvings(samples):
        groups = log_weights[: samples // size * size].view(-1, size)
        curve[size] = _log_mean_exp(groups).mean().item()
    return LikelihoodEstimate("iwae", samples, curve[samples], curve, ess)


def smc(
    document: SequentialDocument[State],
    samples: int,
    seed: int = 0,
    *,
    target: Target = "regressed",
    threshold: float = 0.5,
    curve: bool = False,
) -> LikelihoodEstimate:
    """Sequential Monte Carlo over the leaves in reading order, with self-fitted twists for the ancestors.

    Particles draw each unit from the posterior when its first leaf is reached and multiply up the exact
    weights w_n = prod p(z)/q(z) p(x | z) of what has been drawn. When the effective sample size of the
    resampling probabilities pi_n falls below `threshold` * K, they are resampled (systematically) with pi_n,
    and each survivor keeps the weight w_n / (K pi_n). After the last leaf the estimate is the log of the
    summed weights.

    *Why it is a bound.* Let h_n(z_1..n) be the expected product of all later factors; p(x) = E[w_n h_n] for
    each n. M_n = sum_k w_n^k h_n^k (with w_0 = 1/K) is a martingale: drawing leaf n + 1 leaves it unchanged
    in expectation by the definition of h_n, and so does resampling, because slot j has K pi_j children in
    expectation, each with weight w_j / (K pi_j). This holds for *any* positive pi_n computed from the
    particles so far, the ESS rule and the regression below included (Del Moral 2004, ch. 9; Whiteley, Lee &
    Heine 2016). Hence E[exp(estimate)] = p(x), and E[estimate] <= log p(x) by Jensen. The choice of pi_n
    moves the variance only.

    *Which pi_n.* The ideal is w_n h_n (the optimal twist, SIXO, Lawson et al. 2022), proportional to p(z_1..n
    | x) / q(z_1..n | x): flat where q is right. `filtering` takes w_n, although q has seen the text that is
    still to come. `annealed` lets log p/q of a unit enter in proportion to its exposure e. `regressed`
    (default) also subtracts what is linear in the innovations of the units that are not fully exposed. The
    score of the text read so far, at the posterior mean and in units of the posterior's deviation, is a
    Brownian bridge with variance e (1 - e) in every dimension, and the rest of the text takes it back.
    Selecting on it throws good ancestors away, the more the larger the upper latents. The slope is the ridge
    estimate from the particles themselves, with that variance as its prior. (Twists fitted by regression:
    controlled SMC, Heng et al. 2020.)

    With `curve`, smaller systems of K/2, K/4, ..., 1 other particles run beside the main one in the same
    sweep; each point is an honest estimate with that many particles, and the cost at most doubles.
    """
    _check_samples(samples)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a fraction of the particles, in [0, 1]; got {threshold}")
    generator = torch.Generator().manual_seed(seed)
    sizes = _halvings(samples) if curve else [samples]
    systems = [ParticleSystem(size, target, threshold) for size in sizes]
    _sweep(document, systems, generator)
    main = systems[0]
    ess = torch.tensor(main.effective_samples)
    return LikelihoodEstimate(
        estimator="smc",
        samples=samples,
        log_likelihood=main.log_likelihood(),
        curve={system.size: system.log_likelihood() for system in systems},
        min_effective_samples=ess.min().item(),
        resamplings=main.resamplings,
    )


def _sweep(document: SequentialDocument[State], systems: list[ParticleSystem], generator: torch.Generator) -> None:
    """Carry every system through the document; they share `advance` and nothing else."""
    bounds = [0]
    for system in systems:
        bounds.append(bounds[-1] + system.size)
    state = document.start(bounds[-1])
    exposure = exact(document.exposure)
    for leaf in range(document.num_leaves):
        state, increment = document.advance(state, leaf)
        survivors = torch.arange(bounds[-1])
        moved = False
        for system, begin, end in zip(systems, bounds, bounds[1:], strict=False):
            system.absorb(increment, slice(begin, end))
            if not torch.isfinite(system.log_weights).all():
                raise ValueError(f"a log weight is not finite after leaf {leaf}: score the model in float32")
            # Resampling after the last leaf could only add noise.
            indices = system.resample(exposure[:, leaf], generator) if leaf + 1 < document.num_leaves else None
            if indices is not None:
                survivors[begin:end] = begin + indices
                moved = True
        if moved:
            state = document.select(state, survivors)
    for system in systems:
        system.effective_samples.append(effective_samples(system.log_weights))


def _joint_log_weights(document: SequentialDocument[State], samples: int, samples_per_chunk: int) -> Tensor:
    _check_samples(samples)
    if samples_per_chunk < 1:
        raise ValueError(f"samples_per_chunk must be at least 1, got {samples_per_chunk}")
    starts = range(0, samples, samples_per_chunk)
    return torch.cat(
        [exact(document.joint_log_weights(min(samples_per_chunk, samples - start), start)) for start in starts]
    )


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")


def _halvings(samples: int) -> list[int]:
    return [samples >> shift for shift in range(samples.bit_length())]


def _log_mean_exp(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, -1) - math.log(log_weights.shape[-1])
