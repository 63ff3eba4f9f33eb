"""Cleaning on entry: the same for every door, and once."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textvae.data.document import SourceDocument
from textvae.data.sources.files import read_file
from textvae.data.sources.records import FieldNames
from textvae.data.text.clean import clean, clean_value

# Surrogates among them, which hypothesis leaves out by itself.
ANYTHING = st.text(st.characters() | st.sampled_from("\ud800\udbff\udc00\udfff\ufeff\x00\x1b\x85"))
DIRTY = {
    "\ufeffmark": "mark",
    "in\ufeffside": "inside",
    "lone \ud83d one": "lone  one",
    "pair \ud83d\ude00": "pair 😀",
    "bell\x07 and escape\x1b[0m": "bell and escape[0m",
    "tab\tand\r\nline": "tab\tand\r\nline",
}


@pytest.mark.parametrize(("dirty", "cleaned"), DIRTY.items(), ids=range(len(DIRTY)))
def test_what_is_dropped_and_what_is_kept(dirty: str, cleaned: str) -> None:
    assert clean(dirty) == cleaned


@given(ANYTHING)
def test_any_text_is_cleaned_once_and_can_be_written(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert once.encode().decode() == once


@given(st.recursive(ANYTHING | st.none() | st.integers(), lambda e: st.lists(e) | st.dictionaries(ANYTHING, e)))
def test_strings_anywhere_in_a_value_are_cleaned(value: Any) -> None:
    json.dumps(clean_value(value), ensure_ascii=False).encode()


def test_every_field_of_a_document_is_cleaned_whoever_makes_it() -> None:
    dirty = "a\ud800\ufeff\x00b"
    document = SourceDocument(
        dirty, dirty, [[dirty]], [[[dirty]]], f" {dirty}\n{dirty} ", dirty, {dirty: [{"k": dirty}]}
    )
    assert document == SourceDocument("ab", "ab", [["ab"]], [[["ab"]]], "ab ab", "ab", {"ab": [{"k": "ab"}]})
    assert SourceDocument("x", title="\ufeff ").title is None


@pytest.mark.parametrize("field", ["text", "title", "label", "id", "more", "units"])
def test_escapes_in_json_are_cleaned_in_every_field(tmp_path: Path, field: str) -> None:
    record = {"id": "d", "text": "It is.", field: [["a\ud83d b."]] if field == "units" else "a\ud83d b."}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record), encoding="ascii")
    (document,) = read_file(path, path, FieldNames())
    found = document.extra["more"] if field == "more" else getattr(document, field)
    assert found == ([["a b."]] if field == "units" else "a b.")
