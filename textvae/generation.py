"""Writing documents: plan the latents and the structure from the top, then decode the sentences.

Shapes: K documents, U units of a level in one document, S sentences, Z latent size, E structure events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from textvae.model.level import Level
from textvae.model.vae import DocumentVAE


@dataclass(frozen=True)
class SamplingOptions:
    temperature: float = 1.0
    """Of the words; 0 takes the most probable word always."""
    top_p: float = 1.0
    latent_temperature: float = 1.0
    """Scales the standard deviation of latents that are drawn from their priors."""
    max_sentence_tokens: int = 128
    max_children: int = 64
    """A unit is ended after this many children."""
    parallel_sentences: int = 64


@dataclass
class DocumentPlan:
    """Latents and structure of one document, as far as they are decided."""

    z: dict[str, Tensor] = field(default_factory=dict)
    """[U, Z] by latent level."""
    counts: dict[int, list[int]] = field(default_factory=dict)
    """Level number -> number of children of every unit of that level, for the levels that are decided."""


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
    if model.layout.context == lowest and not model.hierarchy.plan.decoder:
        return _write_in_parallel(model, plans, options, generator)
    return [_write_in_order(model, decoder, plan, options, generator) for plan in plans]


@torch.no_grad()
def complete_plans(
    model: DocumentVAE, plans: Sequence[DocumentPlan], options: SamplingOptions, generator: torch.Generator
) -> list[DocumentPlan]:
    """Draw, from the top down, the latents and the structure that the plans leave open."""
    completed = [DocumentPlan(dict(plan.z), dict(plan.counts)) for plan in plans]
    device = model.device
    states = [torch.zeros(1, model.hierarchy.width, device=device) for _ in plans]  # of every parent
    number_above = 0
    for name, level in model.hierarchy.stack.items():
        number = model.config.hierarchy.index(name)
        told = model.hierarchy.plan.hosts[number]
        open_plans = [k for k, plan in enumerate(completed) if name not in plan.z or _is_open(plan, told)]
        if open_plans:
            ends = [_Ends(told, completed[k].counts, options.max_children) for k in open_plans]
            drawn = _draw_level(level, [states[k] for k in open_plans], ends, options, generator)
            for k, (z, events) in zip(open_plans, drawn, strict=True):
                completed[k].z[name] = z
                _note_structure(completed[k], told, events)
        if level.descend is None:
            break
        for k, plan in enumerate(completed):
            z = plan.z[name]
            above = states[k][_ancestors(plan, number, number_above)] if number else states[k]
            states[k] = level.state_below(above, z, _events_of(plan, told, len(z), device))
        number_above = number
    return completed


def _is_open(plan: DocumentPlan, told: Sequence[int]) -> bool:
    return any(number - 1 not in plan.counts for number in told)


class _Ends:
    """Tells, host unit after host unit of one document, which units end: decided ends are kept, others drawn."""

    def __init__(self, told: Sequence[int], counts: Mapping[int, Sequence[int]], max_children: int) -> None:
        """told: numbers of the levels whose ends are told, lowest first; counts: as in `DocumentPlan`."""
        self.told = told
        self.decided = {number: _last_children(counts[number - 1]) for number in told if number - 1 in counts}
        self.max_children = max_children
        self.units = dict.fromkeys(told, 0)
        self.children = dict.fromkeys(told, 0)
        """Units so far of every told level: in the document, and in the parent that is open."""

    def tell(self, drawn: Sequence[bool]) -> list[float]:
        """1, -1 and 0 of every told level; a level is asked only when the one before it has ended."""
        events = [0.0] * len(self.told)
        for column, number in enumerate(self.told):
            self.children[number] += 1
            if number in self.decided:
                ends = self.units[number] in self.decided[number]
            else:
                ends = drawn[column] or self.children[number] >= self.max_children
            self.units[number] += 1
            events[column] = 1.0 if ends else -1.0
            if not ends:
                break
            self.children[number] = 0
        return events


def _draw_level(
    level: Level,
    states: Sequence[Tensor],
    ends: Sequence[_Ends],
    options: SamplingOptions,
    generator: torch.Generator,
) -> list[tuple[Tensor, Tensor]]:
    """Units of one level for K documents at a time: z [U, Z] and events [U, E] of each.

    states: [P, D] top-down states of every document's parents.
    """
    device = states[0].device
    parent = [0] * len(states)
    drawn: list[list[Tensor]] = [[] for _ in states]
    told_events: list[list[Tensor]] = [[] for _ in states]
    at = torch.stack([state[0] for state in states])
    position = level.start(at)
    while any(parent[k] < len(states[k]) for k in range(len(states))):
        above = torch.stack([state[min(parent[k], len(state) - 1)] for k, state in enumerate(states)])
        hidden, prior = level.next_prior(position, above)
        noise = torch.randn(prior.mean.shape, generator=generator).to(device) * options.latent_temperature
        z = prior.sample(noise)
        happens = _draw_ends(level.structure_logits(hidden, z), generator)
        told = [end.tell(row) for end, row in zip(ends, happens, strict=True)]
        events = torch.tensor(told, device=device)
        level.commit(position, z, events)
        for k in range(len(states)):
            if parent[k] == len(states[k]):
                continue
            drawn[k].append(z[k])
            told_events[k].append(events[k])
            parent[k] += all(event == 1 for event in told[k])
    return [(torch.stack(z), torch.stack(events)) for z, events in zip(drawn, told_events, strict=True)]


def _draw_ends(logits: Tensor, generator: torch.Generator) -> list[list[bool]]:
    """[K, E]"""
    drawn = torch.rand(logits.shape, generator=generator) < logits.float().sigmoid().cpu()
    found: list[list[bool]] = drawn.tolist()
    return found


def _note_structure(plan: DocumentPlan, told: Sequence[int], events: Tensor) -> None:
    """Turn the events [U, E] of a level's units into child counts of the levels above it."""
    for column, number in enumerate(told):
        happened = events[events[:, column] != 0, column] == 1
        ends = [index for index, end in enumerate(happened.tolist()) if end]
        plan.counts[number - 1] = [end - before for before, end in zip([-1, *ends], ends, strict=False)]


