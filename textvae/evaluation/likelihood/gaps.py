"""How far the likelihood estimators stay below the exact value, on linear-Gaussian hierarchies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from textvae.evaluation.likelihood.estimators import LikelihoodEstimate, elbo, iwae, smc
from textvae.evaluation.likelihood.linear_gaussian import GaussianDocument, LinearGaussianHierarchy, document

SAMPLES = (16, 64, 256)


def informed_smc(doc: GaussianDocument, samples: int) -> LikelihoodEstimate:
    return smc(replace(doc, sibling_informed=True), samples, doc.seed)


ESTIMATORS: dict[str, Callable[[GaussianDocument, int], LikelihoodEstimate]] = {
    "elbo": elbo,
    "iwae": iwae,
    "smc, filtering": lambda doc, samples: smc(doc, samples, doc.seed, target="filtering"),
    "smc, annealed": lambda doc, samples: smc(doc, samples, doc.seed, target="annealed"),
    "smc": lambda doc, samples: smc(doc, samples, doc.seed),
    "smc, sibling-informed": informed_smc,
}


@dataclass(frozen=True)
class Gap:
    """Nats between the truth and an estimate, over documents and runs."""

    estimator: str
    samples: int
    gap: float
    standard_error: float


def measure_gaps(model: LinearGaussianHierarchy, documents: int, runs: int) -> list[Gap]:
    """One gap for every estimator and number of samples, over `documents`, each with the noise of as many `runs`."""
    gaps: dict[tuple[str, int], list[float]] = {}
    for number in range(documents):
        base = document(model, number, seed=0)
        truth = model.log_likelihood(base.observation)
        for run in range(runs):
            # Noise is keyed by the seed, which must differ between documents too.
            doc = replace(base, seed=number * runs + run)
            for name, estimator in ESTIMATORS.items():
                for samples in SAMPLES:
                    estimate = estimator(doc, samples).log_likelihood
                    gaps.setdefault((name, samples), []).append(truth - estimate)
    return [
        Gap(name, samples, fmean(values), stdev(values) / math.sqrt(len(values)))
        for (name, samples), values in gaps.items()
    ]
