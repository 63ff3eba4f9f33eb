"""Writing documents: complete their plans, then decode the sentences.

Shapes: K documents, U units of a level in one document, S sentences, Z latent size, E structure events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from textvae.model.decoder import Decoder
from textvae.model.vae import DocumentVAE
from textvae.writing.plan import (
    DocumentPlan,
    EndTeller,
    SamplingOptions,
    ancestors_of,
    complete_plans,
    draw_ends,
    last_children,
)


@dataclass(frozen=True)
class WrittenDocument:
    sentences: list[list[int]]
    """Token ids of every sentence, without start and end."""
    structure: list[list[int]]
    """As `EncodedDocument.structure`: number of children of every unit, by level, top first."""


@torch.no_grad()
def write_documents(
    model: DocumentVAE, plans: Sequence[DocumentPlan], options: SamplingOptions, generator: torch.Generator
) -> list[WrittenDocument]:
    """Complete the plans (empty ones are drawn from the prior) and write their text."""
    plans = complete_plans(model, plans, options, generator)
    lowest = model.config.hierarchy[-1]
    decoder = model.decoder
    if model.layout.context == lowest and not model.hierarchy.stop_heads.decoder:
        return _write_in_parallel(model, plans, options, generator)
    return [_write_in_order(model, decoder, plan, options, generator) for plan in plans]


def _sentence_vectors(model: DocumentVAE, plan: DocumentPlan, lowest: int) -> Tensor | None:
    """[num_sites, U, H] for every unit of level `lowest`."""
    if model.decoder.conditioner is None:
        return None
    z = {}
    for name in model.level_names:
        z[name] = plan.z[name][ancestors_of(plan, lowest, model.config.hierarchy.index(name))]
    return model.decoder.conditioner(z)


def _write_in_parallel(
    model: DocumentVAE, plans: Sequence[DocumentPlan], options: SamplingOptions, generator: torch.Generator
) -> list[WrittenDocument]:
    lowest = len(model.config.hierarchy) - 1
    every = [_sentence_vectors(model, plan, lowest) for plan in plans]
    vectors = torch.cat([part for part in every if part is not None], dim=1)
    sentences: list[list[int]] = []
    for part in vectors.split(options.parallel_sentences, dim=1):
        sentences.extend(_write_sentences(model.decoder, part, options, generator))
    documents, start = [], 0
    for plan in plans:
        structure = [plan.counts[number] for number in range(lowest)]
        count = sum(structure[-1]) if structure else 1
        documents.append(WrittenDocument(sentences[start : start + count], structure))
        start += count
    return documents


def _write_sentences(
    decoder: Decoder, vectors: Tensor, options: SamplingOptions, generator: torch.Generator
) -> list[list[int]]:
    """Independent sentences, one for every column of `vectors` [num_sites, R, H]."""
    rows = vectors.shape[1]
    ids = torch.full((rows, 1), decoder.layout.start_id, device=vectors.device)
    cache = DynamicCache(config=decoder.backbone.config)
    written: list[list[int]] = [[] for _ in range(rows)]
    done = [False] * rows
    for _ in range(options.max_sentence_tokens):
        logits, _ = decoder.step(ids, vectors, cache)
        ids = _draw_words(ids, logits, options, generator)
        for row, word in enumerate(ids[:, 0].tolist()):
            done[row] = done[row] or word == decoder.layout.end_id
            if not done[row]:
                written[row].append(word)
        if all(done):
            break
    return written


def _draw_words(ids: Tensor, logits: Tensor, options: SamplingOptions, generator: torch.Generator) -> Tensor:
    """[R, 1]"""
    if options.temperature == 0:
        return logits.argmax(-1, keepdim=True)
    warpers = LogitsProcessorList()
    if options.temperature != 1:
        warpers.append(TemperatureLogitsWarper(options.temperature))
    if options.top_p < 1:
        warpers.append(TopPLogitsWarper(options.top_p))
    probabilities = warpers(cast(torch.LongTensor, ids), cast(torch.FloatTensor, logits)).softmax(-1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator).to(logits.device)


def _write_in_order(
    model: DocumentVAE,
    decoder: Decoder,
    plan: DocumentPlan,
    options: SamplingOptions,
    generator: torch.Generator,
) -> WrittenDocument:
    """One document, sentence after sentence: when sentences see earlier ones, or the decoder itself tells
    where units end."""
    hierarchy = model.config.hierarchy
    lowest, context = len(hierarchy) - 1, hierarchy.index(model.layout.context)
    told = model.hierarchy.stop_heads.decoder
    decided = lowest - len(told)  # the lowest level whose units are planned
    vectors = _sentence_vectors(model, plan, decided)
    num_planned = len(ancestors_of(plan, decided, decided))
    counts = {number: list(plan.counts[number]) for number in range(decided)}
    counts |= {number - 1: [] for number in told}
    ends = EndTeller(told, plan.counts, options.max_children)
    sentences: list[list[int]] = []
    stream = _Stream(decoder)
    planned = 0
    while planned < num_planned:
        here = None if vectors is None else vectors[:, planned : planned + 1]
        words, logits = stream.write(here, options, generator)
        sentences.append(words)
        children = {number: count + 1 for number, count in ends.children.items()}
        ended = lowest  # number of the highest level a unit of which ends here
        for number, event in zip(told, ends.tell(draw_ends(logits, generator)[0]), strict=True):
            if event != 1:
                break
            counts[number - 1].append(children[number])
            ended = number - 1
        if ended == decided:
            planned += 1
            ended = _planned_end(plan, planned, decided)
        if ended <= context or stream.length >= decoder.layout.context_tokens:
            stream = _Stream(decoder)
    return WrittenDocument(sentences, [counts[number] for number in range(lowest)])


def _planned_end(plan: DocumentPlan, num_done: int, level: int) -> int:
    """Number of the highest level a unit of which ends with unit `num_done` (counted from 1) of `level`."""
    while level > 0:
        ends = sorted(last_children(plan.counts[level - 1]))
        if num_done - 1 not in ends:
            return level
        num_done = ends.index(num_done - 1) + 1
        level -= 1
    return 0


class _Stream:
    """A stretch of text being written, with the decoder's memory of it."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.cache = DynamicCache(config=decoder.backbone.config)
        self.length = 0

    def write(
        self, vectors: Tensor | None, options: SamplingOptions, generator: torch.Generator
    ) -> tuple[list[int], Tensor]:
        """The next sentence, and the event logits [1, E] at its end."""
        words: list[int] = []
        device = self.decoder.backbone.device
        ids = torch.full((1, 1), self.decoder.layout.start_id, device=device)
        while True:
            logits, events = self.decoder.step(ids, vectors, self.cache)
            self.length += 1
            ids = _draw_words(ids, logits, options, generator)
            if int(ids) == self.decoder.layout.end_id or len(words) == options.max_sentence_tokens:
                return words, events
            words.append(int(ids))
