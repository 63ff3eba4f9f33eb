"""Documents as tensors: flat units with parent indices, and tokens in a few padded shapes.

Shapes: B documents, U_l units of level l, S sentences (units of the lowest level), N predicted tokens
(sentence ends included), R rows, C columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from textvae.data.packing import PackedRows, pack

T = TypeVar("T")


@dataclass(frozen=True)
class BatchLayout:
    """What the model asks of its batches."""

    hierarchy: tuple[str, ...]
    context: str
    context_tokens: int
    start_id: int
    end_id: int
    decoder_pad_id: int
    encoder_pad_id: int
    chunk_tokens: int = 8192
    """Padded tokens of one chunk at most (a longer sequence is a chunk of its own)."""
    row_tokens: int = 0
    """Length of the decoder's rows where each holds several sequences (a longer sequence lengthens them all); 0: a row
    for every sequence, in chunks of similar length."""


@dataclass(frozen=True)
class UnitLevel:
    """All units of one level, documents and then reading order."""

    name: str
    parent: Tensor
    """[U] index of the parent among the units of the level above; the unit's own index at the root."""
    document: Tensor
    """[U] index of the document."""
    index: Tensor
    """[U] reading-order number within the document."""
    last: Tensor
    """[U] whether the unit ends its parent (always true at the root)."""
    rows: PackedRows

    def __len__(self) -> int:
        return len(self.parent)


@dataclass(frozen=True)
class TokenChunk:
    """Sequences in rows of one shape [R, C], padded on the right: one of them in a row, or several."""

    ids: Tensor
    """[R, C] input tokens."""
    sentence: Tensor
    """[R, C] sentence of every position, 0 where empty; [R, 1] where a row is one sentence."""
    token: Tensor
    """[R, C] index of the predicted token among all N of the batch; -1 where empty or not to be scored."""
    scored: Tensor
    """[n] places in the flattened rows whose predicted tokens are scored, in order."""
    position: Tensor | None = None
    """[R, C] number of every place in its sequence, 0 where empty; None where a row is one sequence."""

    @classmethod
    def of(cls, ids: Tensor, sentence: Tensor, token: Tensor, position: Tensor | None = None) -> TokenChunk:
        return cls(ids, sentence, token, (token.flatten() >= 0).nonzero().flatten(), position)

    @property
    def positions(self) -> Tensor:
        """[R, C] number of every place in its sequence."""
        if self.position is not None:
            return self.position
        return torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)

    def visible(self) -> Tensor:
        """[R, C, C] true where a place may look: back, within its sequence."""
        begun = (self.positions == 0).cumsum(1)
        return (begun[:, :, None] == begun[:, None, :]).tril()


@dataclass(frozen=True)
class EncoderChunk:
    """Sentences of similar length for the encoder, padded on the right."""

    ids: Tensor
    """[R, C]"""
    mask: Tensor
    """[R, C] 1 on real tokens; an empty row has a single 1."""
    sentence: Tensor
    """[R] sentence of every row; -1 for an empty row."""

    def to(self, device: torch.device) -> EncoderChunk:
        return _move(self, device)


