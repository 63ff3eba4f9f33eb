"""Latents on their way into the decoder: one vector for every place where they enter.

Shapes: S sentences, R x C tokens, H hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from textvae.model.backbone import key_value_shape


class Conditioner(nn.Module):
    """Latents -> one vector for every place where they enter the decoder.

    The last projection starts at zero, so that the model starts as the plain language model exactly; only a
    prefix of zeros takes some attention away.
    """

    def __init__(self, latent_sizes: Mapping[str, int], width: int, hidden_size: int, num_sites: int) -> None:
        super().__init__()
        self.num_sites = num_sites
        self.inputs = nn.ModuleDict({name: nn.Linear(size, width) for name, size in latent_sizes.items()})
        self.output = nn.Linear(2 * width, num_sites * hidden_size, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, z: Mapping[str, Tensor]) -> Tensor:
        """z by level, each [S, Z_l] gathered at the sentences; levels may be left out -> [num_sites, S, H]."""
        total = torch.stack([self.inputs[name](values) for name, values in z.items()]).sum(0)
        vectors = self.output(torch.cat([total, F.gelu(total)], dim=-1))
        return vectors.unflatten(-1, (self.num_sites, -1)).transpose(0, 1)


@dataclass(frozen=True)
class Sites:
    """How the conditioner's vectors are shared out: the first to the blocks' inputs, one to the output layer's, some to
    the prefix, the last to the topic head."""

    blocks: int
    output: bool
    prefix: int
    topics: bool

    def __len__(self) -> int:
        return self.blocks + self.output + self.prefix + self.topics

    def of_prefix(self, vectors: Tensor) -> Tensor:
        """[prefix, S, H] of [num_sites, S, H]."""
        first = self.blocks + self.output
        return vectors[first : first + self.prefix]


def at_tokens(vectors: Tensor, sentence: Tensor) -> Tensor:
    """[R, C, H] or, to be broadcast, [R, 1, H]: the rows of `vectors` [S, H] that `sentence` [R, C] or [R, 1] names."""
    return vectors.index_select(0, sentence.flatten()).view(*sentence.shape, -1)


def add_latents(states: Tensor, vectors: Tensor, sentence: Tensor) -> Tensor:
    """`states` [R, C, H] plus their sentences' `vectors` [S, H], scaled by the size of the state they are added to."""
    size = torch.linalg.vector_norm(states.detach(), dim=-1, keepdim=True, dtype=torch.float32)
    scale = (size / math.sqrt(states.shape[-1])).to(states.dtype)
    # The output layer of some decoders is narrower than their blocks.
    added = at_tokens(vectors[:, : states.shape[-1]], sentence).to(states.dtype)
    return torch.addcmul(states, scale, added)


class LatentInput(nn.Module):
    """What enters one block beside its input. It stands on the block and knows nothing else, so that a copy of the
    block, however it is made, has one of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors: Tensor | None = None
        """[S, H]; None between two passes, when the block is what it was."""
        self.sentence: Tensor | None = None
        """[R, C] or [R, 1]"""

    def forward(self, states: Tensor) -> Tensor:
        if self.vectors is None or self.sentence is None:
            return states
        return add_latents(states, self.vectors, self.sentence)


def open_inputs(blocks: Sequence[nn.Module]) -> tuple[LatentInput, ...]:
    """Put a `LatentInput` on each of `blocks`, which may have been another decoder's."""
    for block in blocks:
        if not hasattr(block, "latent_input"):
            block.register_forward_pre_hook(_enter, with_kwargs=True)
        block.add_module("latent_input", LatentInput())
    return tuple(map(_input_of, blocks))


def _input_of(block: nn.Module) -> LatentInput:
    return cast(LatentInput, block.get_submodule("latent_input"))


def _enter(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # A function of the module, not a closure: a copy of the block hands itself in.
    add = _input_of(block)
    if args:
        return (add(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": add(kwargs["hidden_states"])}


@contextmanager
def entering(inputs: Sequence[LatentInput], vectors: Tensor, sentence: Tensor) -> Iterator[None]:
    """Within, the rows of `vectors` [num_sites, S, H] that `sentence` [R, C] or [R, 1] names enter the blocks."""
    try:
        for latent_input, own in zip(inputs, vectors[: len(inputs)].unbind(0), strict=True):
            latent_input.vectors, latent_input.sentence = own, sentence
        yield
    finally:
        for latent_input in inputs:
            latent_input.vectors = latent_input.sentence = None


@dataclass(frozen=True)
class Prefix:
    """Keys and values that stand before the text of every row."""

    shape: tuple[int, int, int, int]
    """(blocks, key-value heads, length, head size)"""

    @classmethod
    def of(cls, backbone: PreTrainedModel, length: int) -> Prefix:
        """Raises ValueError for a backbone without keys and values."""
        blocks, heads, size = key_value_shape(backbone)
        return cls((blocks, heads, length, size))

    @property
    def length(self) -> int:
        return self.shape[2]

    def num_sites(self, hidden_size: int) -> int:
        """Vectors [S, H] that hold it."""
        return -(-2 * math.prod(self.shape) // hidden_size)

    def fill(self, cache: Cache, vectors: Tensor) -> None:
        """Put the prefix of R rows, vectors [num_sites, R, H], into the empty `cache`."""
        numbers = vectors.transpose(0, 1).flatten(1)[:, : 2 * math.prod(self.shape)]
        for block, pair in enumerate(numbers.unflatten(1, (self.shape[0], 2, *self.shape[1:])).unbind(1)):
            cache.update(*pair.unbind(1), block)
