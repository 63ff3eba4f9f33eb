"""Pretrained backbones: their blocks, which of their weights are trained, adapters beside them."""

from __future__ import annotations

import hashlib
import importlib.util

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from textvae.config import LoraConfig, Trainable

ADAPTER = "lora_"
"""What the names of adapters' parameters contain."""


def blocks_of(backbone: PreTrainedModel) -> nn.ModuleList:
    """The backbone's list of blocks. Raises ValueError for a model that has no such list."""
    return _blocks_and_parent(backbone)[0]


def _blocks_and_parent(backbone: PreTrainedModel) -> tuple[nn.ModuleList, nn.Module]:
    depth = backbone.config.get_text_config().num_hidden_layers
    for parent in backbone.base_model.modules():
        for child in parent.children():
            if isinstance(child, nn.ModuleList) and len(child) == depth:
                return child, parent
    raise ValueError(
        f"{type(backbone).__name__} has no list of its {depth} blocks; choose a causal language model such as gpt2, "
        "SmolLM2 or Qwen3, or an encoder such as all-MiniLM-L6-v2"
    )


def set_trainable(backbone: PreTrainedModel, trainable: Trainable, lora: LoraConfig | None) -> None:
    """Freeze what is not trained, and put adapters beside the layers that `lora` names (unless they are there).

    Raises ValueError for more blocks than there are, for targets that match no layer, and for an adapter on an output
    layer that is tied to the input embeddings.
    """
    if lora is not None and not has_adapters(backbone):
        _add_adapters(backbone, lora)
    backbone.requires_grad_(trainable is True)
    if isinstance(trainable, str):
        for module in _last(backbone, int(trainable.removeprefix("last "))):
            module.requires_grad_(True)
    for name, parameter in backbone.named_parameters():
        if ADAPTER in name:
            parameter.requires_grad_(True)


def tied_weights(backbone: PreTrainedModel) -> dict[str, str]:
    """Names of tied weights, and of those that they are tied to, as a child called `backbone` has them."""
    return {f"backbone.{one}": f"backbone.{other}" for one, other in backbone.all_tied_weights_keys.items()}


def has_adapters(backbone: nn.Module) -> bool:
    return any(ADAPTER in name for name, _ in backbone.named_parameters())


def _last(backbone: PreTrainedModel, count: int) -> list[nn.Module]:
    """The last `count` blocks, and what their list's owner has after it: a final norm."""
    blocks, parent = _blocks_and_parent(backbone)
    if count > len(blocks):
        raise ValueError(f"trainable: last {count}, but {type(backbone).__name__} has {len(blocks)} blocks")
    children = list(parent.children())
    following = children[next(i for i, child in enumerate(children) if child is blocks) + 1 :]
    return [*blocks[-count:], *following]


def _add_adapters(backbone: PreTrainedModel, lora: LoraConfig) -> None:
    if importlib.util.find_spec("peft") is None:
        raise ValueError("adapters (lora) need the package peft: pip install peft")
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    linear = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    output = backbone.get_output_embeddings()
    for target in lora.targets:
        found = [module for name, module in linear.items() if name == target or name.endswith(f".{target}")]
        if not found:
            kinds = sorted({name.rpartition(".")[2] for name in linear})
            raise ValueError(f"lora.targets: '{target}' matches no layer; this backbone's are {', '.join(kinds)}")
        if output is not None and output in found and output.weight is backbone.get_input_embeddings().weight:
            raise ValueError(f"lora.targets: '{target}' is the output layer, which is tied to the input embeddings")
    inject_adapter_in_model(
        PeftConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides it by the rank: any number will do
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets) or "all-linear",
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear.values()),
        ),
        backbone,
    )


def merge_adapters(backbone: nn.Module) -> None:
    """Add every adapter to the weights that it stands beside, and take it away."""
    for name, module in list(backbone.named_modules()):
        merge = getattr(module, "merge", None)
        if merge is not None and hasattr(module, "lora_A"):
            merge()
            backbone.set_submodule(name, module.get_base_layer())


def frozen_weights(backbone: PreTrainedModel) -> dict[str, Tensor]:
    """Weights and buffers that training never changes, by the names that they have without adapters."""
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    return {
        base_name(name): value
        for name, value in backbone.state_dict().items()
        if name not in trained and ADAPTER not in name
    }


def base_name(name: str) -> str:
    """The name that a weight has in the backbone without adapters."""
    return name.replace(".base_layer.", ".")


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names and numbers."""
    hasher = hashlib.sha256()
    for name, value in sorted(weights.items()):
        hasher.update(name.encode())
        hasher.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return hasher.hexdigest()
