"""Documents through the processor: nothing lost, limits kept, wrong nesting refused."""

import json
import time
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import STORY

from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.text.processor import DocumentProcessor
from textvae.data.text.segmentation import normalise, split_paragraphs

NASTY = [
    STORY,
    "One sentence only.",
    "今天天气很好。我们去公园。\n\n你好。",
    "Emoji 👩‍👩‍👧‍👦 and flags 🇩🇪! Next \U0001f600one.\n\nn\u0303 e\u0301 \u1e9b\u0323",
    "A literal </s> and <pad> and <0x41> and [SEP] are text.",
    "x" * 50_000,
    "word " * 10_000,
    "中" * 5_000,
    "e\u0301" * 3_000 + "z\u0323\u0307" * 3_000,
    "no end\n\n\n\n \t \n\n... !!! ??? \u0000",
]


def check_consistency(document: EncodedDocument, processor: DocumentProcessor) -> None:
    """Every relation between the fields of an encoded document."""
    num_sentences = len(document.sentences)
    levels = [*document.structure, [0] * num_sentences]
    assert len(levels) == len(processor.hierarchy)
    assert len(levels[0]) == 1
    for upper, lower in pairwise(levels):
        assert sum(upper) == len(lower)
        assert min(upper) >= 1
    assert len(document.encoder_lengths) == len(document.decoder_lengths) == num_sentences
    assert sum(document.encoder_lengths) == len(document.encoder_ids)
    assert sum(document.decoder_lengths) == len(document.decoder_ids)
    assert min(document.decoder_lengths) >= 1
    assert max(document.decoder_lengths) <= processor.max_sentence_tokens
    assert max(document.encoder_lengths) <= processor.encoder_limit
    assert document.num_tokens == len(document.decoder_ids) + num_sentences
    assert document.num_words == len(document.text().split())
    assert document.num_bytes == len(document.text().encode())
    ends = accumulate(document.decoder_lengths, initial=0)
    decoded = [processor.decoder_tokenizer.decode(document.decoder_ids[a:b]) for a, b in pairwise(ends)]
    assert decoded == list(document.sentences)


@pytest.mark.parametrize("number", range(len(NASTY)))
@pytest.mark.parametrize("hierarchy", [("document", "paragraph", "sentence"), ("document", "sentence")])
def test_nasty_texts_come_back_exactly(make_processor, hierarchy, number) -> None:
    processor = make_processor(*hierarchy)
    document = processor(SourceDocument("d", text=NASTY[number]))
    check_consistency(document, processor)
    paragraphs = split_paragraphs(NASTY[number])
    assert document.text() == ("\n\n" if len(hierarchy) == 3 else " ").join(paragraphs)


def test_text_that_spells_a_special_token_is_text(make_processor) -> None:
    processor = make_processor()
    document = processor(SourceDocument("d", text="They wrote </s> and [SEP] here."))
    assert processor.decoder_tokenizer.eos_token_id not in document.decoder_ids
    assert document.encoder_ids.count(processor.encoder_tokenizer.sep_token_id) == 1


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back_exactly(make_processor, text) -> None:
    text = text.replace("\u2581", "")  # SentencePiece's own sign for a space
    processor = make_processor(max_sentence_tokens=8)
    for section in processor.process(SourceDocument("d", text=text)).sections:
        check_consistency(section, processor)
        assert section.text() == "\n\n".join(split_paragraphs(text))


@pytest.mark.parametrize("text", ["x" * 50_000, "word " * 10_000, "中。" * 25_000])
def test_a_sentence_of_50_000_characters_is_split_quickly(make_processor, text) -> None:
    start = time.process_time()
    processed = make_processor().process(SourceDocument("d", text=text))
    assert time.process_time() - start < 5
    assert processed.sections[0].text() == normalise(text)


def test_over_long_sentences_are_counted_and_cut_at_spaces(make_processor) -> None:
    text = "Short one. " + "harbour " * 60 + "end."
    processed = make_processor().process(SourceDocument("d", text=text))
    assert processed.num_sentences_split == 1
    assert all(piece.startswith(" ") for piece in processed.sections[0].sentences[1:])
    assert processed.sections[0].text() == normalise(text)


def test_the_encoders_own_maximum_bounds_sentences_too(make_processor) -> None:
    processor = make_processor(max_sentence_tokens=500)
    assert processor.encoder_limit == 64
    document = processor(SourceDocument("d", text="boat " * 200))
    assert 48 < max(document.encoder_lengths) <= 64


def test_one_level_is_one_sentence_and_longer_text_becomes_several_documents(make_processor) -> None:
    processor = make_processor("sentence")
    document = processor(SourceDocument("d", text="The wind rose. It was cold."))
    assert document.sentences == ["The wind rose. It was cold."]
    assert document.structure == []
    long = SourceDocument("d", text="boat " * 100)
    sections = processor.process(long).sections
    assert [section.id for section in sections] == [f"d#{n}" for n in range(1, len(sections) + 1)]
    assert " ".join(section.text() for section in sections) == normalise("boat " * 100)
    for section in sections:
        check_consistency(section, processor)
    with pytest.raises(ValueError, match=r"document 'd' is one sentence of more than 48 tokens.*max_sentence_tokens"):
        processor(long)


def test_four_levels_take_nested_units(make_processor) -> None:
    processor = make_processor("book", "chapter", "paragraph", "sentence")
    units = [[["A one.", "A two."], ["B one."]], [["C one."]]]
    document = processor(SourceDocument("d", units=units))
    assert document.structure == [[2], [2, 1], [2, 1, 1]]
    assert document.sentences == ["A one.", " A two.", "B one.", "C one."]
    segmented = processor(SourceDocument("d", units=[["A one. A two.", "B one."], ["C one."]]))
    assert segmented == document


