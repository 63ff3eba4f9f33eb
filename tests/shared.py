"""Shared fixtures: real tokenizers, trained in a second on the text below, and what is built from them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from string import ascii_lowercase, digits, punctuation
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DOCUMENT, perturb
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from textvae.build import build_model
from textvae.config import DecoderConfig, EncoderConfig, LevelConfig, ModelConfig, UnitConfig
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.data.text.processor import DocumentProcessor
from textvae.data.text.tokenizer import train_sentencepiece
from textvae.runs import load_run
from textvae.text_vae import HierarchicalTextVAE

STORY = """The harbour lay quiet in the early light. A single boat moved out past the wall, and its wake
spread slowly.

Old Marta watched it from the window of her shop. She had sold rope and lamps there for forty years. Nobody
had ever asked her to leave the town, and she had never wished to.

In the afternoon the wind rose. It came from the north, cold and steady, and the boats turned back one after
the other. By evening all of them were in again but one. The people stood on the wall and said very little.

At midnight a light was seen. It was the boat, with a torn sail and two tired men in it. "We are late," said
the older one. "Is there soup?" Everybody laughed, and Marta went to light the stove."""


@pytest.fixture(scope="session")
def decoder_tokenizer() -> PreTrainedTokenizerFast:
    """400 SentencePiece pieces with byte fallback."""
    return train_sentencepiece([" ".join(part.split()) for part in STORY.split("\n\n")], 400)


@pytest.fixture(scope="session")
def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """A lower-casing WordPiece tokenizer with [CLS] and [SEP], as MiniLM's: the story's words, and letters for others.

    Written, not trained: ties among pieces fall otherwise in every process, and with them all numbers of the tests."""
    normalizer, pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = {word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(STORY))}
    letters = set(ascii_lowercase + digits + punctuation)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *sorted(letters | words), *sorted(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)


@pytest.fixture(scope="session")
def encoder_folder(encoder_tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The encoder's tokenizer as a folder, the way `prepare` takes a backbone without a network."""
    folder = tmp_path_factory.mktemp("encoder")
    encoder_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def decoder_folder(decoder_tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("decoder")
    decoder_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def make_processor(
    encoder_tokenizer: PreTrainedTokenizerBase, decoder_tokenizer: PreTrainedTokenizerBase
) -> Callable[..., DocumentProcessor]:
    """hierarchy (default: document, paragraph, sentence), keyword arguments -> processor."""

    def make(*hierarchy: str, max_sentence_tokens: int = 48, language: str = "en") -> DocumentProcessor:
        levels = hierarchy or ("document", "paragraph", "sentence")
        return DocumentProcessor(levels, encoder_tokenizer, decoder_tokenizer, max_sentence_tokens, language)

    return make


@pytest.fixture
def story_file(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(STORY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def encoder_backbone(encoder_tokenizer: PreTrainedTokenizerBase, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT with random weights beside its tokenizer: what `encoder.name` may be."""
    folder = tmp_path_factory.mktemp("encoder-backbone")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(encoder_tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    encoder_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def prepared(encoder_folder: str, decoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-two documents of the story's sentences: `train`, `validation` and `test`."""
    folder = tmp_path_factory.mktemp("corpus")
    sentences = [s.strip() + "." for s in " ".join(STORY.split()).replace('"', "").split(".") if s.strip()]
    random = np.random.default_rng(0)
    lines = []
    for number in range(32):
        sizes = random.integers(1, 4, random.integers(1, 4))
        paragraphs = [" ".join(random.choice(sentences, size, replace=False)) for size in sizes]
        lines.append(json.dumps({"id": f"doc-{number}", "paragraphs": paragraphs}))
    (folder / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    options = PrepareOptions(
        str(folder / "corpus.jsonl"),
        str(folder / "prepared"),
        encoder=encoder_folder,
        decoder=decoder_folder,
        max_sentence_tokens=48,
        validation_fraction=0.2,
        test_fraction=0.1,
    )
    prepare(options)
    return folder / "prepared"


@pytest.fixture(scope="session")
def settings(encoder_backbone: str) -> Callable[..., ModelConfig]:
    """levels, fields of `DecoderConfig` -> the settings of a tiny model."""

    def make(*levels: str, model_type: str = "gpt2", **decoder: Any) -> ModelConfig:
        size = {
            "n_layer": 1,
            "n_embd": 32,
            "n_head": 2,
            "n_positions": 512,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        }
        if model_type == "llama":
            size = {
                "num_hidden_layers": 1,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_attention_heads": 2,
                "tie_word_embeddings": True,
            }
        architecture = {"model_type": model_type, **size, **decoder.pop("architecture", {})}
        if "name" in decoder:
            architecture = {}
        return ModelConfig(
            levels=tuple(LevelConfig(name, size) for name, size in zip(levels, (8, 6, 4), strict=False)),
            units=UnitConfig(width=16, layers=1, heads=2),
            encoder=EncoderConfig(name=encoder_backbone, words=decoder.get("logit_rank", 8) > 0),
            decoder=DecoderConfig(architecture=architecture, conditioning_width=16, **{"logit_rank": 8, **decoder}),
        )

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the processes that `run_scripts.launch` starts: the order of a float32 sum depends on the threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_model(
    settings: Callable[..., ModelConfig], make_processor: Callable[..., DocumentProcessor]
) -> Callable[..., HierarchicalTextVAE]:
    """levels, fields of `DecoderConfig` -> a tiny model with random weights, none of them 0."""

    def make(*levels: str, **decoder: Any) -> HierarchicalTextVAE:
        torch.manual_seed(0)
        model = build_model(settings(*levels, **decoder), make_processor())
        perturb(model)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_run(
    make_model: Callable[..., HierarchicalTextVAE], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """levels, fields of `DecoderConfig` -> a run folder with random weights."""

    def make(*levels: str, **decoder: Any) -> str:
        folder = tmp_path_factory.mktemp("run")
        make_model(*levels, **decoder).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="module")
def run(make_run: Callable[..., str]) -> str:
    """A tiny model of three levels; modules of tests that need another have their own."""
    return make_run(*DOCUMENT)


@pytest.fixture(scope="module")
def model(run: str) -> HierarchicalTextVAE:
    return load_run(run, "cpu")
