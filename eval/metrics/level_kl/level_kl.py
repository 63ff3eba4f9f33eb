"""Rate of every latent level, as a Hugging Face `evaluate` module around textvae's own definition."""

import math
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value

from textvae.evaluation.accumulation import AccumulatedMetric
from textvae.training.sums import mean_rates

DESCRIPTION = """
KL(posterior || prior) of every level of a hierarchical VAE, raw: per unit of the level (a document, a paragraph, a
sentence) and per document, in nats.
"""
INPUTS = """
Args, one row for each unit of each level:
    kl: KL(posterior || prior) of the unit, nats, summed over its dimensions, neither weighted nor clamped.
    level: name of the unit's level.
    document: id of the unit's document, the same at all levels and different for different documents.
Returns:
    documents: distinct documents, at whatever level.
    units: {level: number}.
    rate_per_unit, rate_per_document: {level: nats}.
"""


class LevelKL(AccumulatedMetric):
    def _info(self) -> evaluate.MetricInfo:
        columns = {"kl": Value("float64"), "level": Value("string"), "document": Value("string")}
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=Features(columns)
        )

    def _compute(self, **columns: np.ndarray) -> dict[str, Any]:
        kl, level = columns["kl"], columns["level"]
        if not len(kl):
            raise ValueError("no unit was added: kl is empty in all batches of all processes")
        documents = len(np.unique(columns["document"]))
        members = {name: kl[level == name].tolist() for name in dict.fromkeys(level.tolist())}
        rate = {name: math.fsum(values) for name, values in members.items()}
        units = {name: len(values) for name, values in members.items()}
        return {"documents": documents, "units": units, **mean_rates(rate, units, documents)}
