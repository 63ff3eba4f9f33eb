"""From encoded documents to a batch: tokens in a few padded shapes, as the layout asks.

Shapes as in `batch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch

from textvae.data.batch import (
    BatchLayout,
    DocumentBatch,
    EncoderChunk,
    TokenChunk,
    UnitLevel,
    key_of,
)
from textvae.data.document import EncodedDocument
from textvae.data.packing import IGNORED, pack, round_up

BLOCKS = 12
"""Blocks of rows that a full chunk holds."""


def collate(documents: Sequence[EncodedDocument], layout: BatchLayout) -> DocumentBatch:
    """One batch, its documents in the given order. Raises ValueError when there is none."""
    if not documents:
        raise ValueError("cannot make a batch of no documents")
    levels = _unit_levels(documents, layout.hierarchy)
    lengths = np.concatenate([np.asarray(d.decoder_lengths, dtype=np.int64) for d in documents])
    text = np.concatenate([np.asarray(d.decoder_ids, dtype=np.int64) for d in documents])
    ends = np.cumsum(lengths + 1) - 1
    tokens = np.full(len(text) + len(lengths), layout.end_id, dtype=np.int64)
    tokens[np.setdiff1d(np.arange(len(tokens)), ends, assume_unique=True)] = text
    features = None
    if documents[0].features is not None:
        flat = [np.asarray(d.features, dtype=np.float32).reshape(len(d.decoder_lengths), -1) for d in documents]
        features = torch.from_numpy(np.concatenate(flat))
    return DocumentBatch(
        ids=tuple(d.id for d in documents),
        document_key=torch.tensor([key_of(d.id) for d in documents]),
        sample=torch.zeros(len(documents), dtype=torch.long),
        levels=levels,
        tokens=torch.from_numpy(tokens),
        token_sentence=torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths + 1)),
        sentence_end=torch.from_numpy(ends),
        decoder_chunks=tuple(_decoder_chunks(tokens, ends, levels, layout)),
        encoder_chunks=() if features is not None else tuple(_encoder_chunks(documents, layout)),
        features=features,
    )


def _unit_levels(documents: Sequence[EncodedDocument], hierarchy: tuple[str, ...]) -> tuple[UnitLevel, ...]:
    levels = []
    above = np.arange(len(documents))  # document of every unit one level up
    for depth, name in enumerate(hierarchy):
        if depth == 0:
            parent = np.arange(len(documents))
            last = np.ones(len(documents), dtype=bool)
            document = above
        else:
            counts = np.concatenate([np.asarray(d.structure[depth - 1], dtype=np.int64) for d in documents])
            parent = np.repeat(np.arange(len(counts)), counts)
            last = np.zeros(len(parent), dtype=bool)
            last[np.cumsum(counts) - 1] = True
            document = above[parent]
        sizes = np.bincount(document, minlength=len(documents))
        index = np.arange(len(document)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        levels.append(
            UnitLevel(
                name,
                torch.from_numpy(parent),
                torch.from_numpy(document),
                torch.from_numpy(index),
                torch.from_numpy(last),
                pack(sizes.tolist()),
            )
        )
        above = document
    return tuple(levels)


def _decoder_chunks(
    tokens: np.ndarray, ends: np.ndarray, levels: tuple[UnitLevel, ...], layout: BatchLayout
) -> Iterable[TokenChunk]:
    """Runs of sentences that may see one another. A run ends with its context unit, or before a sentence that
    has `context_tokens` behind it: what a sentence sees must not depend on its own length."""
    starts = np.concatenate([[0], ends[:-1] + 1])
    unit = np.arange(len(ends))
    context = next(number for number, level in enumerate(levels) if level.name == layout.context)
    for level in reversed(levels[context + 1 :]):
        unit = level.parent.numpy()[unit]
    borders = [0]
    for sentence in range(1, len(ends)):
        is_full = starts[sentence] - starts[borders[-1]] >= layout.context_tokens
        if unit[sentence] != unit[sentence - 1] or is_full:
            borders.append(sentence)
    borders.append(len(ends))
    is_sentence = context == len(levels) - 1
    # A sentence's inputs are the start token and its words; its targets the words and the end token.
    inputs = np.roll(tokens, 1)
    inputs[starts] = layout.start_id
    sentence_of = np.repeat(np.arange(len(ends)), ends - starts + 1)
    spans = [(starts[first], ends[after - 1] + 1) for first, after in pairwise(borders)]
    if layout.row_tokens:
        yield from _packed_chunks(inputs, sentence_of, spans, layout)
        return
    for members, rows, columns in _buckets([stop - start for start, stop in spans], layout.chunk_tokens):
        ids = np.full((rows, columns), layout.decoder_pad_id)
        owner = np.zeros((rows, 1 if is_sentence else columns), dtype=np.int64)
        token = np.full((rows, columns), IGNORED)
        for row, member in enumerate(members):
            start, stop = spans[member]
            ids[row, : stop - start] = inputs[start:stop]
            owner[row, : stop - start] = sentence_of[start : start + 1 if is_sentence else stop]
            token[row, : stop - start] = np.arange(start, stop)
        yield TokenChunk.of(torch.from_numpy(ids), torch.from_numpy(owner), torch.from_numpy(token))


def _packed_chunks(
    inputs: np.ndarray, sentence_of: np.ndarray, spans: Sequence[tuple[int, int]], layout: BatchLayout
) -> Iterable[TokenChunk]:
    """Several spans of the tokens in a row. On a device that is faster than the host that feeds it, few large chunks
    with hardly any padding; masks keep the spans apart."""
    packed = pack([stop - start for start, stop in spans], layout.row_tokens)
    shape = packed.segment.shape
    place = packed.slot  # spans follow one another and leave no token out
    ids = torch.full(shape, layout.decoder_pad_id)
    ids.view(-1)[place] = torch.from_numpy(inputs)
    owner = torch.zeros(shape, dtype=torch.long)
    owner.view(-1)[place] = torch.from_numpy(sentence_of)
    token = torch.full(shape, IGNORED)
    token.view(-1)[place] = torch.arange(len(inputs))
    rows = max(1, layout.chunk_tokens // shape[1])
    for part in zip(*(values.split(rows) for values in (ids, owner, token, packed.position)), strict=True):
        yield TokenChunk.of(*part)


def _encoder_chunks(documents: Sequence[EncodedDocument], layout: BatchLayout) -> Iterable[EncoderChunk]:
    sentences = [ids for document in documents for ids in document.encoder_sentences()]
    yield from encoder_chunks(sentences, layout.encoder_pad_id, layout.chunk_tokens)


def encoder_chunks(sentences: Sequence[np.ndarray], pad_id: int, chunk_tokens: int) -> Iterable[EncoderChunk]:
    """Sentences (token ids with the encoder's special tokens) in chunks of similar length."""
    for members, rows, columns in _buckets([len(s) for s in sentences], chunk_tokens):
        ids = np.full((rows, columns), pad_id)
        mask = np.zeros((rows, columns), dtype=np.int64)
        mask[:, 0] = 1
        sentence = np.full(rows, IGNORED)
        for row, member in enumerate(members):
            ids[row, : len(sentences[member])] = sentences[member]
            mask[row, : len(sentences[member])] = 1
            sentence[row] = member
        yield EncoderChunk(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(sentence))


def row_length(length: int) -> int:
    """Columns of the row that a sequence of this length is padded to."""
    return round_up(length, 8 if length <= 64 else 16)


def _buckets(lengths: Sequence[int], chunk_tokens: int) -> Iterable[tuple[list[int], int, int]]:
    """Group sequences of similar length: (members, rows, columns) of every chunk.

    A chunk holds whole blocks of rows, each a twelfth of the budget: as many as its longest sequence has company of
    its own row length. Little is padded, and the shapes are few, because on some backends every new shape compiles
    a kernel.
    """
    order = sorted(range(len(lengths)), key=lambda s: -lengths[s])
    while order:
        columns = row_length(lengths[order[0]])
        block = max(1, chunk_tokens // BLOCKS // columns)
        most = max(1, chunk_tokens // columns // block) * block
        alike = sum(row_length(lengths[s]) == columns for s in order[:most])
        members, order = order[: round_up(alike, block)], order[round_up(alike, block) :]
        rows = len(members) if order else min(round_up(len(members), 2), most)
        yield members, rows, columns
