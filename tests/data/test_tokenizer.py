"""Trained vocabularies: exact, deterministic, and ordinary Hugging Face tokenizers."""

from pathlib import Path

import pytest
import sentencepiece
from conftest import STORY
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from textvae.data.text import tokenizer as module
from textvae.data.text.tokenizer import train_sentencepiece, train_words

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
