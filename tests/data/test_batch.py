from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from textvae.data.batch import BatchLayout, TokenChunk
from textvae.data.collate import collate, encoder_chunks
from textvae.data.document import EncodedDocument
from textvae.data.packing import pack

LAYOUT = BatchLayout(
    hierarchy=tiny.DOCUMENT,
    context="sentence",
    context_tokens=9,
    start_id=tiny.START,
    end_id=tiny.END,
    decoder_pad_id=tiny.PAD,
    encoder_pad_id=tiny.PAD,
    chunk_tokens=64,
)


def sentences_of(document: EncodedDocument) -> list[list[int]]:
    cuts = np.cumsum(document.decoder_lengths)[:-1]
    return [part.tolist() for part in np.split(np.asarray(document.decoder_ids), cuts)]


@pytest.mark.parametrize("hierarchy", [("sentence",), ("document", "sentence"), tiny.DOCUMENT, tiny.FOUR])
def test_every_unit_knows_its_place(hierarchy: tuple[str, ...]) -> None:
    members = tiny.documents(hierarchy)
    batch = collate(members, replace(LAYOUT, hierarchy=hierarchy))
    for depth, level in enumerate(batch.levels):
        expected = []
        for number, document in enumerate(members):
            counts = document.structure[depth - 1] if depth else [1]
            parents = [parent for parent, count in enumerate(counts) for _ in range(count)]
            before = sum(sum(d.structure[depth - 2]) if depth > 1 else 1 for d in members[:number])
            for index, parent in enumerate(parents):
                last = index + 1 == len(parents) or parents[index + 1] != parent
                expected.append((number, index, before + parent if depth else number, last))
        found = zip(
            level.document.tolist(), level.index.tolist(), level.parent.tolist(), level.last.tolist(), strict=True
        )
        assert list(found) == expected
        assert batch.level_number(level.name) == depth


def test_ancestors_are_parents_of_parents() -> None:
    batch = collate(tiny.documents(tiny.FOUR), replace(LAYOUT, hierarchy=tiny.FOUR))
    for of in range(4):
        for at in range(of + 1):
            for unit, ancestor in enumerate(batch.ancestor(of, at).tolist()):
                for level in reversed(batch.levels[at + 1 : of + 1]):
                    unit = int(level.parent[unit])
                assert unit == ancestor


def test_tokens_are_all_words_and_an_end_for_each_sentence() -> None:
    members = tiny.documents()
    batch = collate(members, LAYOUT)
    expected = [words for document in members for words in sentences_of(document)]
    assert batch.tokens.tolist() == [token for words in expected for token in (*words, tiny.END)]
    assert batch.num_tokens == sum(document.num_tokens for document in members)
    assert torch.equal(torch.bincount(batch.token_sentence), torch.tensor([len(words) + 1 for words in expected]))
    assert (batch.tokens[batch.sentence_end] == tiny.END).all()


def stretches(members: list[EncodedDocument], context: int, context_tokens: int) -> list[list[int]]:
    """Sentences (numbers in the batch) that one row must hold, by the words of the definition."""
    found: list[list[int]] = []
    number = 0
    for document in members:
        units = {
            0: [0] * sum(document.structure[1]),
            1: np.repeat(range(len(document.structure[1])), document.structure[1]),
        }
        units[2] = range(sum(document.structure[1]))
        behind, previous = 0, None
        for unit, length in zip(units[context], document.decoder_lengths, strict=True):
            if unit != previous or behind >= context_tokens:
                found.append([])
                behind = 0
            found[-1].append(number)
            behind, previous, number = behind + length + 1, unit, number + 1
    return found


