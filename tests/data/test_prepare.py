"""`prepare` and `load_prepared`: what is written, counted, carved and refused."""

import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import STORY

from textvae.data.dataset import load_prepared
from textvae.data.document import SourceDocument
from textvae.data.prepare.division import carve, repeated
from textvae.data.prepare.parts import hash_of, place_of
from textvae.data.prepare.pipeline import PreparationSummary, PrepareOptions, prepare
from textvae.data.sources.corpus import CorpusOptions, evenly, read_corpus, unique_names
from textvae.data.sources.folder import SPLITS
from textvae.data.sources.hub import from_all_shards, parse_rows
from textvae.data.sources.records import FieldNames

PARAGRAPHS = [" ".join(part.split()) for part in STORY.split("\n\n")]


@pytest.fixture
def run(tmp_path: Path, encoder_folder: str, decoder_folder: str):
    """source, options -> summary; the data set is at tmp_path / out."""

    def run(source: Path | str, out: str = "out", feature_fn=None, **options: Any) -> PreparationSummary:
        options = {"encoder": encoder_folder, "decoder": decoder_folder, "max_sentence_tokens": 48} | options
        return prepare(PrepareOptions(str(source), str(tmp_path / out), **options), feature_fn)

    return run


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def stories(count: int, prefix: str = "d") -> list[dict[str, Any]]:
    """Documents of different lengths out of the story's paragraphs."""
    return [
        {"id": f"{prefix}{n}", "paragraphs": [PARAGRAPHS[(n + k) % 4] for k in range(1 + n % 3)]} for n in range(count)
    ]


def test_what_is_written_reads_back(run, tmp_path: Path) -> None:
    records = stories(40)
    records[3] |= {"title": "T", "label": "L", "year": 1901}
    summary = run(write_jsonl(tmp_path / "a.jsonl", records))
    texts = {}
    for split, counted in summary.splits.items():
        prepared = load_prepared(tmp_path / "out", split)
        documents = [prepared.read(number) for number in range(len(prepared))]
        assert len(documents) == counted.sections == counted.documents_kept == counted.documents_read
        assert prepared.token_counts.tolist() == [document.num_tokens for document in documents]
        assert sum(document.num_tokens for document in documents) == counted.tokens
        assert sum(document.num_words for document in documents) == counted.words
        assert sum(document.num_bytes for document in documents) == counted.bytes
        assert sum(len(document.sentences) for document in documents) == counted.sentences
        assert isinstance(documents[0].decoder_ids, np.ndarray)
        assert isinstance(documents[0].structure, list)
        texts |= {document.id: document for document in documents}
    assert {name: document.text() for name, document in texts.items()} == {
        record["id"]: "\n\n".join(record["paragraphs"]) for record in records
    }
    kept = texts["d3"]
    assert (kept.title, kept.label, json.loads(kept.extra)) == ("T", "L", {"year": 1901})


def test_everything_that_happens_is_counted(run, tmp_path: Path) -> None:
    records = [
        {"id": "plain", "text": "The wind rose."},
        {"id": "blank", "text": " \n "},
        {"id": "long", "text": "boat " * 100},
        {"id": "holes", "paragraphs": ["One.", "", "Two."]},
        {"id": "plain", "text": "Again."},
        {"id": "cut", "paragraphs": PARAGRAPHS},
    ]
    path = write_jsonl(tmp_path / "a.jsonl", records)
    options = {"validation_fraction": 0.0, "test_fraction": 0.0, "max_document_sentences": 6}
    counted = run(path, **options).splits["train"]
    assert (counted.documents_read, counted.documents_kept, counted.documents_set_aside) == (6, 5, 1)
    assert [(entry.id, entry.reason) for entry in counted.set_aside] == [("blank", "it holds no sentence")]
    assert (counted.sentences_split, counted.empty_units_removed, counted.ids_renamed) == (1, 1, 1)
    assert counted.documents_cut == 1
    prepared = load_prepared(tmp_path / "out", "train")
    assert prepared.dataset["id"][:] == ["plain", "long", "holes", "plain~2", "cut#1", "cut#2", "cut#3"]
    assert counted.sections == 7
    described = json.loads((tmp_path / "out" / "textvae_data.json").read_text(encoding="utf-8"))
    assert described["splits"]["train"]["set_aside"] == [{"id": "blank", "reason": "it holds no sentence"}]
    assert described["hierarchy"] == ["document", "paragraph", "sentence"]
    assert described["versions"]["sentencex"]


