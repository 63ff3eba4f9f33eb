"""What of a model is trained, how fast, and how large its gradients are."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from textvae.config import ObjectiveConfig, TrainConfig
from textvae.model.adapter import ADAPTER
from textvae.text_vae import HierarchicalTextVAE
from textvae.training.distributed import whole


def freeze_unused(model: HierarchicalTextVAE, config: ObjectiveConfig) -> None:
    """Leave only parameters trainable that the objective reaches, as distributed training needs."""
    if config.likelihood == "bag_of_words":
        model.decoder.backbone.requires_grad_(False)
        if model.decoder.structure is not None:
            model.decoder.structure.requires_grad_(False)


def parameter_groups(model: HierarchicalTextVAE, settings: TrainConfig) -> list[dict[str, Any]]:
    """Pretrained parameters, adapters and new parameters with their own learning rates; no decay on vectors (biases,
    norms)."""
    config = model.config.model_config
    pretrained = set()
    if model.encoder is not None:
        pretrained |= set(model.encoder.backbone.parameters())
    if config.decoder.name is not None:
        pretrained |= set(model.decoder.backbone.parameters())
    learning_rates = {
        "adapter": settings.adapter_learning_rate,
        "pretrained": settings.pretrained_learning_rate,
        "new": settings.learning_rate,
    }
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "adapter" if ADAPTER in name else "pretrained" if parameter in pretrained else "new"
            groups.setdefault((kind, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": groups[kind, is_matrix],
            "lr": learning_rate,
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
        }
        for kind, learning_rate in learning_rates.items()
        for is_matrix in (True, False)
        if (kind, is_matrix) in groups
    ]


def gradient_ratios(model: HierarchicalTextVAE) -> dict[str, Tensor]:
    """Norm of the gradient over norm of the parameters, of every level and of the rest: what has
    stopped learning, or does not learn yet, shows here."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            level = next((level for level in model.level_names if f".{level}." in name), name.split(".")[0])
            parts.setdefault(level, []).append(parameter)
    return {
        part: whole(get_total_norm([p.grad for p in members if p.grad is not None])) / whole(get_total_norm(members))
        for part, members in parts.items()
    }
