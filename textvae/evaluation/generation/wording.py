"""What is written again: within a theme, within all text, and of the training text; and how long things are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean

from sacrebleu.metrics import BLEU

from textvae.data.document import EncodedDocument

NGRAM = 8
"""Words in a row that count as copied."""
BLEU_PARAGRAPHS = 12
"""Of one theme that are compared with one another."""


@dataclass(frozen=True)
class Structure:
    """Means."""

    paragraphs_per_document: float
    sentences_per_paragraph: float
    words_per_sentence: float


def self_bleu(groups: Iterable[Sequence[str]]) -> float:
    """Mean BLEU of a text of a group against another of the same group, so that it does not depend on how many there
    are (as self-BLEU with all others as references does, Zhu et al. 2018). NaN where no group has two."""
    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(one, [other]).score
        for group in groups
        for place, one in enumerate(group[:BLEU_PARAGRAPHS])
        for rank, other in enumerate(group[:BLEU_PARAGRAPHS])
        if place != rank
    ]
    return fmean(scores) if scores else math.nan


def distinct(texts: Sequence[str], order: int, words: int) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016) of the first `words` words: it falls with the length."""
    kept = list(chain.from_iterable(map(_words, texts)))[:words]
    grams = list(_ngrams(kept, order))
    return len(set(grams)) / len(grams) if grams else math.nan


def copied(groups: Mapping[str, Sequence[str]], training: Iterable[str]) -> dict[str, float]:
    """By name, the share of the texts' runs of `NGRAM` words that the training texts contain: these are read once."""
    grams = {
        name: list(chain.from_iterable(_ngrams(_words(text), NGRAM) for text in texts))
        for name, texts in groups.items()
    }
    sought = set(chain.from_iterable(grams.values()))
    seen: set[tuple[str, ...]] = set()
    for text in training:
        seen.update(gram for gram in _ngrams(_words(text), NGRAM) if gram in sought)
    return {name: fmean(gram in seen for gram in of) if of else math.nan for name, of in grams.items()}


def structure(documents: Sequence[EncodedDocument]) -> Structure:
    paragraphs = [list(document.structure[-1]) if len(document.structure) else [1] for document in documents]
    sentences = sum(len(document.sentences) for document in documents)
    return Structure(
        fmean(map(len, paragraphs)),
        sentences / sum(map(len, paragraphs)),
        sum(document.num_words for document in documents) / sentences,
    )


def _words(text: str) -> list[str]:
    return text.lower().split()


def _ngrams(words: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(order)), strict=False)
