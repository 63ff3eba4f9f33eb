"""What the model writes when it is given a document's posterior means and structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accelerate import PartialState

from textvae.data.dataset import Documents
from textvae.data.loader import gather_in_order, walk
from textvae.data.plan import spread
from textvae.text_vae import HierarchicalTextVAE
from textvae.writing.operations import written_anew
from textvae.writing.options import SamplingOptions

GROUP_TOKENS = 1024
"""Tokens of the documents that are written side by side."""


@dataclass(frozen=True)
class Reconstruction:
    """One document's sentences in reading order, without the space around them."""

    original: list[str]
    written: list[str]


def reconstruct(
    model: HierarchicalTextVAE, documents: Documents, num: int, *, process: PartialState | None = None
) -> list[Reconstruction]:
    """Decode `num` documents, spread over the data, greedily from their posterior means and true structure.

    Of several processes each takes a share, and all return the same.
    """
    chosen = documents.select(spread(num, len(documents)))
    options = SamplingOptions(temperature=0.0, max_sentence_tokens=model.processor.max_sentence_tokens)
    found: list[tuple[int, Reconstruction]] = []
    for group in walk(
        chosen, model.layout, model.device, batch_tokens=GROUP_TOKENS, process=process, purpose="reconstructions"
    ):
        written = model.write([written_anew(model.plan(document)) for document in group.members], options=options)
        for row, document, text in zip(group.rows, group.members, written, strict=True):
            original = [sentence.strip() for sentence in document.sentences]
            found.append((row, Reconstruction(original, text.sentences)))
    return gather_in_order(found)


def exact_match(reconstructions: Sequence[Reconstruction]) -> float:
    """Fraction of sentences that are reproduced character by character."""
    pairs = [pair for r in reconstructions for pair in zip(r.original, r.written, strict=True)]
    return sum(original == written for original, written in pairs) / len(pairs)
