"""Likelihood estimates that are lower bounds in expectation.

They need only what `SequentialDocument` offers, so the code that scores the neural model is the code that
tests/evaluation/test_estimators.py proves on a model whose log-likelihood is known exactly.
"""

from textvae.evaluation.likelihood.estimators import LikelihoodEstimate, elbo, iwae, smc
from textvae.evaluation.likelihood.sequential import LeafIncrement, SequentialDocument, UnitDraw

__all__ = ["LeafIncrement", "LikelihoodEstimate", "SequentialDocument", "UnitDraw", "elbo", "iwae", "smc"]