@pytest.mark.parametrize("chunk_tokens", [1, 40, 4096])
@pytest.mark.parametrize("context_tokens", [1, 9, 1000])
@pytest.mark.parametrize("context", [0, 1, 2])
def test_rows_hold_what_may_be_seen(context: int, context_tokens: int, chunk_tokens: int) -> None:
    members = tiny.documents()
    layout = replace(LAYOUT, context=tiny.DOCUMENT[context], context_tokens=context_tokens, chunk_tokens=chunk_tokens)
    batch = collate(members, layout)
    rows, predicted = [], []
    for chunk in batch.decoder_chunks:
        assert chunk.ids.numel() <= chunk_tokens or len(chunk.ids) == 1
        assert chunk.sentence.shape == (len(chunk.ids), 1 if context == 2 else chunk.ids.shape[1])
        for ids, sentence, token in zip(chunk.ids, chunk.sentence.expand_as(chunk.ids), chunk.token, strict=True):
            real = token >= 0
            predicted.extend(token[real].tolist())
            if real.any():
                rows.append(sorted(set(sentence[real].tolist())))
                length = int(real.sum())
                assert real[:length].all()
                assert torch.equal(sentence[real], batch.token_sentence[token[real]])
                # What is read is the word before; at the first word of a sentence, the start.
                first = torch.cat([torch.tensor([True]), sentence[1:length] != sentence[: length - 1]])
                before = torch.where(first, tiny.START, batch.tokens[token[:length] - 1])
                assert torch.equal(ids[:length], before)
    assert sorted(predicted) == list(range(batch.num_tokens))
    assert sorted(rows) == stretches(members, context, context_tokens)


@pytest.mark.parametrize("chunk_tokens", [1, 80, 4096])
@pytest.mark.parametrize("row_tokens", [8, 40, 256])
@pytest.mark.parametrize("context", [0, 1, 2])
def test_a_packed_row_holds_sequences_that_see_themselves_alone(
    context: int, row_tokens: int, chunk_tokens: int
) -> None:
    members = tiny.documents()
    layout = replace(LAYOUT, context=tiny.DOCUMENT[context], chunk_tokens=chunk_tokens, row_tokens=row_tokens)
    usual, packed = collate(members, replace(layout, row_tokens=0)), collate(members, layout)

    def seen(chunks: Sequence[TokenChunk]) -> dict[int, tuple[int, int, list[int]]]:
        """What is read before each predicted token, its sentence, and which other predictions' inputs it may see."""
        found = {}
        for chunk in chunks:
            assert chunk.ids.numel() <= chunk_tokens or len(chunk.ids) == 1
            for ids, sentence, token, visible in zip(
                chunk.ids, chunk.sentence.expand_as(chunk.ids), chunk.token, chunk.visible(), strict=True
            ):
                assert visible.diagonal().all(), "a place that sees nothing has no attention"
                for place in (token >= 0).nonzero().flatten().tolist():
                    others = token[visible[place]].tolist()
                    found[int(token[place])] = (int(ids[place]), int(sentence[place]), others)
        return found

    assert seen(packed.decoder_chunks) == seen(usual.decoder_chunks)
    longest = max(sum(chunk.token.ge(0).sum(1).tolist()) for chunk in usual.decoder_chunks)
    assert {chunk.ids.shape[1] for chunk in packed.decoder_chunks} <= set(range(row_tokens, row_tokens + longest + 8))
    copied = packed.copies(3, 0, chunk_tokens).decoder_chunks
    places = torch.cat([chunk.token[chunk.token >= 0] for chunk in copied])
    assert sorted(places.tolist()) == list(range(3 * packed.num_tokens))
    assert all(chunk.position is not None for chunk in copied)


def test_copies_do_not_copy_rows_of_padding() -> None:
    """Rows are rounded up for the sake of few shapes; of one short sentence, most are padding."""
    batch = collate([tiny.document("short", [1], [1])], LAYOUT)
    assert sum(len(chunk.ids) for chunk in batch.decoder_chunks) > 1
    chunks = batch.copies(5, 0, LAYOUT.chunk_tokens).decoder_chunks
    assert sum(len(chunk.ids) for chunk in chunks) == 5
    predicted = torch.cat([chunk.token[chunk.token >= 0] for chunk in chunks])
    assert predicted.tolist() == list(range(5 * batch.num_tokens))


