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
from textvae.data.sources.files import FieldNames, find_files, read_file


def read(path: Path, root: Path | None = None, **fields: str) -> list[SourceDocument]:
    return list(read_file(path, root or path, FieldNames(**fields)))


def write_lines(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return path


@pytest.mark.parametrize(("ending", "module"), [("", None), (".xz", lzma), (".gz", gzip), (".bz2", bz2)])
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
        ('["a"]', r"a\.jsonl, line 2: a JSON list, but each line must hold one JSON object"),
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
    files = find_files(tmp_path)["train"]
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
    found = {split: [path.name for path in paths] for split, paths in find_files(tmp_path).items()}
    assert found == {
        "train": ["train-00000.jsonl", "train-00001.jsonl"],
        "validation": ["validation.parquet"],
        "test": ["test.jsonl.xz"],
    }


def test_folders_name_the_splits_of_text_files_but_their_names_do_not(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "test.txt").touch()
    assert {split: len(paths) for split, paths in find_files(tmp_path).items()} == {"train": 1, "test": 1}
    assert list(find_files(tmp_path / "train")) == ["train"]


@pytest.mark.parametrize("name", ["testimony.jsonl", "trained.jsonl"])
def test_a_name_that_only_begins_like_a_split_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert list(find_files(tmp_path)) == ["train"]


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


def test_extra_fields_may_be_anything(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", json.dumps({"text": "x", "nested": {"a": [1]}, "nothing": None}))
    assert read(path)[0].extra == {"nested": {"a": [1]}}
