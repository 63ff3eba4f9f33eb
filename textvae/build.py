"""A model from its configuration: backbones by name, or from scratch, and the data's tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from textvae.config import DecoderConfig, EncoderConfig, ModelConfig, to_dict
from textvae.data.collate import encoder_chunks, row_length
from textvae.data.fingerprint import EncoderFingerprint
from textvae.data.text.processor import DocumentProcessor
from textvae.devices import choose_device, inference_dtype
from textvae.frozen import run_settings
from textvae.model.adapter import digest, merge_adapters
from textvae.model.encoder import SentenceEncoder, load_encoder
from textvae.model.vae import DocumentVAE, TextVAEConfig, check_levels
from textvae.pretrained import resolve_backbone
from textvae.text_vae import HierarchicalTextVAE


def build_model(settings: ModelConfig, processor: DocumentProcessor) -> HierarchicalTextVAE:
    """A model for data prepared by `processor`, its backbones pretrained where they have a name.

    Raises ValueError when levels, backbones and data do not fit together, OSError when a backbone cannot be
    found.
    """
    check_levels(processor.hierarchy, settings)
    decoder = _decoder(settings.decoder, processor.decoder_tokenizer)
    _check_positions(decoder, settings.decoder, processor)
    encoder = _encoder(settings.encoder.name, processor.encoder_tokenizer) if settings.levels else None
    end_id = processor.decoder_tokenizer.eos_token_id
    start_id = processor.decoder_tokenizer.bos_token_id
    pad_id = processor.decoder_tokenizer.pad_token_id
    config = TextVAEConfig(
        hierarchy=processor.hierarchy,
        settings=to_dict(settings),
        encoder_config=_values(encoder) if encoder is not None else None,
        decoder_config=_values(decoder),
        tokens={
            "start_id": end_id if start_id is None else start_id,
            "end_id": end_id,
            "decoder_pad_id": end_id if pad_id is None else pad_id,
            "encoder_pad_id": processor.encoder_tokenizer.pad_token_id or 0,
        },
    )
    return HierarchicalTextVAE(config, encoder, decoder, processor)


class FrozenEncoder:
    """The pooled states of a frozen encoder, as training would compute them: what `prepare` caches."""

    def __init__(
        self,
        encoder: SentenceEncoder,
        name: str,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        chunk_tokens: int = 8192,
    ) -> None:
        """`name`: the encoder's own; `device`: where it runs, as in `choose_device`; `dtype`: what it multiplies in
        (default: bfloat16 where that pays); `chunk_tokens`: padded tokens that are encoded at a time.

        Raises ValueError for a device that is not here."""
        self.encoder = encoder
        self.name = name
        self.device = device
        here = choose_device(device)
        self.dtype = dtype or inference_dtype(here)
        self.chunk_tokens = chunk_tokens

    @classmethod
    def pretrained(
        cls, name: str, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> FrozenEncoder:
        """The last layer of the encoder `name`. Raises OSError if it cannot be found."""
        encoder = SentenceEncoder(load_encoder(resolve_backbone(name)).eval(), EncoderConfig(name))
        return cls(encoder, name, device, dtype)

    def __call__(self, sentences: Sequence[Sequence[int]]) -> np.ndarray:
        """Encoder tokens of S sentences -> [S, D]. Raises ValueError for a device that is not here."""
        # Chosen here: the machine that encodes may be another than the one that asks for it.
        device = choose_device(self.device)
        encoder = self.encoder.to(device)
        pad_id = encoder.backbone.config.pad_token_id or 0
        chunks = encoder_chunks([np.asarray(ids) for ids in sentences], pad_id, self.chunk_tokens)
        with torch.no_grad(), torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            found = encoder(tuple(chunk.to(device) for chunk in chunks), len(sentences))
        return found.float().cpu().numpy()

    @property
    def fingerprint(self) -> EncoderFingerprint:
        return replace(_fingerprint(self.encoder, self.name), dtype=str(self.dtype).removeprefix("torch."))


def encoder_fingerprint(model: DocumentVAE) -> EncoderFingerprint | None:
    """Whose cached features are those of the model's encoder: None if it is trained, or if there is none."""
    if model.encoder is None or model.encoder.trainable:
        return None
    return _fingerprint(model.encoder, model.config.model_config.encoder.name)


def _fingerprint(encoder: SentenceEncoder, name: str) -> EncoderFingerprint:
    revision = getattr(encoder.backbone.config, "_commit_hash", None)
    return EncoderFingerprint(name, revision, encoder.layers, digest(encoder.backbone.state_dict()))


def _encoder(name: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    encoder = load_encoder(resolve_backbone(name))
    _check_vocabulary(encoder, tokenizer, f"encoder '{name}'")
    return encoder


def _decoder(settings: DecoderConfig, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    if settings.name is not None:
        if settings.architecture:
            raise ValueError("model.decoder: give a name (pretrained) or an architecture (from scratch), not both")
        if run_settings(settings.name) is not None:
            run = HierarchicalTextVAE.from_pretrained(settings.name)
            if run.processor.decoder_tokenizer.get_vocab() != tokenizer.get_vocab():
                raise ValueError(
                    f"decoder '{settings.name}' was trained with another vocabulary than the data's; prepare the "
                    f"data with --decoder {settings.name}, or train a language model on them first"
                )
            decoder = run.decoder.backbone
            # An adapter of the same shape is trained on; another one becomes part of the weights.
            if run.config.model_config.decoder.lora != settings.lora:
                merge_adapters(decoder)
        else:
            decoder = AutoModelForCausalLM.from_pretrained(resolve_backbone(settings.name), dtype=torch.float32)
        _check_vocabulary(decoder, tokenizer, f"decoder '{settings.name}'")
        return decoder
    values: dict[str, Any] = dict(settings.architecture)
    if "model_type" not in values:
        raise ValueError(
            "model.decoder needs a name (a Hub name, a folder or a textvae run) or an architecture with a "
            "model_type, such as {model_type: gpt2, n_layer: 4, n_embd: 256, n_head: 4}"
        )
    special = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        config = AutoConfig.for_model(values.pop("model_type"), **(special | values))
    except ValueError as error:
        raise ValueError(f"model.decoder.architecture: {error}") from None
    decoder = AutoModelForCausalLM.from_config(config)
    _check_vocabulary(decoder, tokenizer, "model.decoder.architecture")
    return decoder


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, what: str) -> None:
    rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"{what} knows {rows} tokens but the data were prepared with a tokenizer of {len(tokenizer)}; "
            "prepare the data with the backbone's own tokenizer"
        )


def _check_positions(decoder: PreTrainedModel, settings: DecoderConfig, processor: DocumentProcessor) -> None:
    """The longest row that a batch may hold must lie within the decoder's positions."""
    longest = processor.max_sentence_tokens + 1
    if settings.context != processor.hierarchy[-1]:
        longest += settings.context_tokens - 1
    positions = getattr(decoder.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and row_length(longest) > positions:
        raise ValueError(
            f"the decoder has {positions} positions but a row of text may be {row_length(longest)} tokens long: "
            "lower model.decoder.context_tokens, or prepare the data with a smaller max_sentence_tokens"
        )


def _values(backbone: PreTrainedModel) -> dict[str, Any]:
    """A backbone's configuration as the plain values that `TextVAEConfig` stores."""
    return backbone.config.to_diff_dict() | {"model_type": backbone.config.model_type}
