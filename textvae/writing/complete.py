"""Completing plans: what they leave open is drawn from the priors, from the top down, before a token is written.

Every document's randomness is its own: a latent is a function of (seed, document, level, unit), so a document is the
same whatever others it is planned beside.

Shapes: K documents, U units of a level in one document, Z latent size, E stop heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from textvae.data.batch import key_of
from textvae.model.hierarchy import TopDownState
from textvae.model.noise import KeyedNoise
from textvae.model.structure import child_counts
from textvae.model.vae import DocumentVAE
from textvae.writing.cursor import UNLISTED, Cursor
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import DocumentPlan

GROUP = 1024
"""Documents that are planned side by side."""


@dataclass(frozen=True)
class DrawnLevel:
    """The units of one level of K documents, padded to the longest document's."""

    z: Tensor
    """[K, U, Z]"""
    given: Tensor
    """[K, U] bool"""
    labels: Tensor
    """[K, U, E]"""
    listed: Tensor
    """[K, U] number of each unit in the plan, or `UNLISTED`."""
    exists: Tensor
    """[K, U] bool"""


def document_keys(draws: Sequence[int], device: torch.device) -> Tensor:
    """[K] keys of the documents' noise: those of the same draw share it."""
    return torch.tensor([key_of(f"draw {draw}") for draw in draws], device=device)


def draw_theme(model: DocumentVAE, seed: int) -> Tensor:
    """A latent [Z] of the first latent level from N(0, I): the prior where that is the level of whole documents."""
    size = model.hierarchy.stack[model.level_names[0]].latent_size
    keys = document_keys([0], model.device)
    return KeyedNoise(seed).normal(keys, "theme", torch.zeros_like(keys), size)[0]


@torch.no_grad()
def complete_plans(
    model: DocumentVAE, plans: Sequence[DocumentPlan], keys: Tensor, noise: KeyedNoise, options: SamplingOptions
) -> list[DocumentPlan]:
    """The plans with every unit down to the lowest latent level listed and its z there; `given` still says which were
    held. What the decoder decides (ends of levels below the lowest latent one) is left as it was. keys: [K].

    Raises ValueError for options that name a level which the model has no latents at."""
    completed = []
    for start in range(0, len(plans), GROUP):
        group = slice(start, start + GROUP)
        completed.extend(_complete_group(model, plans[group], keys[group], noise, options))
    return completed


def _complete_group(
    model: DocumentVAE, plans: Sequence[DocumentPlan], keys: Tensor, noise: KeyedNoise, options: SamplingOptions
) -> list[DocumentPlan]:
    state = model.hierarchy.start(len(plans), model.device)
    depths = {name: model.config.hierarchy.index(name) for name in model.level_names}
    drawn: dict[str, DrawnLevel] = {}
    temperatures = options.latent_temperatures(model.level_names)
    top = 0
    listed_above = torch.zeros(len(plans), 1, dtype=torch.long, device=model.device)  # every plan lists its root
    for name, depth in depths.items():
        cursor = Cursor(
            plans, top, depth, torch.arange(len(plans), device=model.device), listed_above[:, 0], options.max_children
        )
        drawn[name] = _draw_level(state, name, plans, cursor, listed_above, keys, noise, temperatures[name])
        top, listed_above = depth, drawn[name].listed
    return [_assemble(model, plan, row, drawn) for row, plan in enumerate(plans)]


def _draw_level(
    state: TopDownState,
    name: str,
    plans: Sequence[DocumentPlan],
    cursor: Cursor,
    listed_above: Tensor,
    keys: Tensor,
    noise: KeyedNoise,
    temperature: float,
) -> DrawnLevel:
    """All units of a level, one of every document at a time; listed_above [K, P]: the parents' numbers in the plan."""
    rows = torch.arange(len(plans), device=keys.device)
    given_z, given = _held_latents(plans, name, state.hierarchy.stack[name].latent_size, keys.device)
    streams = [f"end of {state.hierarchy.hierarchy[depth]}" for depth in range(cursor.bottom, cursor.top, -1)]
    found: list[tuple[Tensor, ...]] = []
    while bool((exists := state.is_open(name)).any()):
        index = torch.full_like(rows, len(found))
        listed = cursor.listed[cursor.bottom].clone()
        held = given[rows, listed] & (listed != UNLISTED)
        prior = state.prior(name)
        z = prior.sample(noise.normal(keys, name, index, prior.mean.shape[1]) * temperature)
        z = torch.where(held[:, None], given_z[rows, listed], z)
        probabilities = state.stop_logits(name, z).double().sigmoid()
        draws = [noise.uniform(keys, stream, index) < p for stream, p in zip(streams, probabilities.T, strict=True)]
        labels = cursor.labels(rows, torch.stack(draws, 1) if draws else torch.zeros_like(probabilities).bool())
        state.commit(name, z, labels)
        found.append((z, held, labels, listed, exists))
        parent = state.parent(name).clamp(max=listed_above.shape[1] - 1)
        cursor.advance(rows, labels, listed_above[rows, parent])
    return DrawnLevel(*(torch.stack(column, dim=1) for column in zip(*found, strict=True)))


def _held_latents(plans: Sequence[DocumentPlan], name: str, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """z [K, U, Z] and whether it is held [K, U], of the units that the plans list; there is one more, not held."""
    held = []
    for plan in plans:
        count = plan.num_units(plan.depth(name))
        open_ = torch.zeros(count, size), torch.zeros(count, dtype=torch.bool)
        held.append((plan.z[name].float().cpu(), plan.given[name]) if name in plan.z else open_)
    for z, _ in held:
        if z.shape[1:] != (size,):
            raise ValueError(f"latents of level '{name}' have size {size} in this model; got {list(z.shape)}")
    z = pad_sequence([torch.cat([z, z.new_zeros(1, size)]) for z, _ in held], batch_first=True)
    given = pad_sequence([torch.cat([given, given.new_zeros(1)]) for _, given in held], batch_first=True)
    return z.to(device), given.to(device)


def _assemble(model: DocumentVAE, plan: DocumentPlan, row: int, drawn: dict[str, DrawnLevel]) -> DocumentPlan:
    children = list(plan.children)
    z, given = {}, {}
    sentences = plan.sentences
    for name, level in drawn.items():
        exists = level.exists[row]
        z[name], given[name] = level.z[row][exists], level.given[row][exists].cpu()
        labels = level.labels[row][exists].cpu()
        depth = plan.depth(name)
        for column, ended in enumerate(model.hierarchy.stop_heads.by_level[depth]):
            label = labels[:, column]
            children[ended - 1] = child_counts(label[label != 0] == 1)
        listed = level.listed[row][exists].cpu()
        if depth < len(children):
            # What the next level, or the decoder, will decide: as planned for the units that the plan listed.
            children[depth] = torch.where(listed == UNLISTED, 0, _lookup(plan.children[depth], listed))
        elif sentences is not None:
            sentences = tuple(None if number == UNLISTED else sentences[number] for number in listed.tolist())
    return DocumentPlan(plan.hierarchy, tuple(children), z, given, sentences)


def _lookup(values: Tensor, index: Tensor) -> Tensor:
    return values[index.clamp(min=0)] if len(values) else torch.zeros_like(index)
