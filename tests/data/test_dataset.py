"""Opening data for evaluation: the same counts as `prepare` for the same source, and fingerprints that tell
data apart."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import STORY
from tiny import DOCUMENT
from transformers import AutoModel, AutoTokenizer

from textvae.build import FrozenEncoder, build_model, encoder_fingerprint
from textvae.data.dataset import ids_in, load_prepared, open_documents
from textvae.data.fingerprint import data_fingerprint
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.data.sources.corpus import SourceOptions
from textvae.data.sources.records import FieldNames
from textvae.training.start import check_features

PARAGRAPHS = [" ".join(part.split()) for part in STORY.split("\n\n")]


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_a_source_is_counted_as_prepare_counts_it(
    tmp_path: Path, encoder_folder: str, decoder_folder: str, make_processor
) -> None:
    records = [
        {"key": "plain", "body": "The wind rose."},
        {"key": "blank", "body": " \n "},
        {"key": "long", "body": "boat " * 100},
        {"key": "plain", "body": "Again."},
        {"key": "cut", "body": STORY},
    ]
    source = str(write_jsonl(tmp_path / "a.jsonl", records))
    fields = FieldNames(text="body", id="key")
    prepared = prepare(
        PrepareOptions(
            source,
            str(tmp_path / "out"),
            encoder=encoder_folder,
            decoder=decoder_folder,
            max_sentence_tokens=48,
            max_document_sentences=6,
            validation_fraction=0,
            test_fraction=0,
            fields=fields,
        )
    )
    opened = open_documents(source, make_processor(), "train", options=SourceOptions(fields, max_document_sentences=6))
    assert opened.account == prepared.splits["train"]
    stored = load_prepared(tmp_path / "out", "train").documents
    assert list(opened.ids) == list(stored.ids) == stored.ids[:]
    assert (stored.ids[-1], stored.ids[1:3]) == (opened.ids[-1], opened.ids[1:3])
    assert stored.num_sources == opened.num_sources
    assert (opened.num_sources, opened.account.documents_set_aside) == (4, 1)
    assert "set aside 'blank': it holds no sentence" in str(opened)
    assert f"{len(opened)} sections of 4 documents" in str(opened)
    named = {"plain", "blank", "long", "cut"}
    assert ids_in(source, "train", fields) == named
    assert ids_in(str(tmp_path / "out"), "train", fields) == named | {"plain~2"}


def test_what_was_read_lies_in_a_file_as_long_as_it_is_used(tmp_path: Path, make_processor) -> None:
    records = [{"id": f"d{number}", "text": STORY} for number in range(300)] + [{"id": "bad", "text": [1]}]
    source, scratch = tmp_path / "a.jsonl", tmp_path / "scratch"
    scratch.mkdir()
    write_jsonl(source, records[:-1])
    tracemalloc.start()
    try:
        opened = open_documents(str(source), make_processor(), scratch=scratch)
        held = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*textvae/data/*")])
    finally:
        tracemalloc.stop()
    # Sentences and tokens of one document take more than two kilobytes.
    assert sum(block.size for block in held.traces) < 300 * 500
    few = opened.select([7])
    del opened
    (folder,) = scratch.iterdir()
    assert [path.name for path in folder.iterdir()] == ["documents.arrow"]
    assert few.read(0).text() == "\n\n".join(PARAGRAPHS)
    del few
    assert not list(scratch.iterdir())
    with pytest.raises(ValueError, match="line 301"):
        open_documents(str(write_jsonl(source, records)), make_processor(), scratch=scratch)
    assert not list(scratch.iterdir())


def test_what_is_passed_over_is_said(tmp_path: Path, make_processor) -> None:
    (tmp_path / "a.txt").write_text(STORY, encoding="utf-8")
    (tmp_path / "slides.odp").touch()
    opened = open_documents(str(tmp_path), make_processor())
    assert "passed over 1 of no known kind ('slides.odp')" in str(opened.select([0]))


def test_a_limit_takes_documents_from_all_over_a_source(tmp_path: Path, make_processor) -> None:
    records = [{"id": f"d{n}", "text": "One."} for n in range(9)]
    opened = open_documents(str(write_jsonl(tmp_path / "a.jsonl", records)), make_processor(), limit=3)
    assert opened.ids == ["d0", "d4", "d8"]


def test_a_limit_counts_sections_spread_over_the_documents(tmp_path: Path, make_processor) -> None:
    records = [{"id": f"d{n}", "text": STORY} for n in range(4)]
    source = str(write_jsonl(tmp_path / "a.jsonl", records))
    options = SourceOptions(max_document_sentences=4)
    whole = open_documents(source, make_processor(), options=options)
    few = open_documents(source, make_processor(), limit=4, options=options)
    assert len(whole) > 2 * len(few)
    assert len(few) == few.num_sources == 4


@pytest.mark.parametrize(("limit", "cut"), [(0, None), (-1, None), (None, 0)])
def test_impossible_numbers_are_refused(tmp_path: Path, make_processor, limit: int | None, cut: int | None) -> None:
    source = str(write_jsonl(tmp_path / "a.jsonl", [{"text": "One."}]))
    with pytest.raises(ValueError, match="must be 1 or more"):
        open_documents(source, make_processor(), limit=limit, options=SourceOptions(max_document_sentences=cut))


def test_another_language_is_segmented_by_its_own_rules(tmp_path: Path, make_processor) -> None:
    source = str(write_jsonl(tmp_path / "a.jsonl", [{"paragraphs": [["今天很好。", "我们去。"]]}]))
    english, chinese = (
        open_documents(source, make_processor(), options=SourceOptions(language=language)).read(0)
        for language in (None, "zh")
    )
    assert (english.text(), chinese.text()) == ("今天很好。 我们去。", "今天很好。我们去。")


def test_a_source_without_any_text_says_what_was_set_aside(tmp_path: Path, make_processor) -> None:
    source = str(write_jsonl(tmp_path / "a.jsonl", [{"id": "d", "text": " "}]))
    with pytest.raises(ValueError, match=r"(?s)holds no document with text.*set aside 'd'"):
        open_documents(source, make_processor())


def test_fingerprints_tell_data_apart(prepared: Path, make_processor) -> None:
    train, again, test = (load_prepared(prepared, split) for split in ("train", "train", "test"))
    assert train.fingerprint == again.fingerprint != test.fingerprint
    assert (train.fingerprint.rows, train.fingerprint.tokens) == (len(train), train.token_counts.sum())
    ids = train.documents.ids
    other_ids = data_fingerprint([*ids[:-1], ids[-1] + "x"], train.token_counts)
    moved = data_fingerprint(["ab", "c"], train.token_counts[:2]), data_fingerprint(["a", "bc"], train.token_counts[:2])
    assert replace(other_ids, sha256="") == replace(train.fingerprint, sha256="")
    assert other_ids != train.fingerprint
    assert moved[0] != moved[1]


@pytest.fixture(scope="module")
def other_encoder(encoder_backbone: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the same shape and vocabulary as the model's, with other weights."""
    folder = tmp_path_factory.mktemp("other-encoder")
    other = AutoModel.from_pretrained(encoder_backbone)
    other.embeddings.word_embeddings.weight.data.mul_(2)
    other.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder_backbone).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def cached(
    encoder_backbone: str, other_encoder: str, decoder_folder: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Prepared data with cached features of the model's own encoder, of the other, and of nobody knows whose."""
    folder = tmp_path_factory.mktemp("cached")
    source = str(write_jsonl(folder / "a.jsonl", [{"id": f"d{n}", "text": STORY} for n in range(5)]))
    for name, encoder in (("own", encoder_backbone), ("other", other_encoder), ("unknown", encoder_backbone)):
        frozen = FrozenEncoder.pretrained(encoder)
        options = PrepareOptions(
            source,
            str(folder / name),
            encoder=encoder,
            decoder=decoder_folder,
            max_sentence_tokens=48,
            cache_features=True,
        )
        prepare(options, frozen, None if name == "unknown" else frozen.fingerprint)
    return {name: folder / name for name in ("own", "other", "unknown")}


@pytest.mark.parametrize(
    ("data", "trainable", "used"),
    [("own", False, True), ("other", False, False), ("unknown", False, False), ("own", True, False)],
)
def test_cached_features_are_used_by_models_with_their_encoder_only(
    cached: dict[str, Path], settings, make_processor, data: str, trainable: bool, used: bool
) -> None:
    given = settings(*DOCUMENT)
    model = build_model(replace(given, encoder=replace(given.encoder, trainable=trainable)), make_processor())
    opened = open_documents(str(cached[data]), model.processor, "train", encoder=lambda: encoder_fingerprint(model))
    assert (opened.read(0).features is not None) == used
    assert ("cached features of" in str(opened)) != used
    split = load_prepared(cached[data], "train")
    if used:
        check_features(model, split)
    else:
        with pytest.raises(ValueError, match="cached features of"):
            check_features(model, split)


def test_without_a_model_no_cached_features_are_trusted(cached: dict[str, Path], make_processor) -> None:
    assert open_documents(str(cached["own"]), make_processor(), "train").read(0).features is None


def test_words_are_counted_when_the_data_are_prepared(prepared: Path, tmp_path: Path) -> None:
    train = load_prepared(prepared, "train")
    assert train.word_counts is train.stored_word_counts
    expected = np.zeros(len(train.processor.decoder_tokenizer), dtype=int)
    for document in map(train.read, range(len(train))):
        np.add.at(expected, document.decoder_ids, 1)
        expected[train.processor.decoder_tokenizer.eos_token_id] += len(document.sentences)
    assert train.word_counts.tolist() == expected.tolist()
    assert replace(train, stored_word_counts=None).word_counts.tolist() == expected.tolist()
    validation = load_prepared(prepared, "validation")
    assert validation.word_counts.sum() == validation.token_counts.sum()
