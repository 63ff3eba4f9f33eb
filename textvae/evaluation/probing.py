"""Linear probes of what the latents know: features of documents, their labels, and a split that no source crosses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.data.loader import gather_in_order, walk
from textvae.model.unit_transformer import segment_mean
from textvae.text_vae import HierarchicalTextVAE

ENCODER, COMPONENTS, WORDS, MAJORITY = "encoder_mean", "encoder_pca", "bag_of_words", "majority"
TEST_SHARE = 0.3
WORD = r"\w+|[^\w\s]"
"""Marks count as words, so that no text is without any."""
ROUNDING = 1e-4
"""Of a feature's size in the whole: what varies by less are equal texts in batches of different shapes."""


@dataclass(frozen=True)
class LabelledFeatures:
    """Documents that have a label."""

    features: dict[str, np.ndarray]
    """[documents, D] by latent level and for `encoder_mean`."""
    texts: np.ndarray
    """[documents]"""
    labels: np.ndarray
    """[documents] of strings."""
    sources: np.ndarray
    """[documents] ids of the source documents that they are, or are sections of."""
    num_unlabelled: int
    """Documents without a label, which were left out."""

    def select(self, kept: np.ndarray) -> LabelledFeatures:
        features = {name: values[kept] for name, values in self.features.items()}
        return LabelledFeatures(features, self.texts[kept], self.labels[kept], self.sources[kept], self.num_unlabelled)


@dataclass(frozen=True)
class ProbeScore:
    accuracy: float
    f1_macro: float


@dataclass(frozen=True)
class ProbeReport:
    """What eval/probe.py writes, beside the name of the label; numbers are of documents unless they say otherwise."""

    classes: int
    train: int
    test: int
    train_sources: int
    test_sources: int
    left_out_rare: int
    """Whose label fewer than two sources have: it cannot be both learned and tested."""
    left_out_unlabelled: int
    levels: dict[str, ProbeScore]
    baselines: dict[str, ProbeScore]


@torch.no_grad()
def document_features(
    model: HierarchicalTextVAE,
    documents: Documents,
    label: str,
    batch_tokens: int = 8192,
    process: PartialState | None = None,
) -> LabelledFeatures:
    """Features and labels of all documents that have one; of several processes each takes a share.

    A lower level's feature is the mean over the document's units; `encoder_mean` is the mean of the pretrained
    sentence features. Null, NaN, empty and missing labels are none. Raises ValueError where no document has one.
    """
    found: list[tuple[int, tuple[str | None, str, dict[str, np.ndarray]]]] = []
    for group in walk(
        documents, model.layout, model.device, batch_tokens=batch_tokens, process=process, purpose="features"
    ):
        count = len(group.rows)
        means = {
            name: segment_mean(latents.mean, latents.document, count)
            for name, latents in model.latents(group.batch).items()
        }
        means[ENCODER] = segment_mean(model.sentence_features(group.batch), group.batch.levels[-1].document, count)
        values = {name: mean.float().cpu().numpy() for name, mean in means.items()}
        for place, (row, document) in enumerate(zip(group.rows, group.members, strict=True)):
            features = {name: rows[place] for name, rows in values.items()}
            found.append((row, (_label(document, label), document.text(), features)))
    of_documents = gather_in_order(found)
    labelled = [row for row, (value, _, _) in enumerate(of_documents) if value is not None]
    if not labelled:
        raise ValueError(f"no document has a field '{label}' to predict; name another with --label")
    return LabelledFeatures(
        {name: np.stack([of_documents[row][2][name] for row in labelled]) for name in (*model.level_names, ENCODER)},
        np.asarray([of_documents[row][1] for row in labelled], dtype=object),
        np.asarray([of_documents[row][0] for row in labelled]),
        np.asarray([documents.source_ids[row] for row in labelled]),
        len(of_documents) - len(labelled),
    )


def _label(document: EncodedDocument, name: str) -> str | None:
    value = document.label if name == "label" else json.loads(document.extra).get(name)
    # NaN is missing, too: records are read so.
    return None if value is None or not str(value).strip() else str(value)