@dataclass(frozen=True)
class DocumentBatch:
    ids: tuple[str, ...]
    document_key: Tensor
    """[B] stable 64-bit key of the document's id, for keyed noise."""
    sample: Tensor
    """[B] number of the importance sample that this copy of a document is for; 0 without copies."""
    levels: tuple[UnitLevel, ...]
    """The data's hierarchy, top first, whether or not the model has a latent there."""
    tokens: Tensor
    """[N] predicted tokens in reading order, every sentence closed by the end token."""
    token_sentence: Tensor
    """[N] sentence of every predicted token."""
    sentence_end: Tensor
    """[S] index of every sentence's end among the N tokens."""
    decoder_chunks: tuple[TokenChunk, ...]
    encoder_chunks: tuple[EncoderChunk, ...]
    """Empty when `features` are given."""
    features: Tensor | None
    """[S, D] cached pooled states of a frozen encoder."""

    def __len__(self) -> int:
        return len(self.document_key)

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def token_position(self) -> Tensor:
        """[N] number of every predicted token in its sentence."""
        first = torch.cat([self.sentence_end.new_zeros(1), self.sentence_end[:-1] + 1])
        return torch.arange(self.num_tokens, device=first.device) - first[self.token_sentence]

    def by_document(self, values: Tensor, document: Tensor) -> Tensor:
        """[B] sums of `values` [U], whose documents are `document` [U], in their own precision."""
        return values.new_zeros(len(self)).index_add(0, document, values)

    def level_number(self, name: str) -> int:
        return next(number for number, level in enumerate(self.levels) if level.name == name)

    def ancestor(self, of: int, at: int) -> Tensor:
        """[U_of] index of every unit's ancestor at level `at` (itself when `at` is `of`)."""
        index = torch.arange(len(self.levels[of]), device=self.document_key.device)
        for level in reversed(self.levels[at + 1 : of + 1]):
            index = level.parent[index]
        return index

    def copies(self, count: int, first_sample: int, chunk_tokens: int) -> DocumentBatch:
        """`count` copies of the batch, one after the other, for samples `first_sample` onwards."""
        sample = torch.arange(first_sample, first_sample + count, device=self.sample.device)
        num_sentences = len(self.levels[-1])
        above = [self.levels[0], *self.levels[:-1]]
        return replace(
            self,
            ids=self.ids * count,
            document_key=self.document_key.repeat(count),
            sample=sample.repeat_interleave(len(self)),
            levels=tuple(
                _copy_level(level, len(up), len(self), count) for level, up in zip(self.levels, above, strict=True)
            ),
            tokens=self.tokens.repeat(count),
            token_sentence=_copy_index(self.token_sentence, num_sentences, count),
            sentence_end=_copy_index(self.sentence_end, self.num_tokens, count),
            decoder_chunks=tuple(
                part
                for chunk in self.decoder_chunks
                for part in _copy_chunk(chunk, num_sentences, self.num_tokens, count, chunk_tokens)
            ),
            encoder_chunks=(),
            features=None,
        )

    def to(self, device: torch.device) -> DocumentBatch:
        return _move(self, device)


def key_of(text: str) -> int:
    """A stable signed 64-bit key for a document id or a level's name."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def _copy_index(index: Tensor, size: int, count: int) -> Tensor:
    """[count * U]: `index` into `size` things, for `count` copies of them laid one after the other."""
    shift = torch.arange(count, device=index.device).repeat_interleave(len(index)) * size
    return index.repeat(count) + shift


def _copy_level(level: UnitLevel, num_parents: int, num_documents: int, count: int) -> UnitLevel:
    document = _copy_index(level.document, num_documents, count)
    rows = pack(torch.bincount(document).tolist())
    return UnitLevel(
        level.name,
        _copy_index(level.parent, num_parents, count),
        document,
        level.index.repeat(count),
        level.last.repeat(count),
        _move(rows, level.parent.device),
    )


def _copy_chunk(
    chunk: TokenChunk, num_sentences: int, num_tokens: int, count: int, chunk_tokens: int
) -> Iterable[TokenChunk]:
    filled = chunk.token[:, 0] >= 0  # rows of padding, which save compiled shapes, would only be computed count times
    parts = (chunk.ids, chunk.sentence, chunk.token, chunk.positions)
    ids, sentence, token, position = (part[filled].repeat(count, 1) for part in parts)
    copy = torch.arange(count, device=ids.device).repeat_interleave(int(filled.sum()))[:, None]
    copied = (ids, sentence + copy * num_sentences, torch.where(token >= 0, token + copy * num_tokens, token), position)
    size = max(1, chunk_tokens // ids.shape[1])
    for ids, sentence, token, position in zip(*(values.split(size) for values in copied), strict=True):
        yield TokenChunk.of(ids, sentence, token, None if chunk.position is None else position)


def _move(value: T, device: torch.device) -> T:
    moved: Any = value
    if isinstance(value, Tensor):
        moved = value.to(device, non_blocking=True)
    elif isinstance(value, tuple):
        moved = tuple(_move(member, device) for member in value)
    elif is_dataclass(value):
        moved = moved.__class__(*(_move(getattr(value, field.name), device) for field in fields(value)))
    return moved
