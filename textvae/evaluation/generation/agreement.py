"""Whether what was written says what was planned: its theme, and the latents of its parts.

Shapes: T themes, D documents written, P paragraphs, U units of a level, N and F sizes of vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from textvae.data.document import EncodedDocument
from textvae.model.unit_transformer import segment_mean
from textvae.text_vae import HierarchicalTextVAE
from textvae.writing.plan import DocumentPlan


@dataclass(frozen=True)
class Embedded:
    """What encoders say of documents."""

    theme: np.ndarray
    """[D, Z] posterior mean of the document latent."""
    theme_std: np.ndarray
    """[D, Z] its posterior standard deviation."""
    features: np.ndarray
    """[D, F] mean of the pretrained encoder's sentence features."""
    sentences: list[np.ndarray]
    """[S, F] of every document: the features of its sentences."""
    paragraphs: list[np.ndarray]
    """[P, F] of every document: their means over its paragraphs (units above the lowest level)."""


@dataclass(frozen=True)
class Drift:
    """Cosine similarity of the encoder's mean features of each paragraph and of the theme's document, the features'
    common mean taken away: by document, in reading order."""

    written: list[list[float]]
    real: list[list[float]]
    """Of real documents' paragraphs and the rest of their own document; of a single paragraph there is none."""


@dataclass(frozen=True)
class PlanAgreement:
    """How far the latents of a level's units, as they were planned, are found again in the text."""

    units: int
    agreement: float
    """Share of the units whose own planned latent is the nearest of all units' to the one that is inferred."""
    chance: float
    nearer: float
    """Share of all other units' planned latents that lie farther from the one that is inferred than its own: by chance
    a half."""
    nearer_than_siblings: float
    """The same among units of the same document, where the theme alone tells nothing; NaN where none has two."""


@torch.no_grad()
def embed(model: HierarchicalTextVAE, documents: Sequence[EncodedDocument]) -> Embedded:
    """One document at a time: they are few."""
    themes, stds, means, sentences, paragraphs = [], [], [], [], []
    for document in documents:
        batch = model.batch([document])
        features = model.sentence_features(batch).float()
        above = max(len(batch.levels) - 2, 0)
        parent = batch.ancestor(len(batch.levels) - 1, above)
        latents = model.latents(batch)[model.theme_level]
        themes.append(latents.mean[0].float().cpu().numpy())
        stds.append((0.5 * latents.log_variance[0]).exp().float().cpu().numpy())
        means.append(features.mean(0).cpu().numpy())
        sentences.append(features.cpu().numpy())
        paragraphs.append(segment_mean(features, parent, len(batch.levels[above])).cpu().numpy())
    return Embedded(np.stack(themes), np.stack(stds), np.stack(means), sentences, paragraphs)


def agreement(written: np.ndarray, themes: np.ndarray, of: np.ndarray) -> float:
    """Share of the written documents [D, N] whose nearest theme [T, N] is number `of` [D], their own: by the cosine
    of what is left of them without the themes' mean, in units of the themes' spread."""
    return float((_similarity(written, themes).argmax(1) == of).mean())


def likeliest_agreement(written: Embedded, themes: np.ndarray, of: np.ndarray) -> float:
    """Share of the written documents whose likeliest theme [T, Z] is number `of` [D], their own: by
    log q(z | x) - log p(z) under the prior N(0, I), which is log p(x | z) but for a constant of the document where the
    posterior is exact (Bayes' rule).

    Unlike a cosine it leaves those dimensions aside of which the text says nothing: where q is p.
    """
    distance = (((themes - written.theme[:, None]) / written.theme_std[:, None]) ** 2).sum(-1)
    return float(((0.5 * ((themes**2).sum(-1) - distance)).argmax(1) == of).mean())


def tfidf_agreement(written: Sequence[str], themes: Sequence[str], of: np.ndarray) -> float:
    """The same by the cosine of TF-IDF vectors, their statistics those of the themes' documents."""
    vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\w+")
    known = vectors.fit_transform(themes)
    return float(((vectors.transform(written) @ known.T).toarray().argmax(1) == of).mean())


def drift(written: Embedded, real: Embedded, of: np.ndarray) -> Drift:
    """`of` [D]: the number of the real document whose theme each written one was given."""
    centre = real.features.mean(0)
    sought = _unit(real.features - centre)
    found = [
        (_unit(rows - centre) @ sought[number]).tolist() for rows, number in zip(written.paragraphs, of, strict=True)
    ]
    beside = []
    for rows in real.paragraphs:
        if len(rows) > 1:
            others = (rows.sum(0) - rows) / (len(rows) - 1)
            beside.append((_unit(rows - centre) * _unit(others - centre)).sum(1).tolist())
    return Drift(found, beside)


def plan_agreements(
    model: HierarchicalTextVAE, plans: Sequence[DocumentPlan], written: Sequence[EncodedDocument]
) -> dict[str, PlanAgreement]:
    """By level below the top, of documents and the plans they were written from: posterior means, inferred under the
    planned latents above them, beside the planned latents."""
    names = [name for name in model.level_names if name != model.theme_level]
    planned: dict[str, list[np.ndarray]] = {name: [] for name in names}
    inferred: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for plan, document in zip(plans, written, strict=True):
        given = {name: z.to(model.device) for name, z in plan.z.items()}
        latents = model.latents(model.batch([document]), given)
        for name in names:
            planned[name].append(plan.z[name].float().cpu().numpy())
            inferred[name].append(latents[name].mean.float().cpu().numpy())
    return {
        name: plan_agreement(
            np.concatenate(inferred[name]),
            np.concatenate(planned[name]),
            np.repeat(np.arange(len(plans)), list(map(len, planned[name]))),
        )
        for name in names
    }


def plan_agreement(inferred: np.ndarray, planned: np.ndarray, document: np.ndarray) -> PlanAgreement:
    """Of units whose latents [U, N] were planned and inferred, as in `agreement`; document [U]: which they are of."""
    similarity = _similarity(inferred, planned)
    own = np.diag(similarity)[:, None]
    farther = np.where(similarity == own, 0.5, similarity < own)
    others = ~np.eye(len(own), dtype=bool)
    siblings = others & (document[:, None] == document)
    return PlanAgreement(
        units=len(own),
        agreement=float((similarity.argmax(1) == np.arange(len(own))).mean()),
        chance=1 / len(own),
        nearer=_mean_of_rows(farther, others),
        nearer_than_siblings=_mean_of_rows(farther, siblings),
    )


def _mean_of_rows(values: np.ndarray, chosen: np.ndarray) -> float:
    """Mean over the rows that have any of their means over what is chosen."""
    means = [row[taken].mean() for row, taken in zip(values, chosen, strict=True) if taken.any()]
    return fmean(means) if means else float("nan")


def _similarity(values: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """[D, T] cosines of [D, N] and [T, N], without the mean of `beside` and in units of its spread."""
    centre, spread = beside.mean(0), np.maximum(beside.std(0), 1e-6)
    return _unit((values - centre) / spread) @ _unit((beside - centre) / spread).T


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)