@pytest.mark.parametrize("lengths", [[1], [8, 1, 1], [3, 9, 2, 2, 7, 9, 1], [5] * 20], ids=str)
def test_packed_rows_keep_documents_together_and_apart(lengths: list[int]) -> None:
    rows = pack(lengths)
    document = np.repeat(np.arange(len(lengths)), lengths)
    number = np.concatenate([np.arange(length) for length in lengths])
    assert len(set(rows.slot.tolist())) == sum(lengths)
    assert rows.segment.flatten()[rows.slot].tolist() == document.tolist()
    assert rows.position.flatten()[rows.slot].tolist() == number.tolist()
    assert int((rows.segment >= 0).sum()) == sum(lengths)
    columns = rows.segment.shape[1]
    for index in range(len(lengths)):
        slots = rows.slot[torch.from_numpy(document == index)]
        assert (slots[1:] - slots[:-1] == 1).all()
        assert slots[0] // columns == slots[-1] // columns
    values = torch.randn(sum(lengths), 4)
    assert torch.equal(rows.gather(rows.scatter(values)), values)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 3, 100])
def test_the_mask_shows_near_units_of_the_same_document(window: int, causal: bool) -> None:
    rows = pack([3, 9, 2, 2, 7])
    mask = rows.mask(window, causal)[:, 0]
    for row, (segments, positions) in enumerate(zip(rows.segment.tolist(), rows.position.tolist(), strict=True)):
        for i, (mine, at) in enumerate(zip(segments, positions, strict=True)):
            for j, (other, where) in enumerate(zip(segments, positions, strict=True)):
                if mine < 0 and other < 0:
                    continue  # what empty places see is not used
                near = 0 <= at - where < window if causal else abs(at - where) < window
                assert mask[row, i, j] == (mine == other and near)
    assert mask.any(-1).all(), "a place that sees nothing would give NaN"


@pytest.mark.parametrize("chunk_tokens", [1, 30, 1000])
def test_encoder_chunks_hold_every_sentence_once(chunk_tokens: int) -> None:
    random = np.random.default_rng(0)
    sentences = [random.integers(1, 9, length) for length in (3, 40, 1, 3, 12, 11, 70, 3)]
    seen = []
    for chunk in encoder_chunks(sentences, pad_id=0, chunk_tokens=chunk_tokens):
        assert chunk.ids.numel() <= chunk_tokens or len(chunk.ids) == 1
        for ids, mask, sentence in zip(chunk.ids, chunk.mask, chunk.sentence.tolist(), strict=True):
            assert mask.any()
            if sentence >= 0:
                seen.append(sentence)
                assert ids[mask.bool()].tolist() == sentences[sentence].tolist()
                assert not ids[~mask.bool()].any()
    assert sorted(seen) == list(range(len(sentences)))


def test_moving_a_batch_moves_all_of_it() -> None:
    batch = collate(tiny.documents(), LAYOUT)
    moved = batch.to(torch.device("meta"))
    assert moved.ids == batch.ids

    def devices(value: object) -> set[str]:
        if isinstance(value, torch.Tensor):
            return {value.device.type}
        members = value if isinstance(value, tuple) else getattr(value, "__dict__", {}).values()
        return set().union(*(devices(member) for member in members)) if not isinstance(value, str) else set()

    assert devices(moved) == {"meta"}
    assert devices(batch) == {"cpu"}


def test_no_documents_make_no_batch() -> None:
    with pytest.raises(ValueError, match="no documents"):
        collate([], LAYOUT)


def test_cached_features_replace_the_encoder() -> None:
    members = [
        replace(d, features=np.full(2 * len(d.sentences), number, dtype=np.float16))
        for number, d in enumerate(tiny.documents())
    ]
    batch = collate(members, LAYOUT)
    assert batch.encoder_chunks == ()
    assert batch.features is not None
    assert torch.equal(batch.features, batch.levels[-1].document[:, None].float().expand(-1, 2))
