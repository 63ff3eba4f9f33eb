"""What of a model is trained, how fast, and how large its gradients are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from textvae.config import ObjectiveConfig, TrainConfig
from textvae.model.adapter import ADAPTER
from textvae.text_vae import HierarchicalTextVAE
from textvae.training.distributed import shard, total_norms


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


def clip_gradients(
    model: HierarchicalTextVAE, max_norm: float, measured: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Scale the gradients down to a norm of `max_norm`, over all parameters, where theirs is greater.

    Returns that norm and, if `measured`, the norm of the gradient over the norm of the parameters, of every level and
    of the rest: what has stopped learning, or does not learn yet, shows here. Both are of gradients as they came.
    """
    weights: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.grad is not None}
    gradients: dict[str, Tensor] = {name: p.grad for name, p in weights.items() if p.grad is not None}
    parts = _parts(model, weights) if measured else {}
    groups = [[values[name] for name in part] for values in (gradients, weights) for part in parts.values()]
    norm, *norms = total_norms([list(gradients.values()), *groups]).unbind()
    # By shards, because DTensor would find out for every tensor that each process can do without the others.
    clip_grads_with_norm_([shard(parameter) for parameter in weights.values()], max_norm, norm)
    of_gradients, of_weights = norms[: len(parts)], norms[len(parts) :]
    pairs = zip(parts, of_gradients, of_weights, strict=True)
    return norm, {part: of_gradient / of_weight for part, of_gradient, of_weight in pairs}


def _parts(model: HierarchicalTextVAE, names: Iterable[str]) -> dict[str, list[str]]:
    """Names of parameters by level; those of no level by the part of the model."""
    parts: dict[str, list[str]] = {}
    for name in names:
        level = next((level for level in model.level_names if f".{level}." in name), name.split(".")[0])
        parts.setdefault(level, []).append(name)
    return parts
