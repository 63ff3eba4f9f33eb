"""Trained vocabularies: exact, deterministic, and ordinary Hugging Face tokenizers."""

from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from shared import STORY
from tiny_gguf import chat_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.data.text import tokenizer as module
from textvae.data.text.processor import DocumentProcessor
from textvae.data.text.tokenizer import SEPARATOR, load_decoder_tokenizer, train_sentencepiece, train_words

TEXTS = [" ".join(part.split()) for part in STORY.split("\n\n")]


@given(st.text())
def test_any_text_comes_back(decoder_tokenizer, text: str) -> None:
    text = text.replace("\u2581", "")
    ids = decoder_tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert decoder_tokenizer.decode(ids) == text
    assert not {0, 1, 2, 3} & set(ids)


def test_it_saves_and_loads_as_an_auto_tokenizer(decoder_tokenizer, tmp_path: Path) -> None:
    decoder_tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = " The boat, 😀 </s> 今."
    assert again(text)["input_ids"] == decoder_tokenizer(text)["input_ids"]
    assert (again.unk_token_id, again.bos_token_id, again.eos_token_id, again.pad_token_id) == (0, 1, 2, 3)
    assert len(again) == 400


def test_it_reads_text_as_sentencepiece_does(monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[bytes] = []
    convert = module._fast_tokenizer
    monkeypatch.setattr(module, "_fast_tokenizer", lambda model: models.append(model) or convert(model))
    fast = train_sentencepiece(TEXTS, 400)
    original = sentencepiece.SentencePieceProcessor(model_proto=models[0])
    for text in [*TEXTS, *STORY.split(), "Unseen wörds, 12.5 kg!", " leading space"]:
        assert fast(text, add_special_tokens=False)["input_ids"] == original.encode(text)


def test_training_is_deterministic() -> None:
    assert train_sentencepiece(TEXTS, 400).get_vocab() == train_sentencepiece(iter(TEXTS), 400).get_vocab()


def test_long_texts_are_not_left_out() -> None:
    long = train_sentencepiece([" ".join(["zyzzyva"] * 20_000), *TEXTS], 400)
    assert "▁zyzzyva" in long.get_vocab()


def test_too_little_text_for_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no vocabulary of 8192 pieces.*smaller vocabulary_size"):
        train_sentencepiece(TEXTS, 8192)


def test_words_beyond_the_vocabulary_are_unknown(tmp_path: Path) -> None:
    texts = ["b b a a c <unk>", "b a d"]
    train_words(texts, 7).save_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert words.convert_ids_to_tokens(range(len(words))) == ["<unk>", "<s>", "</s>", "<pad>", "a", "b", "c"]
    plain = words("a d <unk> b", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert plain == [4, 0, 0, 5]
    assert words.decode(plain) == "a <unk> <unk> b"


def named(tokenizer: PreTrainedTokenizerBase) -> dict[str, str | None]:
    """The tokens with a part to play."""
    return {name: getattr(tokenizer, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}


def test_the_vocabulary_of_a_chat_starts_and_ends_plain_text_with_its_separator(tmp_path: Path) -> None:
    chat = chat_tokenizer()
    assert (chat.bos_token, chat.eos_token) == ("<|im_start|>", "<|im_end|>")
    chat.save_pretrained(tmp_path / "chat")
    plain = load_decoder_tokenizer(str(tmp_path / "chat"))
    assert named(plain) == {**named(chat), "bos_token": SEPARATOR, "eos_token": SEPARATOR}
    assert plain.eos_token_id == chat.convert_tokens_to_ids(SEPARATOR)
    assert plain.get_vocab() == chat.get_vocab()
    assert plain(STORY)["input_ids"] == chat(STORY)["input_ids"]
    plain.save_pretrained(tmp_path / "plain")
    assert named(AutoTokenizer.from_pretrained(tmp_path / "plain")) == named(plain)


def test_prepared_data_keep_the_separator_and_lend_it(story_file: Path, encoder_folder: str, tmp_path: Path) -> None:
    chat_tokenizer().save_pretrained(tmp_path / "chat")
    lender = str(tmp_path / "chat")
    options = PrepareOptions(str(story_file), "", encoder=encoder_folder, validation_fraction=0, test_fraction=0)
    for out in (str(tmp_path / "first"), str(tmp_path / "second")):
        prepare(replace(options, out=out, decoder=lender))
        lender = out
        decoder = DocumentProcessor.from_pretrained(lender).decoder_tokenizer
        assert (decoder.bos_token, decoder.eos_token) == (SEPARATOR, SEPARATOR)


@pytest.mark.parametrize(
    "tokens",
    [
        {"bos_token": "<|im_start|>", "eos_token": SEPARATOR},  # the separator is its own choice
        {"bos_token": None, "eos_token": SEPARATOR, "pad_token": None},
    ],
)
def test_a_vocabulary_that_ends_plain_text_stays_as_it_is(tokens: dict[str, str | None], tmp_path: Path) -> None:
    base = chat_tokenizer()
    for name, token in tokens.items():
        setattr(base, name, token)
    base.save_pretrained(tmp_path)
    assert named(load_decoder_tokenizer(str(tmp_path))) == named(base)


def test_a_vocabulary_without_the_separator_stays_as_it_is(decoder_tokenizer, decoder_folder: str) -> None:
    assert named(load_decoder_tokenizer(decoder_folder)) == named(decoder_tokenizer)