def test_paragraphs_fit_two_and_three_levels(make_processor) -> None:
    strings = SourceDocument("d", paragraphs=["The wind rose. It was cold.", "Night fell."])
    lists = SourceDocument("d", paragraphs=[["The wind rose.", "It was cold."], ["Night fell."]])
    three, two = make_processor(), make_processor("document", "sentence")
    assert three(strings) == three(lists)
    assert three(strings).structure == [[2], [2, 1]]
    assert two(strings) == two(lists)
    assert two(strings).structure == [[3]]
    assert two(strings).text() == "The wind rose. It was cold. Night fell."


def test_given_sentences_are_joined_as_their_language_is_written(make_processor) -> None:
    document = SourceDocument("d", paragraphs=[["今天天气很好。", "我们去公园。"]])
    assert make_processor(language="zh")(document).text() == "今天天气很好。我们去公园。"


@pytest.mark.parametrize(
    ("hierarchy", "fields", "message"),
    [
        (
            ("d", "p", "s"),
            {"units": [[["a"]]]},
            r"'x' does not fit the hierarchy d > p > s: units\[0\]\[0\] is a list",
        ),
        (("b", "c", "p", "s"), {"units": ["a"]}, r"units\[0\] is a string, but a list of p units is needed"),
        (("b", "c", "p", "s"), {"text": "a"}, "give 'units', 3 lists deep"),
        (("b", "c", "p", "s"), {"paragraphs": ["a"]}, "give 'units', 3 lists deep"),
        (("d", "p", "s"), {"units": [["a", 5]]}, r"units\[0\]\[1\] is of type int"),
        (("d", "p", "s"), {"paragraphs": [None]}, r"paragraphs\[0\] is of type NoneType"),
        (("s",), {"units": ["a"]}, "units is a list, but a s, a string, is needed"),
    ],
)
def test_wrong_nesting_is_refused_by_place(make_processor, hierarchy, fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_processor(*hierarchy)(SourceDocument("x", **fields))


def test_empty_units_are_removed_and_counted(make_processor) -> None:
    document = SourceDocument("d", paragraphs=[["", "One."], [], [" ", ""], ["Two."]])
    processed = make_processor().process(document)
    assert processed.num_empty_units == 5
    assert processed.sections[0].sentences == ["One.", "Two."]
    assert processed.sections[0].structure == [[2], [1, 1]]


@pytest.mark.parametrize("fields", [{"text": ""}, {"text": " \n\n\x00"}, {"paragraphs": []}, {"units": [[], [""]]}])
def test_a_document_without_a_sentence_has_no_section(make_processor, fields) -> None:
    processor = make_processor()
    assert processor.process(SourceDocument("d", **fields)).sections == ()
    with pytest.raises(ValueError, match="document 'd' has no sentence"):
        processor(SourceDocument("d", **fields))


def test_sections_break_between_paragraphs_where_they_can(make_processor) -> None:
    processor = make_processor()
    paragraphs = [[f"Sentence {n} of paragraph {p}." for n in range(count)] for p, count in enumerate((2, 2, 2, 7, 2))]
    sections = processor.process(SourceDocument("d", paragraphs=paragraphs), max_sentences=4).sections
    assert [section.id for section in sections] == ["d#1", "d#2", "d#3", "d#4", "d#5"]
    structures = [section.structure for section in sections]
    assert structures == [[[2], [2, 2]], [[1], [2]], [[1], [4]], [[1], [3]], [[1], [2]]]
    assert sections[3].sentences[0] == "Sentence 4 of paragraph 3."
    for section in sections:
        check_consistency(section, processor)


def test_sections_lose_no_word(make_processor) -> None:
    processor = make_processor()
    for limit in (1, 2, 3, 5, 100):
        sections = processor.process(SourceDocument("d", text=STORY), max_sentences=limit).sections
        assert max(len(section.sentences) for section in sections) <= limit
        assert " ".join(section.text() for section in sections).split() == STORY.split()


def test_title_label_and_further_fields_are_kept(make_processor) -> None:
    source = SourceDocument("d", text="One.", title="T", label="L", extra={"year": 1901})
    document = make_processor()(source)
    assert (document.title, document.label, json.loads(document.extra)) == ("T", "L", {"year": 1901})


def test_a_saved_processor_works_the_same(make_processor, tmp_path: Path) -> None:
    processor = make_processor("document", "sentence", max_sentence_tokens=20)
    processor.save_pretrained(tmp_path / "saved")
    again = DocumentProcessor.from_pretrained(tmp_path / "saved")
    source = SourceDocument("d", text=STORY)
    assert again(source) == processor(source)


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no processor\.json"):
        DocumentProcessor.from_pretrained(tmp_path)


def test_a_decoder_without_an_end_token_is_refused(encoder_tokenizer) -> None:
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        DocumentProcessor(("document", "sentence"), encoder_tokenizer, encoder_tokenizer, 48)


@pytest.mark.parametrize(("hierarchy", "limit"), [((), 48), (("a", "a"), 48), (("a", "b"), 7)])
def test_impossible_settings_are_refused(encoder_tokenizer, decoder_tokenizer, hierarchy, limit) -> None:
    with pytest.raises(ValueError, match=r"hierarchy|max_sentence_tokens"):
        DocumentProcessor(hierarchy, encoder_tokenizer, decoder_tokenizer, limit)
