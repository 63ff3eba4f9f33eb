"""Saved models that name their frozen backbones in place of holding them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from textvae.config import LoraConfig, ModelConfig
from textvae.damage import read_json_object
from textvae.model.adapter import base_name, digest, frozen_weights, set_trainable, tied_weights
from textvae.model.encoder import load_encoder
from textvae.model.vae import DocumentVAE, TextVAEConfig
from textvae.pretrained import resolve_backbone


def references(model: DocumentVAE) -> dict[str, dict[str, str]]:
    """Name and digest of every backbone whose frozen weights a saved `model` leaves out, by part of the model.

    Raises ValueError where the frozen weights are those of a run that trained them itself.
    """
    found = {}
    for part, backbone, name in _left_out(model, model.config.model_config):
        source = origin(name, model.config.model_config.decoder.lora)
        if run_settings(source) is not None:
            raise ValueError(
                f"model.{part}.save_frozen is false, but its frozen weights are those of the run {source}; "
                f"set model.{part}.save_frozen=true"
            )
        found[part] = {"name": source, "sha256": digest(frozen_weights(backbone))}
    return found


def without_frozen(model: DocumentVAE, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state`, the state dict of `model`, less what `references` names."""
    state = dict(state)
    for part, backbone, _ in _left_out(model, model.config.model_config):
        frozen = frozen_weights(backbone)
        for name in backbone.state_dict():
            if base_name(name) in frozen:
                del state[f"{part}.backbone.{name}"]
    return state


def restore_frozen(model: DocumentVAE, known: Mapping[str, Mapping[str, str]]) -> None:
    """Load the weights that `known`, as `references` gave it, names. Raises ValueError where they are others now."""
    _freeze(model)
    for part, reference in known.items():
        backbone = getattr(model, part).backbone
        source = _load(part, reference["name"]).state_dict()
        frozen = frozen_weights(backbone)
        missing = [name for name in frozen if name not in source]
        if missing or digest({name: source[name] for name in frozen}) != reference["sha256"]:
            raise ValueError(
                f"the model's {part} was trained on the frozen weights of '{reference['name']}', but what goes by that "
                "name here has others; give the folder of the right ones the same name, or train again"
            )
        with torch.no_grad():
            for name, value in backbone.state_dict().items():
                if base_name(name) in frozen:
                    value.copy_(source[base_name(name)])
        backbone.tie_weights()
        tied = tied_weights(backbone)
        getattr(model, part).all_tied_weights_keys = tied
        model.all_tied_weights_keys.update({f"{part}.{k}": f"{part}.{v}" for k, v in tied.items()})


def _freeze(model: DocumentVAE) -> None:
    """Loading makes every parameter a trainable one: those that are not become frozen again."""
    settings = model.config.model_config
    if model.encoder is not None:
        set_trainable(model.encoder.backbone, settings.encoder.trainable, settings.encoder.lora)
    set_trainable(model.decoder.backbone, settings.decoder.trained, settings.decoder.lora)


def origin(name: str, lora: LoraConfig | None) -> str:
    """Where the frozen weights of backbone `name` come from, beside which adapters of shape `lora` stand.

    A run that trained nothing but adapters has those of its own backbone, unless its adapters were merged into them.
    """
    settings = run_settings(name)
    if settings is None or settings.decoder.trained is not False or settings.decoder.name is None:
        return name
    merged = settings.decoder.lora is not None and settings.decoder.lora != lora
    return name if merged else origin(settings.decoder.name, lora)


def run_settings(name: str) -> ModelConfig | None:
    """The model section of the textvae run in folder `name`; None where there is none. Raises ValueError for a damaged
    one."""
    path = Path(name) / "config.json"
    if not path.is_file():
        return None
    values = read_json_object(path, "give a folder whose model is whole")
    return TextVAEConfig(**values).model_config if values.get("model_type") == TextVAEConfig.model_type else None


def _left_out(model: DocumentVAE, settings: ModelConfig) -> Iterator[tuple[str, PreTrainedModel, str]]:
    if model.encoder is not None and not settings.encoder.save_frozen:
        yield "encoder", model.encoder.backbone, settings.encoder.name
    if settings.decoder.name is not None and not settings.decoder.save_frozen:
        yield "decoder", model.decoder.backbone, settings.decoder.name


def _load(part: str, name: str) -> PreTrainedModel:
    path = resolve_backbone(name)
    return load_encoder(path) if part == "encoder" else AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
