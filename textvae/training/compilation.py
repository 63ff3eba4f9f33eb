"""The decoder's blocks compiled for training (regional compilation): what is compiled for one serves all of them.

They are compiled in place, as accelerate does under FSDP2: names of weights, hooks and saved models stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from textvae.model.adapter import blocks_of
from textvae.text_vae import HierarchicalTextVAE


def check_compiler(device: torch.device) -> None:
    """Raises ValueError where `torch.compile` does not work for `device`, as it does not without a C++ compiler."""
    try:
        torch.compile(_doubled)(torch.ones(2, device=device))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"train.compile needs a C++ compiler that torch can use ({reason}): install g++, name another one in the "
            "environment variable CXX, or set train.compile to false"
        ) from None


def compile_blocks(model: HierarchicalTextVAE) -> None:
    """From its first pass on, every block of the decoder runs compiled."""
    for block in blocks_of(model.decoder.backbone):
        # Rows come in many shapes: without `dynamic` the first is compiled for itself, and then all others again.
        block.compile(dynamic=True)


@contextmanager
def uncompiled(is_compiled: bool) -> Iterator[None]:
    """Within, the blocks of a model that `is_compiled` run as they were written: without gradients they would be
    compiled anew."""
    if not is_compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _doubled(values: Tensor) -> Tensor:
    return 2 * values
