"""Normalisation and segmentation: quality on the gold paragraphs, and nothing lost."""

import importlib.util
import time
import unicodedata
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textvae.data.text.segmentation import cut_evenly, normalise, segment_sentences, split_paragraphs

LETTERS = "ab. \n\t\u00a0\u3000é e\u0301中。😀👩\u200d👩\u200d👧\u0000\u0085\u2028\ud800.?!\"'()…Dr. U.S. 3.5"


@pytest.fixture(scope="module")
def measure() -> ModuleType:
    path = Path(__file__).parents[2] / "data_prep" / "measure_segmentation.py"
    spec = importlib.util.spec_from_file_location("measure_segmentation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gold_paragraphs_reach_the_measured_f1(measure: ModuleType) -> None:
    score = measure.score(lambda text: segment_sentences(text, "en"))
    assert score.gold >= 80
    assert score.f1 >= 0.94


def test_a_segmenter_at_every_full_stop_falls_short_of_the_gold(measure: ModuleType) -> None:
    assert measure.score(lambda text: text.split(". ")).f1 < 0.8


def test_gold_paragraphs_join_back(measure: ModuleType) -> None:
    for sentences in measure.gold_paragraphs():
        text = " ".join(sentences)
        assert "".join(segment_sentences(text, "en")) == text


@given(st.text(alphabet=LETTERS) | st.text())
def test_any_text_normalises_once_and_joins_back(raw: str) -> None:
    text = normalise(raw)
    assert normalise(text) == text
    assert text == unicodedata.normalize("NFC", text)
    assert text.encode() or not text
    sentences = segment_sentences(text, "en")
    assert "".join(sentences) == text
    assert all(sentence.strip() and sentence == sentence.rstrip() for sentence in sentences)


def test_normalise_drops_control_characters_and_keeps_line_breaks_as_spaces() -> None:
    assert normalise("\ufeffa\x00b\x1b c\r\n\td\u00a0e\ud800") == "ab c d e"


def test_paragraphs_end_at_blank_lines_of_every_kind() -> None:
    assert split_paragraphs("\n\na\nb\r\n \t\r\nc\r\rd\u2029e\n\n") == ["a b", "c", "d", "e"]


def test_sentences_keep_the_space_before_them() -> None:
    assert segment_sentences("One is here. Two is there.", "en") == ["One is here.", " Two is there."]


def test_chinese_sentences_have_no_space_between_them() -> None:
    assert segment_sentences("今天天气很好。我们去公园。", "zh") == ["今天天气很好。", "我们去公园。"]


@pytest.mark.parametrize("unit", ["a", "word ", "今天天气很好。", "A short one. "])
def test_200_000_characters_are_segmented_in_linear_time(unit: str) -> None:
    text = normalise(unit * (200_000 // len(unit)))
    start = time.process_time()
    sentences = segment_sentences(text, "en")
    assert time.process_time() - start < 3  # the library alone takes 8 s for the Chinese
    assert "".join(sentences) == text


def test_borders_do_not_depend_on_the_window() -> None:
    sentence = "This is number seven of the sentences, said Dr. Brown."
    text = " ".join([sentence] * 1000)
    assert [part.strip() for part in segment_sentences(text, "en")] == [sentence] * 1000


@given(st.text(alphabet="ab 中e\u0301\u200d👧", min_size=2), st.integers(2, 9))
def test_cut_evenly_joins_back_and_makes_progress(raw: str, pieces: int) -> None:
    text = normalise(raw)
    if len(text) < 2:
        return
    parts = cut_evenly(text, pieces)
    assert "".join(parts) == text
    assert 1 < len(parts) <= pieces
    assert all(parts)


def test_cut_evenly_prefers_spaces_and_keeps_accents_with_their_letters() -> None:
    assert cut_evenly("several words here now", 2) == ["several words", " here now"]
    assert cut_evenly("x" * 8 + "q\u0323\u0307\u0323" + "y" * 8, 2) == [
        "x" * 8,
        "q\u0323\u0307\u0323" + "y" * 8,
    ]
