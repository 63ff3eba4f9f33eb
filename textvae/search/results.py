"""What a search finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    number: int
    """Among the units of the lowest level that the found unit is made of, from 1."""
    text: str
    place: dict[str, int]
    """By level, down to its own: which unit of the document it is in, from 1."""
    start: int
    """Of the text in its document's, in characters."""
    end: int


@dataclass(frozen=True)
class SearchResult:
    score: float
    """As `index.By` says."""
    document: str
    source_id: str
    """Id of the source that the document is, or is a section of."""
    title: str | None
    label: str | None
    text: str
    place: dict[str, int]
    """As of a `Passage`; without levels that have one unit a document."""
    start: int
    """Of the text in its document's, in characters."""
    end: int
    passage: Passage | None = None
    """The part that is nearest to the query; None where the unit is of the lowest level, or no query was made."""
