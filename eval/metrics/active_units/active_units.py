"""Active units of one latent level, as a Hugging Face `evaluate` module around textvae's own definitions."""

from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from textvae.evaluation.accumulation import AccumulatedMetric, matrix
from textvae.evaluation.diagnostics.statistics import active_units, departure_variance, mean_variance
from textvae.model.gaussian import DiagonalGaussian

DESCRIPTION = """
Latent dimensions in use: those whose posterior mean departs from the prior's by more than 0.1 prior standard
deviations (variance over the units above 0.01), and, as `active_units_marginal`, those whose posterior mean has a
variance above 0.01. Under an N(0, I) prior the two are the same; below the root of a hierarchy the second also counts
means that merely follow the parent.
"""
INPUTS = """
Args, one row [latent size] for each unit of one level:
    posterior_mean: mean of q(z | x).
    prior_mean, prior_log_variance: of p(z | what stands above and before the unit); zeros for an N(0, I) prior.
Returns:
    dims, units.
    active_units: dimensions with Var((posterior_mean - prior_mean) / prior std) > 0.01.
    active_units_marginal: dimensions with Var(posterior_mean) > 0.01.
    variance_spectrum: Var((posterior_mean - prior_mean) / prior std) of every dimension, largest first.
"""
CITATION = """
@inproceedings{burda2016importance,
  title={Importance Weighted Autoencoders},
  author={Burda, Yuri and Grosse, Roger and Salakhutdinov, Ruslan},
  booktitle={International Conference on Learning Representations},
  year={2016}
}
"""


class ActiveUnits(AccumulatedMetric):
    def _info(self) -> evaluate.MetricInfo:
        columns = dict.fromkeys(("posterior_mean", "prior_mean", "prior_log_variance"), Sequence(Value("float32")))
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation=CITATION, inputs_description=INPUTS, features=Features(columns)
        )

    def _compute(self, **columns: np.ndarray) -> dict[str, Any]:
        moments = {name: matrix(name, values) for name, values in columns.items()}
        prior = DiagonalGaussian(moments["prior_mean"], moments["prior_log_variance"])
        # A variance of the posterior is not looked at: any will do.
        posterior = DiagonalGaussian(moments["posterior_mean"], prior.log_variance)
        departure = departure_variance(posterior, prior)
        units, dims = posterior.mean.shape
        return {
            "dims": dims,
            "units": units,
            "active_units": active_units(departure),
            "active_units_marginal": active_units(mean_variance(posterior.mean)),
            "variance_spectrum": departure.sort(descending=True).values.tolist(),
        }