def probe(found: LabelledFeatures, label: str, seed: int) -> ProbeReport:
    """A logistic regression on every level's features, tested on sources that it has not seen, beside the same on the
    encoder's mean, on as many of its principal components as each level has dimensions (of the training part) and on
    TF-IDF weights of words, and beside the most frequent label.

    Raises ValueError for labels that are too rare to be learned and tested.
    """
    kept = found.select(~np.isin(found.labels, _rare(found)))
    train, test = split_by_source(kept.labels, kept.sources, label, seed)

    def score(classifier: BaseEstimator, values: np.ndarray) -> ProbeScore:
        predicted = classifier.fit(values[train], kept.labels[train]).predict(values[test])
        return ProbeScore(
            float(accuracy_score(kept.labels[test], predicted)),
            float(f1_score(kept.labels[test], predicted, average="macro")),
        )

    def linear(*first: BaseEstimator | str) -> BaseEstimator:
        return make_pipeline(*first, StandardScaler(), LogisticRegression(max_iter=1000, C=0.1))

    features = {name: _without_rounding(values) for name, values in kept.features.items()}
    scores = {name: score(linear(), values) for name, values in features.items()}
    majority = score(DummyClassifier(strategy="most_frequent"), np.zeros((len(kept.labels), 1)))
    baselines = {MAJORITY: majority, ENCODER: scores.pop(ENCODER)}
    states = features[ENCODER]
    rank = int(np.linalg.matrix_rank(states[train] - states[train].mean(0)))
    for size in dict.fromkeys(features[name].shape[1] for name in scores):
        components = PCA(min(size, rank), random_state=seed) if rank else "passthrough"
        baselines[f"{COMPONENTS}_{size}"] = score(linear(components), states)
    words = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, token_pattern=WORD), LogisticRegression(max_iter=1000, C=10)
    )
    baselines[WORDS] = score(words, kept.texts)
    return ProbeReport(
        classes=len(set(kept.labels)),
        train=len(train),
        test=len(test),
        train_sources=len(set(kept.sources[train])),
        test_sources=len(set(kept.sources[test])),
        left_out_rare=len(found.labels) - len(kept.labels),
        left_out_unlabelled=found.num_unlabelled,
        levels=scores,
        baselines=baselines,
    )


def _without_rounding(values: np.ndarray) -> np.ndarray:
    """Features [N, D] less their mean, 0 where they do not vary: scaled to unit variance, noise would be a feature."""
    centred = values - values.mean(0)
    size = float(np.sqrt(np.square(values).mean()))
    return np.where(centred.std(0) > ROUNDING * size, centred, 0.0).astype(np.float32)


def _rare(found: LabelledFeatures) -> list[str]:
    """Labels that fewer than two sources have."""
    sources: dict[str, set[str]] = {}
    for name, source in zip(found.labels, found.sources, strict=True):
        sources.setdefault(name, set()).add(source)
    return [name for name, members in sources.items() if len(members) < 2]


def split_by_source(
    labels: Sequence[str] | np.ndarray, sources: Sequence[str] | np.ndarray, label: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to test on, three sources in ten, stratified by label: no source is in both, or a
    probe would recognise an article's other sections. A source has one label, as all its sections do (of several,
    its first counts).

    Raises ValueError, naming the field `label`, for fewer than two labels or fewer sources than can test each.
    """
    labels, sources = np.asarray(labels), np.asarray(sources)
    names, first, source_of = np.unique(sources, return_index=True, return_inverse=True)
    classes = len(set(labels[first]))
    if classes < 2:
        raise ValueError(f"field '{label}' needs two or more values with two or more sources each")
    num_test = math.ceil(TEST_SHARE * len(names))
    if num_test < classes:
        raise ValueError(
            f"there are {classes} values of field '{label}' in {len(names)} sources: too few to test each; give more "
            "documents, or a coarser field with --label"
        )
    # By the order of the data, so that documents without sections are split as if there were no sources.
    order = np.argsort(first)
    tested = train_test_split(order, test_size=num_test, random_state=seed, stratify=labels[first[order]])[1]
    is_tested = np.isin(source_of, tested)
    return np.flatnonzero(~is_tested), np.flatnonzero(is_tested)
