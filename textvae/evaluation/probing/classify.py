"""Logistic regressions on what the latents hold, tested on sources that they have not seen, beside baselines.

Shapes: N examples, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, train_test_split
from sklearn.preprocessing import StandardScaler

from textvae.evaluation.probing.examples import ENCODER, Examples
from textvae.evaluation.standard_errors import ratio_error

COMPONENTS, WORDS, MAJORITY = "encoder_pca", "bag_of_words", "majority"
TEST_SHARE = 0.3
FOLDS = 3
DRAWS = 5
"""Of a few examples."""
DENSE_STRENGTHS, SPARSE_STRENGTHS = (0.001, 0.01, 0.1, 1.0), (1.0, 10.0, 100.0)
ITERATIONS = 1000
WORD = r"\w+|[^\w\s]"
"""Marks count as words, so that no text is without any."""
ROUNDING = 1e-4
"""Of a feature's size in the whole: what varies by less are equal texts in batches of different shapes."""


Matrix: TypeAlias = np.ndarray | csr_matrix
"""[N, D]"""


@dataclass(frozen=True)
class ProbeScore:
    accuracy: float
    f1_macro: float
    accuracy_error: float | None
    """Standard error of the accuracy, clustered by source; None where one source is tested."""


@dataclass(frozen=True)
class FewShotScore:
    accuracy: float
    """Mean over draws."""
    deviation: float
    """Standard deviation over draws."""


@dataclass(frozen=True)
class ProbeReport:
    """What eval/probe.py writes, beside the names of task and label; in examples where nothing else is said."""

    classes: int
    train: int
    test: int
    train_sources: int
    test_sources: int
    left_out_rare: int
    """Whose answer fewer than two sources have: it cannot be both learned and tested."""
    left_out_unlabelled: int
    """Documents that give no example."""
    levels: dict[str, ProbeScore]
    baselines: dict[str, ProbeScore]
    few_shot: dict[str, dict[str, FewShotScore]]
    """By level or baseline, and by the number of examples of every class."""


def probe(found: Examples, task: str, seed: int, shots: Sequence[int] = ()) -> ProbeReport:
    """A logistic regression on every level's features, tested on sources that it has not seen, beside the same on the
    encoder's states, on as many of their principal components as each level has dimensions (of the training part) and
    on TF-IDF weights of words, and beside the most frequent answer.

    How strongly each is regularised is chosen by cross-validation over the sources of the training part. `shots`: the
    same from so many examples of every class of that part, `DRAWS` times. `task` names in messages what is predicted.
    Raises ValueError for answers that are too rare to be learned and tested.
    """
    kept = found.select(~np.isin(found.labels, _rare(found)))
    train, test = split_by_source(kept.labels, kept.sources, task, seed)
    systems = _systems(kept, train, seed)
    scores, few = {}, {}
    for name, (values, strengths) in systems.items():
        fitted = fit_by_source(values[train], kept.labels[train], kept.sources[train], strengths)
        scores[name] = _score(fitted.predict(values[test]), kept, test)
        few[name] = {str(count): _few_shot(values, kept.labels, train, test, count, seed) for count in shots}
    majority = DummyClassifier(strategy="most_frequent").fit(train, kept.labels[train])
    levels = {name: scores.pop(name) for name in list(kept.features) if name != ENCODER}
    return ProbeReport(
        classes=len(set(kept.labels)),
        train=len(train),
        test=len(test),
        train_sources=len(set(kept.sources[train])),
        test_sources=len(set(kept.sources[test])),
        left_out_rare=len(found.labels) - len(kept.labels),
        left_out_unlabelled=found.num_left_out,
        levels=levels,
        baselines={MAJORITY: _score(majority.predict(test), kept, test), **scores},
        few_shot=few if shots else {},
    )


def _systems(examples: Examples, train: np.ndarray, seed: int) -> dict[str, tuple[Matrix, tuple[float, ...]]]:
    """What is classified, [N, D] of every level and baseline, fitted on the training part without its answers, and the
    strengths of the regression to choose from (sklearn's C, which regularises the less the larger it is)."""
    features = {name: _without_rounding(values) for name, values in examples.features.items()}
    states = features[ENCODER]
    rank = int(np.linalg.matrix_rank(states[train] - states[train].mean(0)))
    for size in dict.fromkeys(values.shape[1] for name, values in features.items() if name != ENCODER):
        components = PCA(min(size, rank), random_state=seed).fit(states[train]) if rank else None
        features[f"{COMPONENTS}_{size}"] = states if components is None else components.transform(states)
    scaled = {name: StandardScaler().fit(values[train]).transform(values) for name, values in features.items()}
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=WORD).fit(examples.texts[train])
    return {name: (values, DENSE_STRENGTHS) for name, values in scaled.items()} | {
        WORDS: (words.transform(examples.texts), SPARSE_STRENGTHS)
    }


