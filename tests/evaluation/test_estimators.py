"""The estimators against a model whose log-likelihood is known exactly.

Noise is keyed, so every number here is the same on every run; the margins are those of the Monte Carlo error.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from textvae.evaluation.likelihood import LikelihoodEstimate, elbo, iwae, smc
from textvae.evaluation.likelihood.linear_gaussian import (
    GaussianDocument,
    LinearGaussianHierarchy,
    document,
    gaussian_log_density,
)
from textvae.evaluation.likelihood.particles import Target, effective_samples, ridge_fit, systematic

MEDIUM, STRONG = 0.3, 0.6
Estimator = Callable[[GaussianDocument], LikelihoodEstimate]


@cache
def small(coupling: float = STRONG, sentences: int = 12, dims: tuple[int, ...] = (3, 2, 2)) -> GaussianDocument:
    return document(LinearGaussianHierarchy(sentences, coupling, dims), document_seed=1, seed=0)


@cache
def long(coupling: float = MEDIUM) -> GaussianDocument:
    return document(LinearGaussianHierarchy(200, coupling), document_seed=1, seed=0)


def truth(doc: GaussianDocument) -> float:
    return doc.model.log_likelihood(doc.observation)


def errors(doc: GaussianDocument, estimator: Estimator, runs: int) -> Tensor:
    """Estimate minus truth [runs] under independent noise."""
    estimates = [estimator(replace(doc, seed=run)).log_likelihood for run in range(runs)]
    return torch.tensor(estimates, dtype=torch.float64) - truth(doc)


def standard_error(values: Tensor) -> float:
    return values.std().item() / len(values) ** 0.5


@pytest.mark.parametrize("dims", [(3, 2), (3, 2, 2), (3, 2, 2, 1)])
def test_the_truth_is_the_truth(dims: tuple[int, ...]) -> None:
    """log p(x) = log p(x, z) - log p(z | x) at any z, by densities that the dense marginal does not use."""
    doc = small(dims=dims)
    model = doc.model
    latents = torch.randn(model.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_joint = gaussian_log_density(latents, model.transition @ latents, model.scale)
    log_joint = log_joint + gaussian_log_density(doc.observation, model.emission @ latents, 1.0)
    mean = torch.linalg.solve(model.posterior_precision, model.emission.T @ doc.observation)
    posterior = torch.distributions.MultivariateNormal(mean, precision_matrix=model.posterior_precision)
    assert (log_joint - posterior.log_prob(latents)).item() == pytest.approx(truth(doc), abs=1e-8)


@pytest.mark.parametrize("estimator", ["elbo", "iwae", "smc"])
def test_bounds_are_below_the_truth_and_rise_with_samples(estimator: str) -> None:
    estimate = {"elbo": elbo, "iwae": iwae, "smc": lambda doc, samples: smc(doc, samples, doc.seed)}[estimator]
    few, many = (errors(small(), lambda doc, k=k: estimate(doc, k), runs=80) for k in (2, 256))
    for values in (few, many):
        assert values.mean() < 3 * standard_error(values)
    if estimator == "elbo":
        assert (few.mean() - many.mean()).abs() < 3 * standard_error(few)
    else:
        assert few.mean() < -0.8
        assert many.mean() > -0.4


# Filtering is as unbiased, but its weights have tails too heavy for an average of a hundred to show it.
EVIDENCE_ESTIMATORS: dict[str, Estimator] = {
    "iwae": lambda doc: iwae(doc, 128),
    "smc": lambda doc: smc(doc, 128, doc.seed),
    "smc, every leaf": lambda doc: smc(doc, 128, doc.seed, threshold=1.0),
    "annealed": lambda doc: smc(doc, 128, doc.seed, target="annealed", threshold=1.0),
    "sibling-informed": lambda doc: smc(replace(doc, sibling_informed=True), 128, doc.seed, threshold=1.0),
}


@pytest.mark.parametrize("name", EVIDENCE_ESTIMATORS)
def test_the_evidence_is_unbiased(name: str) -> None:
    """E[exp(estimate)] = p(x) exactly, also when every leaf is resampled: wrong annealing shows here."""
    ratio = errors(small(MEDIUM, sentences=7), EVIDENCE_ESTIMATORS[name], runs=125).exp()
    assert standard_error(ratio) < 0.05
    assert abs(ratio.mean().item() - 1) < 3 * standard_error(ratio)


@pytest.mark.parametrize("dims", [(3, 2), (2, 2, 2, 2)])
def test_the_evidence_is_unbiased_at_other_depths(dims: tuple[int, ...]) -> None:
    doc = small(MEDIUM, sentences=7, dims=dims)
    ratio = errors(doc, lambda doc: smc(doc, 128, doc.seed, threshold=1.0), runs=125).exp()
    assert standard_error(ratio) < 0.05
    assert abs(ratio.mean().item() - 1) < 3 * standard_error(ratio)


def test_the_exact_posterior_leaves_no_gap() -> None:
    """One-dimensional units without coupling have a posterior that mean field can express."""
    doc = small(coupling=0.0, sentences=60, dims=(1, 1, 1))
    assert elbo(doc, 1).log_likelihood == pytest.approx(truth(doc), abs=1e-8)
    assert iwae(doc, 16).min_effective_samples == pytest.approx(16)
    estimate = smc(doc, 64)
    assert estimate.log_likelihood == pytest.approx(truth(doc), abs=1e-8)
    assert estimate.resamplings == 0
    # Selecting on ancestors that have seen the future is what the twist prevents.
    assert smc(doc, 64, target="filtering").resamplings > 0


@pytest.mark.parametrize("target", ["filtering", "annealed", "regressed"])
def test_without_resampling_smc_is_iwae(target: Target) -> None:
    """Drawn in reading order or level by level, the same noise gives the same weights: they telescope."""
    for doc in (small(), long()):
        estimate = smc(doc, 24, target=target, threshold=0.0)
        assert estimate.resamplings == 0
        assert estimate.log_likelihood == pytest.approx(iwae(doc, 24).log_likelihood, abs=1e-8)


@pytest.mark.parametrize("samples_per_chunk", [1, 7, 64])
def test_chunks_change_nothing(samples_per_chunk: int) -> None:
    whole, chunked = iwae(small(), 20, 20), iwae(small(), 20, samples_per_chunk)
    assert chunked.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-10)
    assert elbo(small(), 20, samples_per_chunk).log_likelihood == pytest.approx(whole.curve[1], abs=1e-10)


def test_long_document_acceptance() -> None:
    """Where the ELBO's gap is 8 to 12 nats, smc with K = 64 is within 1.5 and below half of iwae's gap."""
    samples, runs = 64, 6
    gaps = {
        "elbo": -errors(long(), lambda doc: elbo(doc, samples), runs).mean(),
        "iwae": -errors(long(), lambda doc: iwae(doc, samples), runs).mean(),
        "smc": -errors(long(), lambda doc: smc(doc, samples, doc.seed), runs).mean(),
    }
    assert 8 < gaps["elbo"] < 12
    assert gaps["smc"] < min(1.5, gaps["iwae"] / 2)
    informed = replace(long(), sibling_informed=True)
    assert -errors(informed, lambda doc: smc(doc, samples, doc.seed), runs).mean() < 0.3


def test_wide_ancestors_do_not_make_smc_looser_than_iwae() -> None:
    """The text read so far has a score in every dimension of the ancestors; annealing alone selects on it."""
    doc = document(LinearGaussianHierarchy(100, 0.08, (16, 8, 4), observed=16), document_seed=1, seed=0)
    gap = {
        "iwae": -errors(doc, lambda doc: iwae(doc, 64), 6),
        "annealed": -errors(doc, lambda doc: smc(doc, 64, doc.seed, target="annealed"), 6),
        "regressed": -errors(doc, lambda doc: smc(doc, 64, doc.seed), 6),
    }
    assert gap["regressed"].mean() < gap["annealed"].mean() / 2
    assert gap["regressed"].mean() < gap["iwae"].mean() + 0.1


def test_convergence_curves() -> None:
    estimate = iwae(small(), 12)
    weights = small().joint_log_weights(12, 0)
    assert list(estimate.curve) == [12, 6, 3, 1]
    assert estimate.curve[1] == pytest.approx(weights.mean().item())
    groups = weights.view(4, 3).exp().mean(1).log()
    assert estimate.curve[3] == pytest.approx(groups.mean().item())
    systems = smc(small(), 12, curve=True)
    assert list(systems.curve) == [12, 6, 3, 1]
    assert systems.curve[12] == systems.log_likelihood
    # The systems share the sweep and no noise: the smallest one is the sample after all the others'.
    assert systems.curve[1] == pytest.approx(small().joint_log_weights(1, 21).item())


def test_curve_points_are_as_good_as_separate_runs() -> None:
    beside = errors(small(), lambda doc: _point(smc(doc, 32, doc.seed, curve=True), 8), 60)
    alone = errors(small(), lambda doc: smc(doc, 8, doc.seed), 60)
    assert abs(beside.mean() - alone.mean()) < 3 * (standard_error(beside) + standard_error(alone))


def _point(estimate: LikelihoodEstimate, samples: int) -> LikelihoodEstimate:
    return replace(estimate, log_likelihood=estimate.curve[samples])


def test_systematic_resampling_keeps_the_expected_counts() -> None:
    probabilities = torch.tensor([0.5, 0.06, 0.0, 0.34, 0.1], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    counts = torch.stack([systematic(probabilities, generator).bincount(minlength=5) for _ in range(4000)])
    torch.testing.assert_close(counts.double().mean(0), 5 * probabilities, atol=0.03, rtol=0)
    assert (counts - 5 * probabilities).abs().max() < 1


def test_ridge_fit_finds_slopes_where_there_are_any() -> None:
    generator = torch.Generator().manual_seed(0)
    features, noise = (torch.randn(400, columns, generator=generator, dtype=torch.float64) for columns in (5, 1))
    signal = features @ torch.tensor([1.0, -0.5, 0.0, 0.2, 0.7], dtype=torch.float64)
    fit = ridge_fit(features, signal + 0.5 * noise[:, 0] + 1000)
    assert (fit - (signal - signal.mean())).square().mean() < 0.01
    # Least squares would take more than a third of this pure noise for signal.
    shrunk = ridge_fit(features[:20], 5 * noise[:20, 0])
    assert shrunk.square().sum() < 0.2 * (5 * noise[:20, 0]).square().sum()
    assert ridge_fit(features[:2], signal[:2]).tolist() == [0.0, 0.0]


def test_effective_samples() -> None:
    assert effective_samples(torch.zeros(8)) == pytest.approx(8)
    assert effective_samples(torch.tensor([0.0, -100.0, -100.0]) + 5) == pytest.approx(1)


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ValueError, match="samples"):
        iwae(small(), 0)
    with pytest.raises(ValueError, match="samples_per_chunk"):
        elbo(small(), 4, 0)
    with pytest.raises(ValueError, match="threshold"):
        smc(small(), 4, threshold=2)
    broken = replace(small(), observation=torch.full_like(small().observation, torch.nan))
    with pytest.raises(ValueError, match="not finite"):
        smc(broken, 4)
