"""What `textvae prepare` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from textvae.config import check_level_name
from textvae.data.sources.records import FieldNames


@dataclass(frozen=True)
class PrepareOptions:
    source: str
    """A file, a folder, `python-docs`, or a Hub data set, `NAME` or `NAME:CONFIGURATION`."""
    out: str
    """Folder to write; it must not exist yet."""
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    decoder: str | None = None
    """Name or folder of a tokenizer (a run or a prepared data set lends its own); None trains a SentencePiece
    vocabulary on the training split."""
    vocabulary_size: int = 8192
    """Of the vocabulary that is trained."""
    hierarchy: tuple[str, ...] = ("document", "paragraph", "sentence")
    max_sentence_tokens: int = 128
    max_document_sentences: int | None = None
    """Longer documents are cut into sections `ID#1`, `ID#2`, ...; None leaves them whole."""
    validation_fraction: float = 0.05
    test_fraction: float = 0.05
    """Shares of `train` that become the splits which the source lacks."""
    seed: int = 0
    limit: int | None = None
    """Read at most this many documents of each split, the first."""
    num_proc: int = 1
    language: str = "en"
    fields: FieldNames = field(default_factory=FieldNames)
    cache_features: bool = False

    def __post_init__(self) -> None:
        for name in self.hierarchy:
            check_level_name(name)
        for name in ("max_document_sentences", "limit", "num_proc", "vocabulary_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        if min(self.validation_fraction, self.test_fraction) < 0 or self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction {self.validation_fraction} and test_fraction {self.test_fraction} must "
                "not be negative, and must leave something of train"
            )
