"""Planning a document before a word is written: its latents and its structure, from the top down.

Shapes: K documents, U units of a level in one document, Z latent size, E structure events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

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


def plan_of(
    latents: Mapping[str, Tensor], structure: Sequence[Sequence[int]], hierarchy: Sequence[str], resample: str | None
) -> DocumentPlan:
    """A plan that keeps the `latents` of one document above level `resample`, and the structure among them.

    `resample` None keeps everything.
    """
    border = len(hierarchy) if resample is None else hierarchy.index(resample)
    z = {name: value for name, value in latents.items() if hierarchy.index(name) < border}
    counts = {number: list(map(int, row)) for number, row in enumerate(structure) if number + 1 < border}
    return DocumentPlan(z, counts)


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
        told = model.hierarchy.stop_heads.by_level[number]
        open_plans = [k for k, plan in enumerate(completed) if name not in plan.z or _is_open(plan, told)]
        if open_plans:
            ends = [EndTeller(told, completed[k].counts, options.max_children) for k in open_plans]
            drawn = _draw_level(level, [states[k] for k in open_plans], ends, options, generator)
            for k, (z, events) in zip(open_plans, drawn, strict=True):
                completed[k].z[name] = z
                _note_structure(completed[k], told, events)
        if level.descend is None:
            break
        for k, plan in enumerate(completed):
            z = plan.z[name]
            above = states[k][ancestors_of(plan, number, number_above)] if number else states[k]
            states[k] = level.state_below(above, z, _events_of(plan, told, len(z), device))
        number_above = number
    return completed


def _is_open(plan: DocumentPlan, told: Sequence[int]) -> bool:
    return any(number - 1 not in plan.counts for number in told)


class EndTeller:
    """Tells, host unit after host unit of one document, which units end: decided ends are kept, others drawn."""

    def __init__(self, told: Sequence[int], counts: Mapping[int, Sequence[int]], max_children: int) -> None:
        """told: numbers of the levels whose ends are told, lowest first; counts: as in `DocumentPlan`."""
        self.told = told
        self.decided = {number: last_children(counts[number - 1]) for number in told if number - 1 in counts}
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
    ends: Sequence[EndTeller],
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
        happens = draw_ends(level.stop_logits(hidden, z), generator)
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


def draw_ends(logits: Tensor, generator: torch.Generator) -> list[list[bool]]:
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
        ends = last_children(plan.counts[number - 1])
        column = torch.zeros(num_units, device=device)
        for index, unit in enumerate(units):
            column[unit] = 1.0 if index in ends else -1.0
        columns.append(column)
        units = [unit for index, unit in enumerate(units) if index in ends]
    return torch.stack(columns, dim=1) if columns else torch.zeros(num_units, 0, device=device)


def last_children(counts: Sequence[int]) -> set[int]:
    """Numbers, over all parents, of the children that are the last of their parent."""
    total = 0
    ends = set()
    for count in counts:
        total += count
        ends.add(total - 1)
    return ends


def ancestors_of(plan: DocumentPlan, of: int, at: int) -> list[int]:
    """Index of the ancestor at level `at` of every unit of level `of`."""
    index = list(range(sum(plan.counts[at - 1]) if at else 1))
    for number in range(at, of):
        index = [ancestor for ancestor, count in zip(index, plan.counts[number], strict=True) for _ in range(count)]
    return index
