"""What the model writes when it is given a document's posterior means and structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accelerate import PartialState
from accelerate.utils import gather_object

from textvae.data.dataset import Documents
from textvae.data.loader import evaluation_groups
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
    process = process or PartialState()
    groups = evaluation_groups(
        documents.token_counts,
        GROUP_TOKENS,
        documents=spread(num, len(documents)),
        process=process.process_index,
        num_processes=process.num_processes,
    )
    options = SamplingOptions(temperature=0.0, max_sentence_tokens=model.processor.max_sentence_tokens)
    found = []
    for numbers in groups:
        members = [documents.read(number) for number in numbers]
        written = model.write([written_anew(model.plan(document)) for document in members], options=options)
        for number, document, text in zip(numbers, members, written, strict=True):
            original = [sentence.strip() for sentence in document.sentences]
            found.append((number, Reconstruction(original, text.sentences)))
    return [reconstruction for _, reconstruction in sorted(gather_object(found), key=lambda pair: pair[0])]


def exact_match(reconstructions: Sequence[Reconstruction]) -> float:
    """Fraction of sentences that are reproduced character by character."""
    pairs = [pair for r in reconstructions for pair in zip(r.original, r.written, strict=True)]
    return sum(original == written for original, written in pairs) / len(pairs)
