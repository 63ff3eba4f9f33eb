"""A text is found by one of its sentences, however many others it has."""

from pathlib import Path

import numpy as np
import pytest

from textvae.search.passages import MANY, Some


def found(*texts: np.ndarray) -> np.ndarray:
    """Scores of texts, each of passages [n, F], asked for by the first axis."""
    means = np.stack([passages.mean(0) / np.linalg.norm(passages.mean(0)) for passages in texts])
    counts = np.array([len(passages) for passages in texts])
    query = np.eye(texts[0].shape[1], dtype=np.float32)[0]
    return Some(means, np.concatenate(texts), counts, Path("index")).scores(query)


def test_one_sentence_in_hundreds_outweighs_a_short_text_that_is_half_about_it() -> None:
    axes = np.eye(4, dtype=np.float32)
    short = np.stack([axes[0] + 1.5 * axes[2], axes[0] - 1.5 * axes[2]]) / np.sqrt(1 + 1.5**2)
    others = np.tile(axes[1:2], (400, 1))
    long, other = found(np.concatenate([others, axes[:1]]), short)
    assert long > 0.9 > other
    # Of few, both count: the sentence alone would be first again.
    few, other = found(np.concatenate([others[:3], axes[:1]]), short)
    assert other > few


def test_the_mean_counts_less_the_more_it_is_of() -> None:
    axes = np.eye(2, dtype=np.float32)
    for count in (1, MANY, 10 * MANY):
        passages = np.concatenate([axes[:1], np.tile(axes[1:], (count - 1, 1))])
        mean = passages.mean(0)[0] / np.linalg.norm(passages.mean(0))
        weight = 1 / (1 + count / MANY)
        assert found(passages)[0] == pytest.approx((1 + weight * mean) / (1 + weight), rel=1e-6)
