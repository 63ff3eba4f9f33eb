"""Perplexity of whole documents: rates and structure included, sentence ends counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from textvae.data.document import EncodedDocument
from textvae.data.loading import fill
from textvae.data.opening import Documents
from textvae.likelihood.document import ModelDocument
from textvae.likelihood.estimators import iwae, smc
from textvae.model.noise import KeyedNoise
from textvae.objective import ElboTerms, elbo_terms
from textvae.text_vae import HierarchicalTextVAE


@dataclass
class PerplexityReport:
    """Sums over documents, and the means that are reported. Nats, unless a name says bits.

    `distortion_*` and `rate` are always the one-sample ELBO's, whatever the estimator of the likelihood.
    """

    estimator: str
    samples: int
    seed: int
    documents: int = 0
    tokens: int = 0
    words: int = 0
    bytes: int = 0
    nll: float = 0.0
    distortion_tokens: float = 0.0
    distortion_structure: float = 0.0
    rate: dict[str, float] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    """-log-likelihood with fewer samples, by their number."""
    effective_samples: list[float] = field(default_factory=list)
    """Smallest effective sample size in every document."""

    def count(self, document: EncodedDocument) -> None:
        self.documents += 1
        self.tokens += document.num_tokens
        self.words += document.num_words
        self.bytes += document.num_bytes

    def add_elbo_terms(self, terms: ElboTerms) -> None:
        self.distortion_tokens += float(terms.distortion_tokens.double().sum())
        self.distortion_structure += float(terms.distortion_structure.double().sum())
        for name, rate in terms.rate.items():
            self.rate[name] = self.rate.get(name, 0.0) + float(rate.double().sum())

    def to_json(self) -> dict[str, object]:
        """The keys of the file contract."""
        documents = self.documents
        return {
            "documents": documents,
            "tokens": self.tokens,
            "words": self.words,
            "bytes": self.bytes,
            "estimator": self.estimator,
            "samples": self.samples,
            "seed": self.seed,
            "nll_nats_per_document": self.nll / documents,
            "perplexity_per_token": math.exp(self.nll / self.tokens),
            "perplexity_per_word": math.exp(self.nll / self.words),
            "bits_per_byte": self.nll / math.log(2) / self.bytes,
            "distortion_tokens": self.distortion_tokens / documents,
            "distortion_structure": self.distortion_structure / documents,
            "rate": {name: rate / documents for name, rate in self.rate.items()},
            "perplexity_per_token_by_samples": {k: math.exp(nll / self.tokens) for k, nll in self.curve.items()},
            "min_effective_samples": self.effective_samples,
        }


@torch.no_grad()
def elbo_perplexity(
    model: HierarchicalTextVAE, documents: Documents, seed: int = 0, batch_tokens: int = 8192
) -> PerplexityReport:
    """One sample a document, analytic KL; exact for a plain language model."""
    report = PerplexityReport("elbo", 1, seed)
    noise = KeyedNoise(seed)
    for members in document_groups(documents, batch_tokens):
        batch = model.batch(members)
        terms = elbo_terms(model(batch, noise), batch)
        report.nll += float(terms.negative_elbo.double().sum())
        report.add_elbo_terms(terms)
        for document in members:
            report.count(document)
    return report


def sampled_perplexity(
    model: HierarchicalTextVAE, documents: Documents, estimator: str, samples: int, seed: int = 0
) -> Iterator[PerplexityReport]:
    """The report after each document (`iwae` or `smc`), shortest first; the last one is the result.

    Raises ValueError for a plain language model, whose likelihood is exact.
    """
    if not model.level_names:
        raise ValueError("a plain language model's likelihood is exact: use the estimator elbo")
    report = PerplexityReport(estimator, samples, seed)
    noise = KeyedNoise(seed)
    for number in np.argsort(documents.token_counts, kind="stable").tolist():
        document = documents.read(number)
        with torch.no_grad():
            batch = model.batch([document])
            report.add_elbo_terms(elbo_terms(model(batch, noise), batch))
        particles = ModelDocument(model, document, seed)
        if estimator == "smc":
            # Documents must not share their resampling draws.
            estimate = smc(particles, samples, seed * len(documents) + number, curve=True)
        else:
            per_chunk = max(1, model.layout.chunk_tokens // document.num_tokens)
            estimate = iwae(particles, samples, per_chunk)
        report.nll -= estimate.log_likelihood
        for size, value in estimate.curve.items():
            report.curve[size] = report.curve.get(size, 0.0) - value
        report.effective_samples.append(estimate.min_effective_samples)
        report.count(document)
        yield report


def document_groups(documents: Documents, batch_tokens: int) -> Iterator[Sequence[EncodedDocument]]:
    """All documents in groups of at most `batch_tokens` predicted tokens, shortest first."""
    order = np.argsort(documents.token_counts, kind="stable")
    for part in fill(order, documents.token_counts, batch_tokens):
        yield [documents.read(int(number)) for number in part]
