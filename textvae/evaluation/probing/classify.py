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
class Difference:
    """Of a level to as many principal components of the encoder's states, example by example."""

    to: str
    """The baseline."""
    accuracy: float
    """That of the level, less that of the baseline."""
    accuracy_error: float | None
    """Standard error of the difference, clustered by source; None where one source is tested."""


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
    """Whose answer fewer than two sources have (of a test part of its own: fewer than two of the training part): it
    cannot be both learned and tested."""
    left_out_unlabelled: int
    """Documents that give no example."""
    left_out_shared: int
    """Of a test part of its own, those of sources that are trained on."""
    levels: dict[str, ProbeScore]
    baselines: dict[str, ProbeScore]
    differences: dict[str, Difference]
    """By level."""
    few_shot: dict[str, dict[str, FewShotScore]]
    """By level or baseline, and by the number of examples of every class."""


@dataclass(frozen=True)
class _Division:
    """Examples with the rows to train on and those to test on, and how many were left out."""

    examples: Examples
    train: np.ndarray
    test: np.ndarray
    left_out_rare: int
    left_out_shared: int = 0


def probe(
    found: Examples, task: str, seed: int, shots: Sequence[int] = (), tested: Examples | None = None
) -> ProbeReport:
    """A logistic regression on every level's features, tested on sources that it has not seen, beside the same on the
    encoder's states, on as many of their principal components as each level has dimensions (of the training part) and
    on TF-IDF weights of words, and beside the most frequent answer.

    `tested`: what it is tested on, of which nothing is fitted; otherwise on three in ten of the sources found. How
    strongly each is regularised is chosen by cross-validation over the sources of the training part. `shots`: the
    same from so many examples of every class of that part, `DRAWS` times. `task` names in messages what is predicted.
    Raises ValueError for answers that are too rare to be learned and tested.
    """
    division = _within(found, task, seed) if tested is None else _apart(found, tested, task)
    kept, train, test = division.examples, division.train, division.test
    systems = _systems(kept, train, seed)
    right, scores, few = {}, {}, {}
    for name, (values, strengths) in systems.items():
        fitted = fit_by_source(values[train], kept.labels[train], kept.sources[train], strengths)
        predicted = fitted.predict(values[test])
        right[name] = (predicted == kept.labels[test]).astype(float)
        scores[name] = _score(predicted, kept, test)
        few[name] = {str(count): _few_shot(values, kept, train, test, count, strengths, seed) for count in shots}
    majority = DummyClassifier(strategy="most_frequent").fit(train, kept.labels[train])
    levels = {name: scores.pop(name) for name in list(kept.features) if name != ENCODER}
    differences = {}
    for name in levels:
        to = f"{COMPONENTS}_{kept.features[name].shape[1]}"
        less = right[name] - right[to]
        differences[name] = Difference(to, float(less.mean()), _error(less, kept.sources[test]))
    return ProbeReport(
        classes=len(set(kept.labels)),
        train=len(train),
        test=len(test),
        train_sources=len(set(kept.sources[train])),
        test_sources=len(set(kept.sources[test])),
        left_out_rare=division.left_out_rare,
        left_out_unlabelled=found.num_left_out + (0 if tested is None else tested.num_left_out),
        left_out_shared=division.left_out_shared,
        levels=levels,
        baselines={MAJORITY: _score(majority.predict(test), kept, test), **scores},
        differences=differences,
        few_shot=few if shots else {},
    )


def _within(found: Examples, task: str, seed: int) -> _Division:
    kept = found.select(~np.isin(found.labels, _rare(found)))
    train, test = split_by_source(kept.labels, kept.sources, task, seed)
    return _Division(kept, train, test, len(found.labels) - len(kept.labels))


def _apart(found: Examples, tested: Examples, task: str) -> _Division:
    """Trained on `found`, tested on those of `tested` whose sources are others."""
    others = tested.select(~np.isin(tested.sources, found.sources))
    known = np.setdiff1d(found.labels, _rare(found))
    if len(known) < 2:
        raise ValueError(f"{task} needs two or more values with two or more sources each to train on")
    trained, kept = (part.select(np.isin(part.labels, known)) for part in (found, others))
    shared = len(tested.labels) - len(others.labels)
    rare = len(found.labels) - len(trained.labels) + len(others.labels) - len(kept.labels)
    if not len(kept.labels):
        raise ValueError(
            f"nothing is left to test {task} on: {shared} examples are of sources that are trained on, "
            f"{len(others.labels)} of values that are not; name another --test-split"
        )
    train, test = np.split(np.arange(len(trained.labels) + len(kept.labels)), [len(trained.labels)])
    return _Division(trained.followed_by(kept), train, test, rare, shared)


