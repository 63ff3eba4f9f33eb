"""Boolean masks as attention kernels want them."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PretrainedConfig


def attention_mask(visible: Tensor, config: PretrainedConfig, dtype: torch.dtype) -> Tensor:
    """[R, 1, C, C] `visible`, true where a position may look, for the attention kernel that `config` names now.

    `sdpa` takes booleans; `eager` adds its mask to the scores, where true and false would be plus one and plus
    nothing. `dtype` is that of the states. Every position must see at least itself. Raises ValueError for a kernel
    that takes no such mask, such as flash attention.
    """
    kernel = config._attn_implementation
    if kernel == "sdpa":
        return visible
    if kernel == "eager":
        hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=visible.device)
        return torch.where(visible, torch.zeros_like(hidden), hidden)
    raise ValueError(f"attention kernel '{kernel}' takes no mask of documents and sentences: set 'sdpa' or 'eager'")
