"""A document before and after preparation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textvae.data.text.clean import clean_value
from textvae.data.text.segmentation import normalise


@dataclass(frozen=True)
class SourceDocument:
    """One document as it came: one of `text`, `paragraphs` and `units` is set, or none where its text is null.

    Whoever makes one, all its strings are cleaned (`data.text.clean`); title and label are normalised.
    """

    id: str
    text: str | None = None
    """Plain text; blank lines separate paragraphs."""
    paragraphs: list[Any] | None = None
    """Strings, or lists of sentences."""
    units: list[Any] | None = None
    """Nested lists with strings at the bottom, as deep as the hierarchy asks."""
    title: str | None = None
    label: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of the record."""
    unread: tuple[str, ...] = ()
    """Names of those in `extra` that could have been the text, but another field was."""
    place: str = field(default="", compare=False)
    """Where it was read, such as a file and a line."""

    def __post_init__(self) -> None:
        for name in ("id", "text", "paragraphs", "units", "extra"):
            object.__setattr__(self, name, clean_value(getattr(self, name)))
        for name in ("title", "label"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else normalise(value) or None)

    @property
    def has_text(self) -> bool:
        """Whether anything is written in it."""
        return any(map(normalise, _strings([self.text, self.paragraphs, self.units])))

    @property
    def described(self) -> str:
        """Its name, and its place where that is known, for messages."""
        return f"document '{self.id}'" + (f" ({self.place})" if self.place else "")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for child in value:
            yield from _strings(child)


@dataclass(frozen=True)
class EncodedDocument:
    """One prepared document: a row of a prepared data set.

    Sentence stands for a unit of the lowest level, whatever its name. S is the number of sentences. Number
    sequences are lists or integer arrays.
    """

    id: str
    source_id: str
    """Id of the source document that this is, or is a section of: sections of one source are not independent."""
    title: str | None
    label: str | None
    extra: str
    """Further fields of the source record, as a JSON object."""
    sentences: Sequence[str]
    """[S] in reading order. A sentence keeps the separator before it (" " or ""), so the sentences of one
    parent, concatenated, are the parent's normalised text."""
    structure: Sequence[Sequence[int]]
    """structure[l][u] is the number of children of unit u of level l, for every level but the lowest."""
    encoder_ids: Sequence[int]
    """The encoder's tokens of all sentences, special tokens included."""
    encoder_lengths: Sequence[int]
    """[S] encoder tokens of each sentence."""
    decoder_ids: Sequence[int]
    """The decoder's tokens of all sentences, separators included, special tokens not."""
    decoder_lengths: Sequence[int]
    """[S] decoder tokens of each sentence."""
    num_tokens: int
    """Predicted decoder tokens: those of the sentences, and one end for each sentence."""
    num_words: int
    """Whitespace-separated words of `text()`."""
    num_bytes: int
    """UTF-8 bytes of `text()`."""
    features: np.ndarray | None = None
    """[S * D] pooled features of the frozen encoder, where they were cached; stored as float16."""

    def encoder_sentences(self) -> list[np.ndarray]:
        """[S] the encoder's tokens of every sentence, int64."""
        return _cut(self.encoder_ids, self.encoder_lengths)

    def decoder_sentences(self) -> list[np.ndarray]:
        """[S] the decoder's tokens of every sentence, int64."""
        return _cut(self.decoder_ids, self.decoder_lengths)

    def paragraphs(self) -> Iterator[str]:
        """Normalised text of every unit above the lowest level (of the only unit, if there is one level)."""
        start = 0
        for count in self.structure[-1] if len(self.structure) else [len(self.sentences)]:
            yield "".join(self.sentences[start : start + count])
            start += count

    def text(self) -> str:
        """The normalised text: the units above the lowest level, joined by blank lines."""
        return "\n\n".join(self.paragraphs())


def _cut(ids: Sequence[int], lengths: Sequence[int]) -> list[np.ndarray]:
    return np.split(np.asarray(ids, dtype=np.int64), np.cumsum(lengths)[:-1])