def _events_of(plan: DocumentPlan, told: Sequence[int], num_units: int, device: torch.device) -> Tensor:
    """The inverse of `_note_structure`: [U, E]."""
    columns = []
    units = list(range(num_units))  # which of this level's units ends each unit of the level asked about
    for number in told:
        ends = _last_children(plan.counts[number - 1])
        column = torch.zeros(num_units, device=device)
        for index, unit in enumerate(units):
            column[unit] = 1.0 if index in ends else -1.0
        columns.append(column)
        units = [unit for index, unit in enumerate(units) if index in ends]
    return torch.stack(columns, dim=1) if columns else torch.zeros(num_units, 0, device=device)


def _last_children(counts: Sequence[int]) -> set[int]:
    """Numbers, over all parents, of the children that are the last of their parent."""
    total = 0
    ends = set()
    for count in counts:
        total += count
        ends.add(total - 1)
    return ends


def _ancestors(plan: DocumentPlan, of: int, at: int) -> list[int]:
    """Index of the ancestor at level `at` of every unit of level `of`."""
    index = list(range(sum(plan.counts[at - 1]) if at else 1))
    for number in range(at, of):
        index = [ancestor for ancestor, count in zip(index, plan.counts[number], strict=True) for _ in range(count)]
    return index


def _sentence_vectors(model: DocumentVAE, plan: DocumentPlan, lowest: int) -> Tensor | None:
    """[num_sites, U, H] for every unit of level `lowest`."""
    if model.decoder.conditioner is None:
        return None
    z = {}
    for name in model.level_names:
        z[name] = plan.z[name][_ancestors(plan, lowest, model.config.hierarchy.index(name))]
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
    told = model.hierarchy.plan.decoder
    decided = lowest - len(told)  # the lowest level whose units are planned
    vectors = _sentence_vectors(model, plan, decided)
    num_planned = len(_ancestors(plan, decided, decided))
    counts = {number: list(plan.counts[number]) for number in range(decided)}
    counts |= {number - 1: [] for number in told}
    ends = _Ends(told, plan.counts, options.max_children)
    sentences: list[list[int]] = []
    stream = _Stream(decoder)
    planned = 0
    while planned < num_planned:
        here = None if vectors is None else vectors[:, planned : planned + 1]
        words, logits = stream.write(here, options, generator)
        sentences.append(words)
        children = {number: count + 1 for number, count in ends.children.items()}
        ended = lowest  # number of the highest level a unit of which ends here
        for number, event in zip(told, ends.tell(_draw_ends(logits, generator)[0]), strict=True):
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
        ends = sorted(_last_children(plan.counts[level - 1]))
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


def plan_of(latents: Mapping[str, Tensor], structure: Sequence[Sequence[int]], hierarchy: Sequence[str],
            resample: str | None) -> DocumentPlan:  # fmt: skip
    """A plan that keeps the `latents` of one document above level `resample`, and the structure among them.

    `resample` None keeps everything.
    """
    border = len(hierarchy) if resample is None else hierarchy.index(resample)
    z = {name: value for name, value in latents.items() if hierarchy.index(name) < border}
    counts = {number: list(map(int, row)) for number, row in enumerate(structure) if number + 1 < border}
    return DocumentPlan(z, counts)
