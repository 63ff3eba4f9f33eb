"""What reading did, counted: nothing is split, renamed or set aside without standing here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from textvae.data.sources.folder import PassedOver, listed

_LISTED = 1000
_SHOWN = 10


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
    """Rows of the split: one for a document that was not cut."""
    documents_set_aside: int
    set_aside: tuple[SetAside, ...]
    """The first 1,000 of them."""
    ids_renamed: int
    """Documents whose id another document of the split had before."""
    sentences: int
    sentences_split: int
    """Sentences over the limit of tokens, cut into pieces."""
    empty_units_removed: int
    unread_fields: int
    """Fields that could have been the text, but another was; they are kept with the further fields."""
    tokens: int
    """Predicted tokens, sentence ends included."""
    words: int
    bytes: int

    def listed(self) -> str:
        """The summary in a few lines of text."""
        counts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "set_aside"}
        text = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items() if value)
        shown = "".join(f"\n    set aside '{entry.id}': {entry.reason}" for entry in self.set_aside[:_SHOWN])
        more = self.documents_set_aside - min(len(self.set_aside), _SHOWN)
        said = text + shown + (f"\n    and {more:,} more" if more else "")
        if self.unread_fields:
            said += "\n    unread fields say something else than the text that was read; --text-field chooses"
        return said


@dataclass(frozen=True)
class Account:
    """What became of some documents; accounts of several parts of a split add up."""

    documents: int
    renamed: int
    counts: Mapping[str, int]
    """Sums over the rows of what `stages.COUNTED` names, and the `sections`."""
    num_set_aside: int
    set_aside: tuple[SetAside, ...]
    """The first 1,000 of them."""

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]], counted: Sequence[str], documents: int, renamed: int) -> Account:
        """Of the rows of so many documents. A row without a sentence says in `set_aside` why its document is none."""
        counts: Counter[str] = Counter()
        set_aside = []
        for row in rows:
            counts.update({name: row[name] for name in counted} | {"sections": int(row["num_sentences"] > 0)})
            if row["set_aside"]:
                set_aside.append(SetAside(row["id"], row["set_aside"]))
        return cls(documents, renamed, dict(counts), len(set_aside), tuple(set_aside[:_LISTED]))

    def __add__(self, other: Account) -> Account:
        return Account(
            self.documents + other.documents,
            self.renamed + other.renamed,
            dict(Counter(self.counts) + Counter(other.counts)),
            self.num_set_aside + other.num_set_aside,
            (self.set_aside + other.set_aside)[:_LISTED],
        )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Account:
        """Out of what `dataclasses.asdict` makes of one."""
        return cls(**{**values, "set_aside": tuple(SetAside(**entry) for entry in values["set_aside"])})

    def summary(self) -> SplitSummary:
        total = Counter(self.counts)  # 0 for what no document had
        return SplitSummary(
            documents_read=self.documents,
            documents_kept=self.documents - self.num_set_aside,
            documents_cut=total["cut"],
            sections=total["sections"],
            documents_set_aside=self.num_set_aside,
            set_aside=self.set_aside,
            ids_renamed=self.renamed,
            sentences=total["num_sentences"],
            sentences_split=total["sentences_split"],
            empty_units_removed=total["empty_units"],
            unread_fields=total["unread_fields"],
            tokens=total["num_tokens"],
            words=total["num_words"],
            bytes=total["num_bytes"],
        )


@dataclass(frozen=True)
class PreparationSummary:
    splits: dict[str, SplitSummary]
    passed_over: tuple[PassedOver, ...]
    """Files and splits of the source that are not read."""
    seconds: float

    def __str__(self) -> str:
        lines = [f"  {split}: {summary.listed()}" for split, summary in self.splits.items()]
        return "\n".join(lines + ([f"  {listed(self.passed_over)}"] if self.passed_over else []))