def test_the_rows_do_not_depend_on_the_number_of_processes(run, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for number in range(3):
        write_jsonl(folder / f"part{number}.jsonl", stories(30, f"{number}-"))
    run(folder, "one", num_proc=1, decoder=None, vocabulary_size=400)
    run(folder, "three", num_proc=3, decoder=None, vocabulary_size=400)
    for split in ("train", "validation", "test"):
        one, three = (load_prepared(tmp_path / name, split) for name in ("one", "three"))
        assert one.dataset.with_format(None)[:] == three.dataset.with_format(None)[:]
    names = ("decoder_tokenizer/tokenizer.json", "encoder_tokenizer/tokenizer.json", "processor.json")
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "three" / n).read_bytes() for n in names)


def test_missing_splits_are_carved_and_given_ones_kept(run, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    write_jsonl(folder / "train.jsonl", stories(60))
    write_jsonl(folder / "test.jsonl", stories(5, "t"))
    run(folder, validation_fraction=0.2, test_fraction=0.3)
    ids = {split: load_prepared(tmp_path / "out", split).dataset["id"][:] for split in ("train", "validation", "test")}
    assert ids["test"] == [f"t{n}" for n in range(5)]
    assert 5 <= len(ids["validation"]) <= 20
    assert sorted(ids["train"] + ids["validation"]) == sorted(f"d{n}" for n in range(60))


def carved(names: Iterable[str], validation: float, test: float, seed: int = 0) -> dict[str, list[str]]:
    """The names by split."""
    found = list(names)
    places = np.array([place_of(name, seed) for name in found], dtype=np.uint64)
    destination = carve(places, {split: s for split, s in (("validation", validation), ("test", test)) if s})
    return {split: [n for n, to in zip(found, destination, strict=True) if SPLITS[to] == split] for split in SPLITS}


def test_a_document_keeps_its_split_when_others_come_and_go() -> None:
    before = carved((f"d{n}" for n in range(200)), 0.2, 0.1)
    after = carved((f"d{n}" for n in range(300, 50, -1)), 0.2, 0.1)
    place = {name: split for split, names in before.items() for name in names}
    moved = [name for split, names in after.items() for name in names if place.get(name, split) != split]
    assert moved == []
    assert 20 <= len(before["validation"]) <= 60
    assert carved((f"d{n}" for n in range(200)), 0.2, 0.1, seed=1)["test"] != before["test"]


def test_every_carved_split_gets_a_document_or_none_is_carved() -> None:
    assert {split: len(names) for split, names in carved("abc", 0.01, 0.01).items()} == dict.fromkeys(SPLITS, 1)
    with pytest.raises(ValueError, match=r"2 documents are too few.*validation_fraction"):
        carved("ab", 0.01, 0.01)
    assert carved("a", 0, 0)["train"] == ["a"]


def test_a_source_without_train_has_nothing_to_carve_from(run, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus" / "test.jsonl", stories(5))
    with pytest.raises(ValueError, match="no 'train'"):
        run(tmp_path / "corpus")


@given(st.lists(st.sampled_from(["a", "b", "a~2", "a~3", "b~2", "a~2~2", "c"]), max_size=30))
def test_renamed_ids_never_meet_others(names: list[str]) -> None:
    """As those of documents in memory."""
    rows, numbers = repeated(np.array([hash_of(name) for name in names], dtype=np.uint64), names.__getitem__)
    assert rows.tolist() == sorted(rows)
    renamed = dict(zip(rows.tolist(), numbers.tolist(), strict=True))
    unique = [f"{name}~{renamed[row]}" if row in renamed else name for row, name in enumerate(names)]
    assert len(set(unique)) == len(unique)
    assert unique == unique_names(names)


def test_rows_of_a_data_set_with_class_labels() -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    found = datasets.Dataset.from_dict({"text": ["One."], "label": [1]}, features=features)
    (document,) = parse_rows(found, found.features, "name/train", FieldNames())
    assert (document.id, document.label, document.text) == ("name/train:0", "yes", "One.")


def test_a_few_rows_come_from_every_shard_of_a_stream() -> None:
    read = []

    def shard(numbers: list[int]) -> Iterator[dict[str, str]]:
        for number in numbers:
            for row in range(100):
                read.append((number, row))
                yield {"text": f"{number}.{row}"}

    stream = datasets.IterableDataset.from_generator(shard, gen_kwargs={"numbers": [0, 1, 2]})
    texts = [row["text"] for row in from_all_shards(stream, 5)]
    assert texts == ["0.0", "0.1", "1.0", "1.1", "2.0"]
    assert len(read) < 20


def test_hub_data_sets_are_streamed_for_a_few_documents_and_other_splits_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def load(name: str, configuration: str | None, streaming: bool):
        asked.append((name, configuration, streaming))
        rows = datasets.Dataset.from_dict({"text": [f"Number {n}." for n in range(20)]})
        rows = rows.to_iterable_dataset(num_shards=4) if streaming else rows
        return {"train": rows, "unsupervised": rows} if name == "two" else {"corpus": rows}

    monkeypatch.setattr(datasets, "load_dataset", load)
    corpus = read_corpus(CorpusOptions("two:config", limit=4, spread=True))
    assert [document.text for document in corpus.splits["train"]] == [f"Number {n}." for n in (0, 5, 10, 15)]
    assert [entry.path for entry in corpus.passed_over] == ["unsupervised"]
    assert len(list(read_corpus(CorpusOptions("one")).splits["train"])) == 20
    assert asked == [("two", "config", True), ("one", None, False)]


def test_features_are_cached_by_sentence(run, tmp_path: Path) -> None:
    def lengths_and_first(sentences: list[list[int]]) -> np.ndarray:
        return np.array([[len(ids), ids[1]] for ids in sentences], dtype=np.float32)

    path = write_jsonl(tmp_path / "a.jsonl", stories(20))
    run(path, feature_fn=lengths_and_first, cache_features=True)
    prepared = load_prepared(tmp_path / "out", "train")
    assert prepared.dataset.features["features"].feature == datasets.Value("float16")
    for document in map(prepared.read, range(len(prepared))):
        expected = document.features.reshape(len(document.sentences), 2)
        starts = np.cumsum([0, *document.encoder_lengths])
        for row, (start, end) in zip(expected, pairwise(starts), strict=True):
            assert row.tolist() == [end - start, document.encoder_ids[start + 1]]


def test_features_of_the_wrong_shape_are_refused(run, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", stories(20))
    with pytest.raises(ValueError, match="feature_fn gave an array of shape"):
        run(path, feature_fn=lambda sentences: np.zeros((1, 2)), cache_features=True)
    with pytest.raises(ValueError, match="cache_features and feature_fn go together"):
        run(path, cache_features=True)


def test_a_prepared_data_set_lends_its_vocabulary(run, tmp_path: Path, encoder_folder: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", stories(20))
    run(path, "first", decoder=None, vocabulary_size=380)
    run(path, "second", decoder=str(tmp_path / "first"))
    first, second = (load_prepared(tmp_path / name, "train") for name in ("first", "second"))
    assert first.dataset.with_format(None)[:] == second.dataset.with_format(None)[:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "fine"}\n{broken', r"bad\.jsonl, line 2: not valid JSON"),
        ('{"body": "fine"}', r"bad\.jsonl, line 1: no field 'text'"),
        ('{"text": ""}\n{"text": ""}\n{"text": ""}', "no document of split .* has any text"),
        ("", "there is no document to read in .*bad"),
        ('{"id": "x", "units": [["a", ["b"]]]}', r"document 'x' \(.*bad\.jsonl, line 1\) does not fit"),
    ],
)
@pytest.mark.parametrize("num_proc", [1, 2])
def test_bad_sources_are_refused_and_leave_nothing(run, tmp_path: Path, content, message, num_proc) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        run(path, num_proc=num_proc, validation_fraction=0.0, test_fraction=0.0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.jsonl"]


def test_an_empty_file_among_others_is_set_aside_by_name(run, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"t{number:02}.txt").write_text(STORY, encoding="utf-8")
    (folder / "void.txt").touch()
    summary = run(folder, validation_fraction=0.0, test_fraction=0.0)
    assert [entry.id for entry in summary.splits["train"].set_aside] == ["void"]
    assert "set aside 'void': it holds no sentence" in str(summary)


def test_null_empty_and_title_only_documents_are_set_aside_by_name_and_reason(run, tmp_path: Path) -> None:
    records = [
        {"id": "null", "text": None},
        {"id": "blank", "text": " \ufeff"},
        {"_id": "title", "title": "Only a title", "text": ""},
        {"id": "fine", "text": "The wind rose."},
        {"id": "kg", "text": "It weighs much.", "units": ["kg"]},
    ]
    summary = run(write_jsonl(tmp_path / "a.jsonl", records), validation_fraction=0.0, test_fraction=0.0)
    counted = summary.splits["train"]
    assert {entry.id: entry.reason for entry in counted.set_aside} == {
        "null": "its text is null",
        "blank": "it holds no sentence",
        "title": "it has a title, but no sentence",
    }
    assert counted.unread_fields == 1
    assert "1 unread fields" in str(summary)
    assert json.loads(load_prepared(tmp_path / "out", "train").read(1).extra) == {"units": ["kg"]}


@pytest.mark.parametrize("num_proc", [1, 3])
def test_every_kind_of_file_in_a_folder_is_read_or_named(run, tmp_path: Path, num_proc: int) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a.TXT", "b.txt", "._b.txt", "notes.md"):
        (folder / name).write_text(STORY, encoding="utf-8")
    (folder / "c.jsonl").touch()
    write_jsonl(folder / "d.jsonl", [{"id": "\ud800d", "title": "\ud800", "text": "One\ud83d two.", "more": "\ud800"}])
    summary = run(folder, num_proc=num_proc, validation_fraction=0.0, test_fraction=0.0)
    assert load_prepared(tmp_path / "out", "train").dataset["id"][:] == ["a", "b", "d"]
    assert "passed over 1 hidden ('._b.txt'), 1 of no known kind ('notes.md')" in str(summary)
    described = json.loads((tmp_path / "out" / "textvae_data.json").read_text(encoding="utf-8"))
    assert [entry["path"] for entry in described["passed_over"]] == ["._b.txt", "notes.md"]


def test_a_source_that_is_nowhere_is_refused(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'no/such-data' is neither a built-in corpus, nor a file or folder here"):
        run("no/such-data")


def test_limit_reads_the_first_documents_of_each_split(run, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for split in ("train", "validation", "test"):
        write_jsonl(folder / f"{split}.jsonl", stories(9, split[0]))
    run(folder, limit=4)
    assert load_prepared(tmp_path / "out", "validation").dataset["id"][:] == ["v0", "v1", "v2", "v3"]


@pytest.mark.parametrize("total", [3, 9, 100, 1000])
def test_a_few_documents_lie_evenly_in_their_source(total: int) -> None:
    numbers = [int(document.id) for document in evenly((SourceDocument(str(n)) for n in range(total)), 7)]
    gaps = np.diff(numbers)
    assert len(numbers) == min(7, total)
    assert numbers[0] == 0
    assert numbers[-1] >= 0.8 * (total - 1)
    assert max(gaps) <= 2 * min(gaps)


def test_an_existing_folder_is_not_touched(run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        run(write_jsonl(tmp_path / "a.jsonl", stories(20)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"num_proc": 0}, "num_proc is 0"),
        ({"test_fraction": 1.0}, "test_fraction 1.0"),
    ],
)
def test_impossible_options_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareOptions("a", "b", **change)


def test_incomplete_folders_are_refused(run, tmp_path: Path) -> None:
    run(write_jsonl(tmp_path / "a.jsonl", stories(20)))
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no split 'dev'; it has train, validation, test"):
        load_prepared(out, "dev")
    described = (out / "textvae_data.json").read_text(encoding="utf-8")
    (out / "textvae_data.json").write_text(described.replace('"sections": 1,', '"sections": 2,'), encoding="utf-8")
    with pytest.raises(ValueError, match=r"split 'test'.*has 1 rows, not 2; prepare it again"):
        load_prepared(out, "test")
    next((out / "test").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match=r"test/data.*\.arrow' is missing; prepare it again: textvae prepare"):
        load_prepared(out, "test")
    shutil.rmtree(out / "validation")
    with pytest.raises(ValueError, match=r"validation/.*' is missing; prepare it again: textvae prepare"):
        load_prepared(out, "validation")
    (out / "textvae_data.json").unlink()
    with pytest.raises(ValueError, match=r"no complete prepared data set.*textvae prepare"):
        load_prepared(out, "train")
    with pytest.raises(ValueError, match="no complete prepared data set"):
        load_prepared(tmp_path / "nowhere", "train")


def test_levels_that_no_model_could_have_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a level cannot be called 'keys'"):
        PrepareOptions("nowhere", str(tmp_path / "data"), hierarchy=("keys", "sentence"))
