"""What a search finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    number: int
    """Among the units of the lowest level that the found unit is made of, from 1."""
    text: str


@dataclass(frozen=True)
class SearchResult:
    score: float
    """As `index.By` says."""
    document: str
    title: str | None
    label: str | None
    text: str
    passage: Passage | None = None
    """The part that is nearest to the query; None where the unit is of the lowest level, or no query was made."""
