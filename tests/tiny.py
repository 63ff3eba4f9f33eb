"""Tiny documents and models with random weights, for tests of the mathematics: no text, no tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, GPT2Config, LlamaConfig

from textvae.config import DecoderConfig, EncoderConfig, LevelConfig, ModelConfig, UnitConfig, to_dict
from textvae.data.batch import DocumentBatch
from textvae.data.collate import collate
from textvae.data.document import EncodedDocument
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE, TextVAEConfig, VAEOutput
from textvae.training.objective import ElboTerms, elbo_terms

DOCUMENT, FOUR = ("document", "paragraph", "sentence"), ("book", "chapter", "paragraph", "sentence")
NOISE = KeyedNoise(seed=3, step=5)
PAD, START, END, FIRST_WORD, VOCABULARY = 0, 1, 2, 3, 23


def subsets(hierarchy: Sequence[str]) -> list[tuple[str, ...]]:
    """Every choice of latent levels, none included."""
    return list(chain.from_iterable(combinations(hierarchy, size) for size in range(len(hierarchy) + 1)))


def depths() -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Hierarchies with every choice of latent levels in three of them, and all four of four."""
    return [*((DOCUMENT, levels) for levels in subsets(DOCUMENT)), (FOUR, FOUR)]


def encoded(name: str, structure: Sequence[Sequence[int]], sentences: Sequence[Sequence[int]]) -> EncodedDocument:
    """A document of the given units and word ids; the encoder reads the same ids."""
    lengths = [len(words) for words in sentences]
    return EncodedDocument(
        id=name,
        source_id=name,
        title=None,
        label=None,
        extra="{}",
        sentences=[" ".join(map(str, words)) for words in sentences],
        structure=structure,
        encoder_ids=[piece for words in sentences for piece in (START, *words, END)],
        encoder_lengths=[length + 2 for length in lengths],
        decoder_ids=list(chain.from_iterable(sentences)),
        decoder_lengths=lengths,
        num_tokens=sum(lengths) + len(lengths),
        num_words=sum(lengths),
        num_bytes=3 * sum(lengths),
    )


def document(name: str, *structure: Sequence[int], longest: int = 6) -> EncodedDocument:
    """Random sentences, the same for the same name; `structure` as in `EncodedDocument`."""
    random = np.random.default_rng([*name.encode()])
    count = sum(structure[-1]) if structure else 1
    sentences = [random.integers(FIRST_WORD, VOCABULARY, random.integers(1, longest + 1)) for _ in range(count)]
    return encoded(name, list(structure), [words.tolist() for words in sentences])


def documents(hierarchy: Sequence[str] = DOCUMENT) -> list[EncodedDocument]:
    """Four documents of different sizes."""
    if len(hierarchy) == 3:
        structures = [([2], [3, 1]), ([1], [1]), ([3], [2, 2, 4]), ([2], [1, 2])]
    elif len(hierarchy) == 4:
        structures = [([2], [2, 1], [1, 3, 2]), ([1], [1], [1]), ([1], [3], [2, 1, 1]), ([2], [1, 1], [2, 2])]
    elif len(hierarchy) == 2:
        structures = [([4],), ([1],), ([7],), ([3],)]
    else:
        structures = [(), (), (), ()]
    return [document(f"doc-{number}", *structure) for number, structure in enumerate(structures)]


def config(
    levels: Sequence[str] = DOCUMENT,
    hierarchy: Sequence[str] = DOCUMENT,
    *,
    decoder: str = "gpt2",
    vocabulary: int = VOCABULARY,
    tokens: Mapping[str, int] | None = None,
    level_options: Mapping[str, Any] | None = None,
    encoder_trainable: bool = False,
    dropout: float = 0.0,
    window: int = 16,
    **options: Any,
) -> TextVAEConfig:
    """`options` are those of `DecoderConfig`."""
    sizes = dict(zip(hierarchy, (6, 5, 4, 3), strict=False))
    settings = ModelConfig(
        levels=tuple(LevelConfig(name, sizes[name], **(level_options or {})) for name in levels),
        units=UnitConfig(width=16, layers=1, heads=2, window=window),
        encoder=EncoderConfig(trainable=encoder_trainable, words=options.get("logit_rank", 7) > 0),
        decoder=DecoderConfig(conditioning_width=16, **{"context": hierarchy[-1], "logit_rank": 7, **options}),
    )
    # Weights of ordinary size, so that what should matter does.
    scale = {"initializer_range": 0.3, "vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": None}
    backbone: GPT2Config | LlamaConfig
    if decoder == "gpt2":
        backbone = GPT2Config(
            n_layer=2,
            n_embd=32,
            n_head=2,
            n_positions=512,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            **scale,
        )
    else:
        backbone = LlamaConfig(
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=48,
            num_attention_heads=2,
            num_key_value_heads=1,
            attention_dropout=dropout,
            **scale,
        )
    encoder = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        initializer_range=0.3,
    )
    special = {"start_id": START, "end_id": END, "decoder_pad_id": PAD, "encoder_pad_id": PAD}
    return TextVAEConfig(
        hierarchy,
        to_dict(settings),
        encoder.to_diff_dict() | {"model_type": "bert"},
        backbone.to_diff_dict() | {"model_type": decoder},
        special | dict(tokens or {}),
    )


def model(
    levels: Sequence[str] = DOCUMENT, hierarchy: Sequence[str] = DOCUMENT, *, seed: int = 0, **options: Any
) -> DocumentVAE:
    """In evaluation mode; zero starts are perturbed, or most tests could not fail."""
    torch.manual_seed(seed)
    built = DocumentVAE(config(levels, hierarchy, **options))
    perturb(built)
    return built.eval()


@torch.no_grad()
def perturb(module: torch.nn.Module) -> None:
    """Replace every parameter that starts at zero by noise."""
    for parameter in module.parameters():
        if not parameter.any():
            parameter.normal_(std=0.3)


def batch_of(vae: DocumentVAE, members: Sequence[EncodedDocument]) -> DocumentBatch:
    return collate(members, vae.layout)


def scored(
    vae: DocumentVAE, members: Sequence[EncodedDocument], sources: Mapping[str, Any] | None = None
) -> tuple[VAEOutput, ElboTerms]:
    batch = batch_of(vae, members)
    output = vae(batch, NOISE, sources)
    return output, elbo_terms(output, batch)


def gradients(vae: DocumentVAE) -> dict[str, Tensor]:
    """Of all trainable parameters, cleared afterwards."""
    found = {n: p.grad.clone() for n, p in vae.named_parameters() if p.requires_grad and p.grad is not None}
    vae.zero_grad(set_to_none=True)
    return found
