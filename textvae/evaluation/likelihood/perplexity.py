"""Perplexity of whole documents: rates and structure included, sentence ends counted.

Amounts are nats, unless a name says bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

import torch
from accelerate import PartialState

from textvae.data.batch import key_of
from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.data.loader import DocumentGroup, gather_in_order, walk
from textvae.evaluation.likelihood.estimators import iwae, smc
from textvae.evaluation.likelihood.model_document import ModelDocument
from textvae.evaluation.standard_errors import ratio_error
from textvae.model.noise import KeyedNoise
from textvae.text_vae import HierarchicalTextVAE
from textvae.training.objective import elbo_terms

Estimator = Literal["elbo", "iwae", "smc"]


@dataclass(frozen=True)
class DocumentScore:
    """The likelihood of one document, and what it is made of.

    `distortion_*` and `rate` are always the one-sample ELBO's, whatever the estimator of the likelihood.
    """

    row: int
    """Of the document, among those that are evaluated."""
    source: str
    """Id of the source document that it is, or is a section of."""
    tokens: int
    words: int
    bytes: int
    nll: float
    """Minus the estimate of log p(text, structure)."""
    distortion_tokens: float
    distortion_structure: float
    rate: dict[str, float]
    """By level."""
    negative_elbo: float
    """Minus the one-sample ELBO with analytic rates; `nll` where that is the estimator."""
    nll_by_samples: dict[int, float] = field(default_factory=dict)
    """The same estimate with fewer samples, by their number."""
    min_effective_samples: float | None = None


@torch.no_grad()
def score_documents(
    model: HierarchicalTextVAE,
    documents: Documents,
    estimator: Estimator,
    samples: int,
    seed: int = 0,
    *,
    batch_tokens: int = 8192,
    process: PartialState | None = None,
) -> list[DocumentScore]:
    """Scores of all documents in the order of the data; of several processes each takes a share, and all return the
    same.

    `elbo` takes one sample of every document, with analytic KL, and is exact for a plain language model; for
    `iwae` and `smc`, `samples` are drawn. All randomness is keyed by the document's id: a score does not depend
    on the other documents or on who computes it. Raises ValueError for a plain language model and an estimator
    that would only blur its exact likelihood.
    """
    if estimator != "elbo" and not model.level_names:
        raise ValueError("a plain language model's likelihood is exact: use the estimator elbo")
    noise = KeyedNoise(seed)
    # A document takes so long by sampling that processes share better one by one.
    budget = batch_tokens if estimator == "elbo" else 1
    scores: list[tuple[int, DocumentScore]] = []
    for group in walk(documents, model.layout, model.device, batch_tokens=budget, process=process, purpose=estimator):
        for score, document in zip(_elbo_scores(model, group, noise), group.members, strict=True):
            if estimator != "elbo":
                score = _sampled(score, model, document, estimator, samples, seed)
            scores.append((score.row, score))
    return gather_in_order(scores)


def _elbo_scores(model: HierarchicalTextVAE, group: DocumentGroup, noise: KeyedNoise) -> Iterator[DocumentScore]:
    terms = elbo_terms(model(group.batch, noise), group.batch)
    nll, tokens, structure = (
        values.tolist() for values in (terms.negative_elbo, terms.distortion_tokens, terms.distortion_structure)
    )
    rate = {name: values.tolist() for name, values in terms.rate.items()}
    for place, (row, document) in enumerate(zip(group.rows, group.members, strict=True)):
        yield DocumentScore(
            row=row,
            source=document.source_id,
            tokens=document.num_tokens,
            words=document.num_words,
            bytes=document.num_bytes,
            nll=nll[place],
            distortion_tokens=tokens[place],
            distortion_structure=structure[place],
            rate={name: values[place] for name, values in rate.items()},
            negative_elbo=nll[place],
        )


def _sampled(
    score: DocumentScore,
    model: HierarchicalTextVAE,
    document: EncodedDocument,
    estimator: Estimator,
    samples: int,
    seed: int,
) -> DocumentScore:
    """`score` with its likelihood estimated by `iwae` or `smc`."""
    particles = ModelDocument(model, document, seed)
    if estimator == "smc":
        estimate = smc(particles, samples, key_of(f"{seed}/resampling/{document.id}"), curve=True)
    else:
        estimate = iwae(particles, samples, max(1, model.layout.chunk_tokens // document.num_tokens))
    return replace(
        score,
        nll=-estimate.log_likelihood,
        nll_by_samples={size: -value for size, value in estimate.curve.items()},
        min_effective_samples=estimate.min_effective_samples,
    )


def perplexity_report(
    scores: Sequence[DocumentScore], estimator: Estimator, samples: int, seed: int
) -> dict[str, object]:
    """What eval/perplexity.py writes, from the scores of all documents in any order.

    Standard errors are of means over documents, clustered by source; None where all are of one source.
    """
    scores = sorted(scores, key=lambda score: score.row)
    documents, tokens = len(scores), sum(score.tokens for score in scores)
    nll, sources = [score.nll for score in scores], [score.source for score in scores]
    by_samples = {size: [score.nll_by_samples[size] for score in scores] for size in scores[0].nll_by_samples}
    elbo = [score.negative_elbo for score in scores]
    return {
        **perplexities(
            nll,
            [score.tokens for score in scores],
            [score.words for score in scores],
            [score.bytes for score in scores],
        ),
        "sources": len(set(sources)),
        "nll_nats_per_document_standard_error": ratio_error(nll, [1] * documents, sources),
        "estimator": estimator,
        "samples": 1 if estimator == "elbo" else samples,
        "seed": seed,
        "distortion_tokens": math.fsum(score.distortion_tokens for score in scores) / documents,
        "distortion_structure": math.fsum(score.distortion_structure for score in scores) / documents,
        "rate": {name: math.fsum(score.rate[name] for score in scores) / documents for name in scores[0].rate},
        "perplexity_per_token_by_samples": {
            size: perplexity(math.fsum(nll) / tokens) for size, nll in by_samples.items()
        },
        "gain_over_elbo_by_samples": {size: mean_difference(elbo, nll, sources) for size, nll in by_samples.items()},
        "nll_by_document": nll,
        "source_by_document": sources,
        "min_effective_samples": [s.min_effective_samples for s in scores if s.min_effective_samples is not None],
    }


def perplexities(
    nll: Sequence[float], tokens: Sequence[int], words: Sequence[int], bytes: Sequence[int]
) -> dict[str, float]:
    """Perplexity of a corpus per token and per word, and bits per byte, from sums over its documents.

    nll: -log p of every document, rates and structure included; tokens, words, bytes: how many every document
    has, sentence ends counted as tokens. The order of the documents changes no bit of the result.
    """
    total = math.fsum(nll)
    counts = {"tokens": sum(tokens), "words": sum(words), "bytes": sum(bytes)}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"a perplexity needs {name}: the {len(nll)} documents have {count}")
    return {
        "documents": len(nll),
        **counts,
        "nll_nats_per_document": total / len(nll),
        "perplexity_per_token": perplexity(total / counts["tokens"]),
        "perplexity_per_word": perplexity(total / counts["words"]),
        "bits_per_byte": total / math.log(2) / counts["bytes"],
    }


def mean_difference(first: Sequence[float], second: Sequence[float], sources: Sequence[str]) -> dict[str, float | None]:
    """Mean of first - second over documents, and its standard error clustered by source; None for one source."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return {"mean": fmean(differences), "standard_error": ratio_error(differences, [1] * len(differences), sources)}


def perplexity(nll: float) -> float:
    """exp(nll), infinite where a float has no room for it."""
    return math.exp(nll) if nll < 709 else math.inf