def _systems(examples: Examples, train: np.ndarray, seed: int) -> dict[str, tuple[Matrix, tuple[float, ...]]]:
    """What is classified, [N, D] of every level and baseline, fitted on the training part without its answers, and the
    strengths of the regression to choose from (sklearn's C, which regularises the less the larger it is)."""
    features = {name: _without_rounding(values, train) for name, values in examples.features.items()}
    states = features[ENCODER]
    for size in dict.fromkeys(values.shape[1] for name, values in features.items() if name != ENCODER):
        components = states
        if states[train].any():
            fitted = PCA(min(size, *states[train].shape), random_state=seed).fit(states[train])
            components = _without_rounding(fitted.transform(states), train)
        features[f"{COMPONENTS}_{size}"] = components
    scaled = {name: StandardScaler().fit(values[train]).transform(values) for name, values in features.items()}
    words = TfidfVectorizer(sublinear_tf=True, token_pattern=WORD).fit(examples.texts[train])
    return {name: (values, DENSE_STRENGTHS) for name, values in scaled.items()} | {
        WORDS: (words.transform(examples.texts), SPARSE_STRENGTHS)
    }


def fit_by_source(
    values: Matrix, labels: np.ndarray, sources: np.ndarray, strengths: Sequence[float]
) -> LogisticRegression | GridSearchCV:
    """Of the strength that predicts the sources of another fold best; the middle one where a label has one source, or
    no fold leaves two labels to learn."""
    fewest = min(len(set(sources[labels == name])) for name in set(labels))
    splits = []
    if fewest > 1:
        folds = StratifiedGroupKFold(min(FOLDS, fewest)).split(values, labels, sources)
        splits = [(learned, other) for learned, other in folds if len(set(labels[learned])) > 1]
    if not splits:
        return LogisticRegression(max_iter=ITERATIONS, C=strengths[len(strengths) // 2]).fit(values, labels)
    search = GridSearchCV(LogisticRegression(max_iter=ITERATIONS), {"C": list(strengths)}, cv=splits)
    return search.fit(values, labels)


def _few_shot(
    values: Matrix,
    examples: Examples,
    train: np.ndarray,
    test: np.ndarray,
    count: int,
    strengths: Sequence[float],
    seed: int,
) -> FewShotScore:
    """From `count` examples of every class, or all where there are fewer; the strength is chosen among these."""
    labels, found = examples.labels, []
    for draw in range(DRAWS):
        order = np.random.default_rng((seed, draw)).permutation(train)
        drawn = np.concatenate([order[labels[order] == name][:count] for name in sorted(set(labels[train]))])
        fitted = fit_by_source(values[drawn], labels[drawn], examples.sources[drawn], strengths)
        found.append(accuracy_score(labels[test], fitted.predict(values[test])))
    return FewShotScore(float(np.mean(found)), float(np.std(found, ddof=1)))


def _score(predicted: np.ndarray, examples: Examples, test: np.ndarray) -> ProbeScore:
    right = (predicted == examples.labels[test]).astype(float)
    return ProbeScore(
        float(right.mean()),
        float(f1_score(examples.labels[test], predicted, average="macro")),
        _error(right, examples.sources[test]),
    )


def _error(values: np.ndarray, sources: np.ndarray) -> float | None:
    """Standard error of the mean of `values` [N]."""
    return ratio_error(values.tolist(), [1.0] * len(values), sources.tolist())


def _without_rounding(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Features [N, D] less the training part's mean, 0 where they do not vary in it: scaled to unit variance, noise
    would be a feature."""
    centred = values - values[train].mean(0)
    size = float(np.sqrt(np.square(values[train]).mean()))
    return np.where(centred[train].std(0) > ROUNDING * size, centred, 0.0).astype(np.float32)


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
    of_source = labels[first]
    is_uniform = bool((of_source[source_of] == labels).all())
    if math.ceil(TEST_SHARE * len(names)) < (classes if is_uniform else 1) or len(names) < 2:
        raise ValueError(
            f"there are {classes} values of {task} in {len(names)} sources: too few to test each; give more "
            "documents, or a coarser field with --label"
        )
    return divide_sources(sources, seed, of_source if is_uniform else None)


def divide_sources(
    sources: Sequence[str] | np.ndarray, seed: int, stratify: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to test on, three sources in ten; `stratify`: the label of each by its name.

    Raises ValueError for fewer than two sources.
    """
    names, first, source_of = np.unique(np.asarray(sources), return_index=True, return_inverse=True)
    if len(names) < 2:
        raise ValueError("one source cannot be divided into a part to train on and one to test on: give more documents")
    # By the order of the data, so that documents without sections are split as if there were no sources.
    order = np.argsort(first)
    of_each = None if stratify is None else stratify[order]
    tested = train_test_split(order, test_size=math.ceil(TEST_SHARE * len(names)), random_state=seed, stratify=of_each)[
        1
    ]
    is_tested = np.isin(source_of, tested)
    return np.flatnonzero(~is_tested), np.flatnonzero(is_tested)
