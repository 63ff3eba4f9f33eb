"""What preparation did, counted: nothing is split, renamed or set aside without standing here."""

from __future__ import annotations

from dataclasses import dataclass, fields

_LISTED = 1000


@dataclass(frozen=True)
class SetAside:
    """A document that could not be kept."""

    id: str
    reason: str


@dataclass(frozen=True)
class SplitSummary:
    documents_read: int
    documents_kept: int
    documents_cut: int
    """Documents over the limit of sentences, cut into sections."""
    sections: int
    """Rows of the prepared split: one for a document that was not cut."""
    documents_set_aside: int
    set_aside: tuple[SetAside, ...]
    """The first 1,000 of them."""
    ids_renamed: int
    """Documents whose id another document of the split had before."""
    sentences: int
    sentences_split: int
    """Sentences over the limit of tokens, cut into pieces."""
    empty_units_removed: int
    tokens: int
    """Predicted tokens, sentence ends included."""
    words: int
    bytes: int

    def listed(self) -> str:
        """The summary in a few lines of text."""
        counts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "set_aside"}
        text = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items() if value)
        shown = "".join(f"\n    set aside '{entry.id}': {entry.reason}" for entry in self.set_aside[:10])
        more = self.documents_set_aside - min(len(self.set_aside), 10)
        return text + shown + (f"\n    and {more:,} more" if more else "")


def first_set_aside(ids: list[str], reason: str) -> tuple[SetAside, ...]:
    return tuple(SetAside(name, reason) for name in ids[:_LISTED])


@dataclass(frozen=True)
class PreparationSummary:
    splits: dict[str, SplitSummary]
    seconds: float

    def __str__(self) -> str:
        return "\n".join(f"  {split}: {summary.listed()}" for split, summary in self.splits.items())
