"""Reading files: every kind, the splits their names give, and errors that name the place."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from textvae.data.document import SourceDocument
from textvae.data.sources.files import read_document, read_file
from textvae.data.sources.folder import find_files, listed
from textvae.data.sources.records import FieldNames


def read(path: Path, root: Path | None = None, **fields: str) -> list[SourceDocument]:
    return list(read_file(path, root or path, FieldNames(**fields)))


def write_lines(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


class zstd:  # noqa: N801
    """What lzma, gzip and bz2 have; Python has it from 3.14 on."""

    @staticmethod
    def open(path: Path, mode: str) -> pyarrow.NativeFile:
        return pyarrow.output_stream(str(path), compression="zstd")

    @staticmethod
    def compress(data: bytes) -> bytes:
        return pyarrow.compress(data, codec="zstd", asbytes=True)


COMPRESSED = [(".xz", lzma), (".gz", gzip), (".bz2", bz2), (".zst", zstd)]


@pytest.mark.parametrize(("ending", "module"), [("", None), *COMPRESSED])
def test_json_lines_compressed_or_not(tmp_path: Path, ending: str, module) -> None:
    path = tmp_path / f"corpus.jsonl{ending}"
    content = b'{"text": "One."}\n\n{"_id": 7, "title": "T", "label": 3, "paragraphs": ["Two."], "year": 1901}\n'
    with (module.open if module else open)(path, "wb") as file:
        file.write(content)
    first, second = read(path)
    assert first == SourceDocument("corpus:1", text="One.")
    assert second == SourceDocument("7", paragraphs=["Two."], title="T", label="3", extra={"year": 1901})


def test_units_come_before_paragraphs_and_text(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.json", '{"units": [["A."]], "paragraphs": ["B."], "text": "C."}')
    (document,) = read(path)
    assert (document.units, document.paragraphs, document.text) == ([["A."]], None, None)


def test_fields_go_by_the_names_that_were_given(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", '{"body": "A.", "key": "k", "group": "g"}')
    (document,) = read(path, text="body", id="key", label="group")
    assert document == SourceDocument("k", text="A.", label="g")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"a\.jsonl, line 2: not valid JSON"),
        ('["a"]', r"a\.jsonl, line 2: a JSON list, but each must be one JSON object"),
        ('{"body": "x"}', r"a\.jsonl, line 2: no field 'text'.*\['body'\].*--text-field"),
        ('{"text": 5}', r"a\.jsonl, line 2: field 'text' is of type int, not str"),
        ('{"paragraphs": "x"}', r"a\.jsonl, line 2: field 'paragraphs' is of type str, not list"),
        (b'{"text": "caf\xe9"}', r"a\.jsonl, line 2: not valid UTF-8 at byte 13 \(0xe9\).*iconv"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str | bytes, message: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", '{"text": "fine"}', line)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.xz"
    path.write_bytes(lzma.compress(b'{"text": "x"}' * 1000)[:-20])
    with pytest.raises(ValueError, match=r"a\.jsonl\.xz is damaged"):
        read(path)


def test_text_that_is_not_utf8_is_named_by_byte(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "old.txt", b"caf\xe9 au lait")
    with pytest.raises(ValueError, match=r"old\.txt: not valid UTF-8 at byte 3 \(0xe9\).*iconv -f latin1"):
        read(path)


def test_text_files_are_documents_named_by_their_path(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write_lines(tmp_path / "deep" / "b.v2.txt", "\ufeffText.")
    write_lines(tmp_path / "empty.txt", "")
    files = find_files(tmp_path).splits["train"]
    documents = [document for path in files for document in read(path, tmp_path)]
    assert documents == [SourceDocument("deep/b.v2", text="Text."), SourceDocument("empty", text="")]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": ["One.", None], "paragraphs": [None, ["Two."]], "label": [1, 2]})
    pyarrow.parquet.write_table(table, path)
    assert read(path) == [
        SourceDocument("a:0", text="One.", label="1"),
        SourceDocument("a:1", paragraphs=["Two."], label="2"),
    ]
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"a\.parquet is not a valid Parquet file"):
        read(path)


def test_files_name_their_splits(tmp_path: Path) -> None:
    for name in (
        "train-00000.jsonl",
        "train-00001.jsonl",
        "test.jsonl.xz",
        "validation.parquet",
        "README.md",
    ):
        (tmp_path / name).touch()
    found = {split: [path.name for path in paths] for split, paths in find_files(tmp_path).splits.items()}
    assert found == {
        "train": ["train-00000.jsonl", "train-00001.jsonl"],
        "validation": ["validation.parquet"],
        "test": ["test.jsonl.xz"],
    }


def test_folders_name_the_splits_of_text_files_but_their_names_do_not(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.txt").touch()
    assert {split: len(paths) for split, paths in find_files(tmp_path).splits.items()} == {"train": 1, "test": 1}
    assert list(find_files(tmp_path / "train").splits) == ["train"]


@pytest.mark.parametrize("name", ["testimony.jsonl", "trained.jsonl"])
def test_a_name_that_only_begins_like_a_split_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert list(find_files(tmp_path).splits) == ["train"]


def test_a_mixture_of_named_and_unnamed_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "queries.jsonl").touch()
    with pytest.raises(ValueError, match=r"mixes files that name a split \(train\).*'queries\.jsonl'"):
        find_files(tmp_path)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.md").touch()
    with pytest.raises(ValueError, match=r"holds no \.txt"):
        find_files(tmp_path)
    with pytest.raises(ValueError, match="of no known kind"):
        find_files(tmp_path / "notes.md")


@pytest.mark.parametrize("name", ["A.TXT", "a.Txt", "a.txt.gz", "a.txt.XZ", "a.TXT.bz2", "a.txt.zst"])
def test_text_is_read_whatever_the_case_of_its_suffix_compressed_or_not(tmp_path: Path, name: str) -> None:
    module = dict(COMPRESSED).get(Path(name).suffix.lower())
    with (module.open if module else open)(tmp_path / name, "wb") as file:
        file.write("Été.".encode())
    (found,) = find_files(tmp_path).splits["train"]
    assert read(found, tmp_path) == [SourceDocument(name.split(".")[0], text="Été.")]


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    for name in (
        "a.txt",
        "._a.txt",
        ".hidden/b.txt",
        "deep/.ipynb_checkpoints/c-checkpoint.txt",
        "__MACOSX/d.txt",
        "notes.md",
        "slides.PDF",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00\xb0")
    files = find_files(tmp_path)
    assert files.splits == {"train": [tmp_path / "a.txt"]}
    assert listed(files.passed_over) == (
        "passed over 4 hidden ('._a.txt', '.hidden/b.txt', '__MACOSX/d.txt', "
        "'deep/.ipynb_checkpoints/c-checkpoint.txt'), 2 of no known kind ('notes.md', 'slides.PDF')"
    )
    (tmp_path / "a.txt").unlink()
    with pytest.raises(ValueError, match=r"holds no \.txt.*passed over 4 hidden"):
        find_files(tmp_path)


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.txt").touch()
    assert len(find_files(tmp_path / ".cache").splits["train"]) == 1


def test_queries_and_judgements_beside_a_corpus_are_no_documents(tmp_path: Path) -> None:
    for name in ("nano/corpus.jsonl", "nano/queries.jsonl", "nano/qrels/test.tsv", "nano/qrels/dev.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = find_files(tmp_path)
    assert files.splits == {"train": [tmp_path / "nano" / "corpus.jsonl"]}
    assert {entry.path for entry in files.passed_over} == {
        "nano/queries.jsonl",
        "nano/qrels/test.tsv",
        "nano/qrels/dev.jsonl",
    }
    (tmp_path / "nano" / "corpus.jsonl").unlink()
    assert "queries.jsonl" in {path.name for path in find_files(tmp_path).splits["train"]}


def test_splits_are_named_below_a_folder_that_all_files_share(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("README.md", "data/train-00000-of-00001.parquet", "data/Test-00000.parquet"):
        (tmp_path / name).touch()
    assert list(find_files(tmp_path).splits) == ["train", "test"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.jsonl.gz", "a.txt.xz"])
def test_byte_order_marks_say_the_encoding_and_are_no_text(tmp_path: Path, name: str, encoding: str) -> None:
    content = "Über.\u2028Über uns." if ".txt" in name else '{"text": "Über.\u2028Über uns."}\n{"text": "Zwei."}\n'
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(Path(name).suffix, open)
    with opener(tmp_path / name, "wb") as file:
        file.write((mark + content).encode(encoding))
    assert read(tmp_path / name)[0].text == "Über.\u2028Über uns."


def test_files_joined_with_their_marks_are_read(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", '\ufeff{"text": "One."}', '\ufeff{"text": "Two."}')
    assert [document.text for document in read(path)] == ["One.", "Two."]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_file_may_hold_one_value(tmp_path: Path, indent: int | None) -> None:
    records = [{"text": "One."}, {"id": "b", "text": "Two."}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(records, indent=indent), encoding="utf-8")
    assert [(document.id, document.text) for document in read(path)] == [("a:1", "One."), ("b", "Two.")]
    path.write_text(json.dumps(records[1], indent=indent), encoding="utf-8")
    assert read(path) == [SourceDocument("b", text="Two.")]
    path.write_text('[\n{"text": 5}]', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json, item 1: field 'text' is of type int"):
        read(path)
    path.write_text('{\n"text": "x"', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json: neither a JSON object a line, nor one JSON value"):
        read(path)


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"text": ' + "[" * 900 + "]" * 900 + "}", '{"n": ' + "9" * 5000 + "}"]
)
def test_json_beyond_pythons_limits_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: "):
        read(write_lines(tmp_path / "a.jsonl", line))


@pytest.mark.parametrize(("ending", "module"), COMPRESSED)
def test_archives_damaged_in_the_middle_are_named(tmp_path: Path, ending: str, module) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    content = bytearray(module.compress(b"".join(b'{"text": "%d"}\n' % (n * n * n) for n in range(20_000))))
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.jsonl\{ending}(, line \d+: not valid| is damaged)"):
        read(path)


@pytest.mark.parametrize("null", ["null", "NaN"])
def test_a_null_text_is_a_document_without_text(tmp_path: Path, null: str) -> None:
    path = write_lines(
        tmp_path / "a.jsonl", f'{{"id": "d", "text": {null}, "title": {null}, "label": {null}, "more": {null}}}'
    )
    assert read(path) == [SourceDocument("d")]
    assert read(path, text="text") == [SourceDocument("d")]


def test_an_empty_id_is_none(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", '{"id": "", "text": "x"}', r'{"id": "\ud800", "_id": "b", "text": "x"}')
    assert [document.id for document in read(path)] == ["a:1", "b"]


@pytest.mark.parametrize("units", [["kg", "g"], [5, 6], "kg", 7, {"kg": 1}, []])
@pytest.mark.parametrize("field", ["units", "paragraphs"])
def test_a_column_that_is_no_text_stays_beside_the_text(tmp_path: Path, field: str, units) -> None:
    path = write_lines(tmp_path / "a.jsonl", json.dumps({"id": "d", "text": "It weighs much.", field: units}))
    kept = {} if units == [] else {field: units}
    assert read(path) == [SourceDocument("d", text="It weighs much.", extra=kept, unread=tuple(kept))]
    assert read(path, text="text") == [SourceDocument("d", text="It weighs much.", extra={field: units})]


def test_lists_that_hold_the_words_of_the_text_are_its_structure(tmp_path: Path) -> None:
    record = {"id": "d", "text": "A one. A two.\n\nB.", "paragraphs": ["A one. A two.", "B."]}
    path = write_lines(tmp_path / "a.jsonl", json.dumps(record))
    assert read(path) == [SourceDocument("d", paragraphs=record["paragraphs"])]


def test_nested_lists_are_read_before_a_text_that_says_else_which_is_kept(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", json.dumps({"id": "d", "text": "A blurb.", "units": [[["A."]]]}))
    assert read(path) == [SourceDocument("d", units=[[["A."]]], extra={"text": "A blurb."}, unread=("text",))]


def test_any_field_may_be_named_as_the_text(tmp_path: Path) -> None:
    record = {"id": "d", "text": "Short.", "paragraphs": ["A.", None], "chapters": [[["A."]]]}
    path = write_lines(tmp_path / "a.jsonl", json.dumps(record))
    assert read(path, text="paragraphs")[0].paragraphs == ["A.", ""]
    assert read(path, text="chapters")[0].units == [[["A."]]]
    with pytest.raises(ValueError, match=r"no field 'body' among"):
        read(path, text="body")


@pytest.mark.parametrize("content", ["A b.", "\ufeffA b.", '{"text": "A b."}'])
def test_one_document_of_any_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / ("a.json" if content.startswith("{") else "a.letter")
    path.write_text(content, encoding="utf-8")
    assert read_document(path).text == "A b."


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", " \ufeff \n", r"a\.txt' holds no text"),
        ("a.jsonl", "", r"a\.jsonl' holds no text"),
        ("a.jsonl", '{"text": null}', r"a\.jsonl' holds no text"),
        ("a.jsonl", '{"text": "x"}\n{"text": "y"}', r"a\.jsonl' holds several documents"),
    ],
)
def test_a_file_without_its_one_document_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_document(path)


def test_extra_fields_may_be_anything(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", json.dumps({"text": "x", "nested": {"a": [1]}, "nothing": None}))
    assert read(path)[0].extra == {"nested": {"a": [1]}}
