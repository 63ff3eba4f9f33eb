"""What a report measures itself, by the functions behind the other evaluation scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from textvae.build import encoder_fingerprint
from textvae.data.dataset import METADATA_FILE, Documents, open_documents
from textvae.data.loader import gather_in_order, walk
from textvae.data.plan import spread
from textvae.evaluation.diagnostics import latent_diagnostics
from textvae.evaluation.likelihood.perplexity import Estimator, perplexity_report, score_documents
from textvae.model.unit_transformer import segment_mean
from textvae.text_vae import HierarchicalTextVAE
from textvae.writing.complete import draw_theme
from textvae.writing.options import SamplingOptions

MAP_SHARE, CURVE_SHARE = 10, 0.2
"""Documents of the map, and of the curves over K, for every document that the rest is measured on."""
SAMPLES = 16
"""K of the curves."""
TSNE_DOCUMENTS = 60
"""With fewer documents a t-SNE shows structure where there is none."""
SAMPLING = SamplingOptions(top_p=0.9, max_children=6)
THEMES, TEXTS = 2, 3


@dataclass(frozen=True)
class LatentMap:
    level: str
    points: np.ndarray
    """[documents, 2]"""
    labels: list[str | None]
    method: str
    axes: tuple[str, str]

    @property
    def caption(self) -> str:
        how = {
            "t-SNE": "t-SNE (scikit-learn) keeps neighbours together; distances between groups mean little.",
            "PCA": "PCA (scikit-learn): the two directions of largest variance.",
        }
        return f"Posterior means at level {self.level}. {how[self.method]}"


@dataclass(frozen=True)
class Theme:
    """Texts that were written with one top latent, or (`origin` None) with none in common."""

    origin: str | None
    excerpt: str | None
    """The document whose latent it is."""
    texts: list[str]


@dataclass(frozen=True)
class ReportDocuments:
    """Documents of one split, spread evenly over it where it is prepared."""

    all: Documents
    limit: int

    @classmethod
    def open(cls, data: str, model: HierarchicalTextVAE, split: str, limit: int) -> ReportDocuments:
        """Raises ValueError for data that cannot be read, or that were prepared for another model."""
        # A prepared split costs nothing to open whole; of another source only what is needed is tokenised.
        is_prepared = (Path(data) / METADATA_FILE).is_file()
        encoder = partial(encoder_fingerprint, model)
        count = None if is_prepared else limit * MAP_SHARE
        return cls(open_documents(data, model.processor, split, count, encoder=encoder), limit)

    def spread(self, count: int) -> Documents:
        """At most `count` documents."""
        chosen = spread(max(1, count), len(self.all))
        return self.all.select(chosen)

    @property
    def for_map(self) -> Documents:
        return self.spread(self.limit * MAP_SHARE)

    @property
    def measured(self) -> Documents:
        return self.spread(self.limit)

    @property
    def for_curve(self) -> Documents:
        return self.spread(math.ceil(self.limit * CURVE_SHARE))


def measure_perplexities(
    model: HierarchicalTextVAE, documents: ReportDocuments, seed: int, batch_tokens: int = 8192
) -> list[dict[str, Any]]:
    """What eval/perplexity.py would write for elbo and, with latents, for iwae and smc."""

    def measure(chosen: Documents, estimator: Estimator) -> dict[str, Any]:
        scores = score_documents(model, chosen, estimator, SAMPLES, seed, batch_tokens=batch_tokens)
        return perplexity_report(scores, estimator, SAMPLES, seed)

    results = [measure(documents.measured, "elbo")]
    if model.level_names:
        results += [measure(documents.for_curve, "iwae"), measure(documents.for_curve, "smc")]
    return results


def measure_latents(
    model: HierarchicalTextVAE, documents: Documents, seed: int, batch_tokens: int = 8192
) -> dict[str, Any]:
    """What eval/latents.py would write."""
    return latent_diagnostics(model, documents, seed, batch_tokens=batch_tokens).to_json()


def elbo_perplexity_of(result: Mapping[str, Any]) -> float:
    """Perplexity per token by the ELBO, on the documents of any perplexity result: all of them report its terms."""
    nats = result["distortion_tokens"] + result["distortion_structure"] + sum(result["rate"].values())
    return math.exp(nats * result["documents"] / result["tokens"])


@torch.no_grad()
def document_map(model: HierarchicalTextVAE, documents: Documents, seed: int, batch_tokens: int = 8192) -> LatentMap:
    """Documents by their posterior means at the top level, in two dimensions.

    Where the top level is not the document's, a document stands where the mean of its units does. Raises ValueError
    for fewer than three documents.
    """
    if len(documents) < 3:
        raise ValueError(
            f"a map needs three documents, the data have {len(documents)}; give more with --data or --limit"
        )
    level = model.level_names[0]
    found: list[tuple[int, tuple[np.ndarray, str | None]]] = []
    for group in walk(documents, model.layout, model.device, batch_tokens=batch_tokens, purpose="map"):
        latents = model.latents(group.batch)[level]
        means = segment_mean(latents.mean, latents.document, len(group.rows)).float().cpu().numpy()
        labels = [document.label for document in group.members]
        found += zip(group.rows, zip(means, labels, strict=True), strict=True)
    of_documents = gather_in_order(found)
    values = np.stack([mean for mean, _ in of_documents])
    labels = [label for _, label in of_documents]
    if len(values) >= TSNE_DOCUMENTS:
        points = TSNE(init="pca", random_state=seed).fit_transform(values)
        return LatentMap(level, points, labels, "t-SNE", ("t-SNE dimension 1 (no unit)", "t-SNE dimension 2 (no unit)"))
    # A single latent dimension has no second component.
    pca = PCA(min(2, values.shape[1])).fit(values)
    points = np.zeros((len(values), 2))
    points[:, : pca.n_components_] = pca.transform(values)
    shares = [*pca.explained_variance_ratio_, 0.0][:2]
    first, second = (f"component {number} ({share:.0%} of the variance)" for number, share in enumerate(shares, 1))
    return LatentMap(level, points, labels, "PCA", (first, second))


def themed_samples(model: HierarchicalTextVAE, documents: Documents, seed: int) -> list[Theme]:
    """Texts with the top latents of some documents, and with one from the prior; without a latent of the whole
    document, texts that have nothing in common."""
    if model.level_names[:1] != tuple(model.config.hierarchy[:1]):
        return [Theme(None, None, _write(model, None, seed))]
    themes = []
    for number in np.linspace(0, len(documents) - 1, THEMES + 2).round().astype(int)[1:-1]:
        source = documents.read(int(number))
        mean = model.latents(model.batch([source]))[model.level_names[0]].mean[0]
        themes.append(Theme(source.title or source.id, source.text(), _write(model, mean, seed)))
    prior = _write(model, draw_theme(model, seed), seed)
    return [*themes, Theme("drawn from the prior", "No document: the latent is a draw from N(0, I).", prior)]


def _write(model: HierarchicalTextVAE, theme: torch.Tensor | None, seed: int) -> list[str]:
    return [written.text for written in model.generate(theme, TEXTS, seed=seed, options=SAMPLING)]
