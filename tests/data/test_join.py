"""Text -> sentences -> text is the normalised text, in languages with and without spaces, of words cut by length."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.text.join import join_tokens, separator_of
from textvae.data.text.processor import DocumentProcessor
from textvae.data.text.segmentation import normalise, split_paragraphs

TEXTS = {
    "zh": "港口的灯亮了一整夜。船长在甲板上写信。\n\n“早晨。”他问。来了一只白鸟。",
    "ja": "朝が来た。鳥が鳴く。彼女は「行こう。」と言った。",
    "th": "สวัสดีครับ วันนี้อากาศดี เราไปเดินเล่นกัน",
    "en": "One is here. Two is there.\n\nSee https://example.org/" + "abcdefghij" * 40 + " and " + "Donau" * 60 + "!",
    "de": "Er kam um 3.5 Uhr (z. B. heute). „Gut“, sagte sie... und ging.",
}


def tokens_of(document: EncodedDocument) -> list[list[list[int]]]:
    """Decoder tokens by parent and sentence."""
    ends = accumulate(document.decoder_lengths, initial=0)
    sentences = [list(document.decoder_ids[start:end]) for start, end in pairwise(ends)]
    counts = accumulate(document.structure[-1], initial=0)
    return [sentences[start:end] for start, end in pairwise(counts)]


def joined(document: EncodedDocument, processor: DocumentProcessor) -> str:
    return "\n\n".join(map(processor.join, tokens_of(document)))


@pytest.fixture(scope="module")
def stripping_tokenizer() -> PreTrainedTokenizerBase:
    """Drops the first space of what it decodes, as Llama's does."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=["</s>"], show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS.values(), trainer)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("strips", [False, True])
def test_text_is_joined_as_it_was_separated(make_processor, stripping_tokenizer, language: str, strips: bool) -> None:
    processor = make_processor(language=language, max_sentence_tokens=16)
    if strips:
        processor = DocumentProcessor(
            processor.hierarchy, processor.encoder_tokenizer, stripping_tokenizer, 16, language
        )
    document = processor(SourceDocument("d", text=TEXTS[language]))
    assert len(document.sentences) > 1
    assert joined(document, processor) == "\n\n".join(split_paragraphs(TEXTS[language]))


@given(st.text(st.characters(exclude_categories=["Lu", "Lt", "Cs"]), min_size=1))
@settings(max_examples=60, deadline=None)
def test_any_text_without_capitals_is_joined_exactly(make_processor, text: str) -> None:
    text = text.replace("\u2581", "")  # SentencePiece's own sign for a space
    processor = make_processor(max_sentence_tokens=8)
    for section in processor.process(SourceDocument("d", text=text)).sections:
        assert joined(section, processor) == "\n\n".join(split_paragraphs(text))


@pytest.mark.parametrize(
    ("sentences", "language", "text"),
    [
        (["It rose.", "They turned."], "en", "It rose. They turned."),
        (["It rose.", " They turned."], "en", "It rose. They turned."),
        (['"It rose."', '"They turned."'], "de", '"It rose." "They turned."'),
        (["It rose.", "They turned."], "zh-Hant", "It rose.They turned."),
        (["example.", "org/rose"], "en", "example.org/rose"),
        (["harb", "our"], "en", "harbour"),
        ([" It rose."], "en", "It rose."),
        ([], "en", ""),
    ],
)
def test_a_separator_that_a_model_left_out_is_put_back(
    decoder_tokenizer, sentences: list[str], language: str, text: str
) -> None:
    ids = [decoder_tokenizer(sentence, add_special_tokens=False)["input_ids"] for sentence in sentences]
    assert join_tokens(ids, decoder_tokenizer, language) == text


@pytest.mark.parametrize("language", ["zh", "zh-CN", "ZH_tw", "ja", "th", "yue"])
def test_languages_without_spaces(language: str) -> None:
    assert separator_of(language) == ""
    assert separator_of(f"en-{language}") == " "


def test_sentences_of_an_encoded_document_concatenate(make_processor) -> None:
    document = make_processor(language="zh")(SourceDocument("d", text=TEXTS["zh"]))
    assert document.text() == "\n\n".join(normalise(part) for part in TEXTS["zh"].split("\n\n"))