def fit_by_source(
    values: Matrix, labels: np.ndarray, sources: np.ndarray, strengths: Sequence[float]
) -> LogisticRegression | GridSearchCV:
    """Of the strength that predicts the sources of another fold best; the middle one where a label has one source."""
    fewest = min(len(set(sources[labels == name])) for name in set(labels))
    folds = min(FOLDS, fewest)
    if folds < 2:
        return LogisticRegression(max_iter=ITERATIONS, C=strengths[len(strengths) // 2]).fit(values, labels)
    search = GridSearchCV(
        LogisticRegression(max_iter=ITERATIONS), {"C": list(strengths)}, cv=StratifiedGroupKFold(folds)
    )
    return search.fit(values, labels, groups=sources)


def _few_shot(
    values: Matrix, labels: np.ndarray, train: np.ndarray, test: np.ndarray, count: int, seed: int
) -> FewShotScore:
    """From `count` examples of every class, or all where there are fewer."""
    found = []
    for draw in range(DRAWS):
        order = np.random.default_rng((seed, draw)).permutation(train)
        drawn = np.concatenate([order[labels[order] == name][:count] for name in sorted(set(labels))])
        fitted = LogisticRegression(max_iter=ITERATIONS).fit(values[drawn], labels[drawn])
        found.append(accuracy_score(labels[test], fitted.predict(values[test])))
    return FewShotScore(float(np.mean(found)), float(np.std(found, ddof=1)))


def _score(predicted: np.ndarray, examples: Examples, test: np.ndarray) -> ProbeScore:
    right = (predicted == examples.labels[test]).astype(float)
    return ProbeScore(
        float(right.mean()),
        float(f1_score(examples.labels[test], predicted, average="macro")),
        ratio_error(right.tolist(), [1.0] * len(right), examples.sources[test].tolist()),
    )


def _without_rounding(values: np.ndarray) -> np.ndarray:
    """Features [N, D] less their mean, 0 where they do not vary: scaled to unit variance, noise would be a feature."""
    centred = values - values.mean(0)
    size = float(np.sqrt(np.square(values).mean()))
    return np.where(centred.std(0) > ROUNDING * size, centred, 0.0).astype(np.float32)


def _rare(found: Examples) -> list[str]:
    """Labels that fewer than two sources have."""
    sources: dict[str, set[str]] = {}
    for name, source in zip(found.labels, found.sources, strict=True):
        sources.setdefault(name, set()).add(source)
    return [name for name, members in sources.items() if len(members) < 2]


def split_by_source(
    labels: Sequence[str] | np.ndarray, sources: Sequence[str] | np.ndarray, task: str, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to test on, three sources in ten: no source is in both, or a probe would recognise an
    article's other sections. Stratified by label where all examples of a source have the same.

    Raises ValueError, naming what is predicted (`task`), for fewer than two labels or fewer sources than can test each.
    """
    labels, sources = np.asarray(labels), np.asarray(sources)
    names, first, source_of = np.unique(sources, return_index=True, return_inverse=True)
    classes = len(set(labels))
    if classes < 2:
        raise ValueError(f"{task} needs two or more values with two or more sources each")
    num_test = math.ceil(TEST_SHARE * len(names))
    # By the order of the data, so that documents without sections are split as if there were no sources.
    order = np.argsort(first)
    of_source = labels[first]
    is_uniform = bool((of_source[source_of] == labels).all())
    if num_test < (classes if is_uniform else 1) or len(names) < 2:
        raise ValueError(
            f"there are {classes} values of {task} in {len(names)} sources: too few to test each; give more "
            "documents, or a coarser field with --label"
        )
    stratify = of_source[order] if is_uniform else None
    tested = train_test_split(order, test_size=num_test, random_state=seed, stratify=stratify)[1]
    is_tested = np.isin(source_of, tested)
    return np.flatnonzero(~is_tested), np.flatnonzero(is_tested)
