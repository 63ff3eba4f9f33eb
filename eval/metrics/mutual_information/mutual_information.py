"""Mutual information of text and latent, as a Hugging Face `evaluate` module around textvae's own definition."""

import math
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Sequence, Value

from textvae.evaluation.accumulation import AccumulatedMetric, matrix
from textvae.evaluation.diagnostics.statistics import mutual_information
from textvae.model.gaussian import DiagonalGaussian

DESCRIPTION = """
I(unit; z) in nats under the aggregate posterior over the units of one level, for diagonal Gaussian posteriors: how well
the latent tells the units apart. The estimate cannot exceed log(units), its ceiling: close to it, add more units.
Takes time in proportion to the square of the number of units.
"""
INPUTS = """
Args, one row [latent size] for each unit of one level:
    posterior_mean, posterior_log_variance: of q(z | x).
    sample: one draw from that posterior.
Returns:
    units.
    mutual_information: mean of log q(sample | unit) - log mean over all units of q(sample | unit'), nats.
    mutual_information_ceiling: log(units).
"""
CITATION = """
@inproceedings{hoffman2016elbo,
  title={ELBO surgery: yet another way to carve up the variational evidence lower bound},
  author={Hoffman, Matthew D and Johnson, Matthew J},
  booktitle={NIPS Workshop in Advances in Approximate Bayesian Inference},
  year={2016}
}
"""


class MutualInformation(AccumulatedMetric):
    def _info(self) -> evaluate.MetricInfo:
        columns = dict.fromkeys(("posterior_mean", "posterior_log_variance", "sample"), Sequence(Value("float32")))
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation=CITATION, inputs_description=INPUTS, features=Features(columns)
        )

    def _compute(self, **columns: np.ndarray) -> dict[str, Any]:
        moments = {name: matrix(name, values) for name, values in columns.items()}
        posterior = DiagonalGaussian(moments["posterior_mean"], moments["posterior_log_variance"])
        units = len(posterior.mean)
        return {
            "units": units,
            "mutual_information": mutual_information(posterior, moments["sample"]),
            "mutual_information_ceiling": math.log(units),
        }
