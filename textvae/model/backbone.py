"""What the decoder asks of a causal language model, of whatever family: its blocks, cache and output layer.

Limits are found when the model is built, by running two tokens through it, and raise ValueError.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from textvae.model.adapter import blocks_of
from textvae.model.masks import attention_mask


def output_layer(backbone: PreTrainedModel) -> nn.Linear:
    """From the last hidden states to the logits."""
    layer = backbone.get_output_embeddings()
    if not hasattr(layer, "in_features") or backbone.base_model is backbone:
        raise ValueError(
            f"decoder {type(backbone).__name__} has no output layer of its own; choose a causal language model "
            "such as gpt2, SmolLM2 or Qwen3"
        )
    return cast(nn.Linear, layer)  # or an adapter around one


def output_logits(backbone: PreTrainedModel, states: Tensor) -> Tensor:
    """Logits [.., V] of last hidden states [.., H]: the output layer, and what some families do behind it, which is to
    scale (Cohere, Granite) or to bound (Gemma)."""
    layer, config = output_layer(backbone), backbone.config.get_text_config()
    logits: Tensor = layer(states.to(layer.weight.dtype))
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (bound := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = bound * (logits / bound).tanh()
    return logits


def cache_argument(backbone: PreTrainedModel) -> str:
    """What the family calls the memory of the tokens before; without this name it would be ignored."""
    names = inspect.signature(backbone.base_model.forward).parameters
    for name in ("past_key_values", "cache_params"):
        if name in names:
            return name
    raise ValueError(f"decoder {type(backbone).__name__} keeps no memory of the tokens before, so it cannot write")


@torch.no_grad()
def check_logits(backbone: PreTrainedModel) -> None:
    """ValueError unless `output_logits` gives the backbone's own."""
    if backbone.device.type == "meta":  # weights come later; the model was checked when it was first built
        return
    embedded = _two_tokens(backbone)
    with _evaluating(backbone):
        own = backbone(inputs_embeds=embedded, use_cache=False).logits.float()
        states = backbone.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        ours = output_logits(backbone, states).float()
    if not torch.allclose(own, ours, rtol=1e-2, atol=1e-2 * float(own.abs().max())):
        raise ValueError(
            f"decoder {type(backbone).__name__} changes its logits behind the output layer in a way that is not "
            "known here; choose another causal language model"
        )


def check_mask(backbone: PreTrainedModel) -> None:
    """ValueError unless the backbone keeps to a mask that hides one token from another."""
    if backbone.device.type == "meta":
        return
    # Rows that differ in the hidden token only.
    states = _masked_states(backbone, [0, 1])
    if states is None or not torch.allclose(states[0, 1], states[1, 1], rtol=1e-3, atol=1e-5):
        raise ValueError(
            f"decoder {type(backbone).__name__} takes no mask of sentences: set model.decoder.context_dropout to 0"
        )


def takes_packed_rows(backbone: PreTrainedModel) -> bool:
    """Whether the backbone reads what stands behind something else in a row, masked and numbered anew, as if it stood
    at the row's beginning."""
    states = _masked_states(backbone, [0, 0])
    if states is None:
        return False
    margin = 1e-5 if backbone.dtype == torch.float32 else 1e-2
    return torch.allclose(states[0, 1], states[1, 0], rtol=1e-2, atol=margin * float(states.abs().max()))


@torch.no_grad()
def _masked_states(backbone: PreTrainedModel, positions: list[int]) -> Tensor | None:
    """Last hidden states [2, 2, H] of two rows whose tokens do not see each other and have these positions; the first
    tokens differ, the second are that of the second row's first place. None where masks or positions are refused."""
    first, second = _two_tokens(backbone).split(1, dim=1)
    embedded = torch.cat([torch.cat([first, second], dim=1), torch.cat([second, second], dim=1)])
    visible = torch.eye(2, dtype=torch.bool, device=embedded.device)[None, None].expand(2, -1, -1, -1)
    try:
        mask = attention_mask(visible, backbone.config, embedded.dtype)
        with _evaluating(backbone):
            return backbone.base_model(
                inputs_embeds=embedded,
                attention_mask=mask,
                position_ids=torch.tensor([positions, positions], device=embedded.device),
                use_cache=False,
            ).last_hidden_state
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return None


@torch.no_grad()
def key_value_shape(backbone: PreTrainedModel) -> tuple[int, int, int]:
    """(blocks, key-value heads, head size) of what its cache holds, the same in every block.

    Raises ValueError where a block keeps anything else, such as a recurrent state.
    """
    cache = DynamicCache(config=backbone.config)
    with _evaluating(backbone):
        backbone.base_model(inputs_embeds=_two_tokens(backbone), use_cache=True, **{cache_argument(backbone): cache})
    held = [(getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers]
    shapes = {None if part is None else (part.shape[1], part.shape[3]) for pair in held for part in pair}
    shape = shapes.pop() if len(shapes) == 1 else None
    if shape is None or len(held) != len(blocks_of(backbone)):
        raise ValueError(
            f"decoder {type(backbone).__name__} does not keep the same keys and values in every block: set "
            "model.decoder.prefix_length to 0"
        )
    return len(held), *shape


def _two_tokens(backbone: PreTrainedModel) -> Tensor:
    """[1, 2, H] embedded: transformers warns of ids that may be padding."""
    return cast(Tensor, backbone.get_input_embeddings()(torch.arange(2, device=backbone.device)[None]))


@contextmanager
def _evaluating(backbone: PreTrainedModel) -> Iterator[None]:
    """Within, there is no dropout, which would also use up random numbers."""
    was_training = backbone.training
    backbone.eval()
    try:
        yield
    finally:
        backbone.train(was_training)
