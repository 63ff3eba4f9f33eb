"""How fluent text is, by a language model that had no part in the writing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from textvae.pretrained import resolve_backbone

JUDGED_TOKENS = 512
"""Of a document that a judge reads: the nats of a token depend on how much it has read before."""


class Judge:
    """A causal language model."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Raises OSError if it cannot be found."""
        path = resolve_backbone(name)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.model = nn.Module.to(model, device)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.max_tokens = min(JUDGED_TOKENS, positions or JUDGED_TOKENS)

    def nats_per_token(self, texts: Iterable[str]) -> float:
        """Over all tokens but the first of each document, up to `JUDGED_TOKENS` of it."""
        nats, tokens = [], 0
        for text in texts:
            ids = self._ids(text)[: self.max_tokens]
            nats.append(self._nats(ids, 1))
            tokens += max(len(ids) - 1, 0)
        return math.fsum(nats) / tokens if tokens else math.nan

    def nats_after(self, context: str, text: str) -> float:
        """Nats per token of `text` read after `context` and a blank line, both up to half of what a judge reads: the
        end of the one, the beginning of the other. NaN for a text without tokens."""
        half = self.max_tokens // 2
        before, after = self._ids(f"{context}\n\n")[-half:], self._ids(text)[:half]
        return self._nats([*before, *after], len(before)) / len(after) if after else math.nan

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    @torch.no_grad()
    def _nats(self, ids: Sequence[int], start: int) -> float:
        """Of the tokens from number `start` on, 1 or more, given all before."""
        if len(ids) <= start:
            return 0.0
        tokens = torch.tensor([list(ids)], device=self.model.device)
        logits = self.model(tokens[:, :-1]).logits[0, start - 1 :].float()
        return functional.cross_entropy(logits, tokens[0, start:], reduction="sum").item()
