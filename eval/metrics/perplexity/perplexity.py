"""Perplexity of a corpus, as a Hugging Face `evaluate` module around textvae's own definition."""

from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value

from textvae.evaluation.accumulation import AccumulatedMetric
from textvae.evaluation.likelihood.perplexity import perplexities

DESCRIPTION = """
Perplexity per token and per word, and bits per byte, of whole documents. Sums over all documents are divided once,
so long documents weigh as much as their length.
"""
INPUTS = """
Args, one row for each document:
    nll: minus the (bound on the) log-likelihood, nats: for a VAE distortion and rates, of the structure as well.
    tokens: predicted tokens, sentence ends included.
    words: whitespace-separated words of the text.
    bytes: UTF-8 bytes of the text.
Returns:
    documents, tokens, words, bytes: sums.
    nll_nats_per_document, perplexity_per_token, perplexity_per_word, bits_per_byte.
"""


class Perplexity(AccumulatedMetric):
    def _info(self) -> evaluate.MetricInfo:
        columns = {"nll": Value("float64"), "tokens": Value("int64"), "words": Value("int64"), "bytes": Value("int64")}
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=Features(columns)
        )

    def _compute(self, **columns: np.ndarray) -> dict[str, Any]:
        return perplexities(**{name: values.tolist() for name, values in columns.items()})
