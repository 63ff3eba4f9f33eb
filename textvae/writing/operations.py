"""What can be done to a plan: pure functions, plan in, plan out. Nothing is drawn here, only held or opened.

Shapes: U units of a level, Z latent size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from textvae.writing.plan import DocumentPlan, open_plan

Unit = tuple[str, int]
"""A level's name, and the number of a unit in reading order, counted from 0."""


def theme(z: Tensor, hierarchy: Sequence[str]) -> DocumentPlan:
    """Only the latent [Z] of the whole document is held."""
    plan, top = open_plan(hierarchy), hierarchy[0]
    return replace(plan, z={top: z[None]}, given={top: torch.ones(1, dtype=torch.bool)})


def structured(plan: DocumentPlan, counts: Mapping[str, Sequence[int]]) -> DocumentPlan:
    """Numbers of units are held: by level, those of every parent in reading order, or one for all of them.

    Raises ValueError for a level that has no parents or does not exist, a level whose parents are not numbered, numbers
    below 1 or of another count than the parents, and a plan whose structure is held already.
    """
    if any(bool(row.any()) for row in plan.children):
        raise ValueError("the structure of this document is held already: numbers of units can be given with a theme")
    for level in counts:
        if plan.depth(level) == 0:
            raise ValueError(f"a document has one {level}: give numbers of units of a level below")
    children, parents_of = [torch.zeros_like(row) for row in plan.children], 1
    for depth, level in enumerate(plan.hierarchy[1:]):
        if level not in counts:
            below = [name for name in plan.hierarchy[depth + 2 :] if name in counts]
            if below:
                raise ValueError(f"numbers of {below[0]}s are given, but not how many {level}s there are")
            children[depth] = torch.zeros(parents_of, dtype=torch.long)
            break
        given = list(counts[level])
        if len(given) == 1:
            given *= parents_of
        if len(given) != parents_of or min(given) < 1:
            raise ValueError(
                f"numbers of {level}s are {','.join(map(str, counts[level]))}; they must be one number from 1, or "
                f"one for each of the {parents_of} {plan.hierarchy[depth]}s"
            )
        children[depth] = torch.tensor(given)
        parents_of = sum(given)
    return replace(plan, children=tuple(children))


def written_anew(plan: DocumentPlan) -> DocumentPlan:
    """Its sentences are written, whatever they were."""
    return replace(plan, sentences=None)


def resample(plan: DocumentPlan, level: str) -> DocumentPlan:
    """Latents of `level` and all below are open, and the structure among them; what lies above is kept.

    Raises ValueError for a level that the documents do not have.
    """
    border = plan.depth(level)
    if border == 0:
        return open_plan(plan.hierarchy)
    empty = torch.zeros(0, dtype=torch.long)
    counts = [*plan.children[: border - 1], torch.zeros_like(plan.children[border - 1])]
    children = [*counts, *[empty] * (len(plan.children) - border)]
    kept = [name for name in plan.z if plan.depth(name) < border]
    return DocumentPlan(
        plan.hierarchy,
        tuple(children),
        {name: plan.z[name] for name in kept},
        {name: plan.given[name] for name in kept},
    )


def zoom(plan: DocumentPlan, level: str) -> DocumentPlan:
    """Held down to `level`, that level included; all below is open. Raises ValueError for an unknown level."""
    below = plan.depth(level) + 1
    return written_anew(plan) if below == len(plan.hierarchy) else resample(plan, plan.hierarchy[below])


def keep(plan: DocumentPlan, units: Sequence[Unit]) -> DocumentPlan:
    """The named units are held with all that is under them, to the letter where the plan holds their tokens; so are
    their ancestors' latents and numbers of children. The other units are drawn and written anew around them.

    Raises ValueError for a unit that the plan does not list.
    """
    held = [torch.zeros(plan.num_units(depth), dtype=torch.bool) for depth in range(len(plan.hierarchy))]
    within = [flags.clone() for flags in held]
    for level, index in units:
        depth = plan.depth(level)
        if not 0 <= index < plan.num_units(depth):
            raise ValueError(f"there is no {level} {index + 1} to keep: the document has {plan.num_units(depth)}")
        for other in range(len(plan.hierarchy)):
            if other < depth:
                held[other][plan.ancestors(depth, other)[index]] = True
            else:
                within[other] |= plan.ancestors(other, depth) == index
    held = [above | below for above, below in zip(held, within, strict=True)]
    return _open_but(plan, held, within[-1])


def _open_but(plan: DocumentPlan, held: Sequence[Tensor], to_the_letter: Tensor) -> DocumentPlan:
    """Only the units of `held` ([U] bool by depth) keep latents and numbers of children, and only those sentences of
    `to_the_letter` [S] their tokens; children of units that are not held are no longer listed."""
    children: list[Tensor] = []
    listed = [torch.ones(1, dtype=torch.bool)]
    for depth, row in enumerate(plan.children):
        children.append(torch.where(held[depth], row, 0)[listed[depth]])
        listed.append((held[depth] & listed[depth])[plan.ancestors(depth + 1, depth)])
    z, given = {}, {}
    for name, values in plan.z.items():
        depth = plan.depth(name)
        z[name] = values[listed[depth].to(values.device)]
        given[name] = (held[depth] & plan.given[name])[listed[depth]]
    sentences = None
    if plan.sentences is not None:
        pairs = zip(plan.sentences, to_the_letter.tolist(), listed[-1].tolist(), strict=True)
        sentences = tuple(ids if kept else None for ids, kept, is_listed in pairs if is_listed)
    return DocumentPlan(plan.hierarchy, tuple(children), z, given, sentences)


def mix(plans: Sequence[DocumentPlan], weights: Sequence[float], level: str) -> DocumentPlan:
    """The latents of `level` are the sum of the plans' own, each times its weight: a mean, a point between two, or
    arithmetic (weights 1, -1, 1). What lies above, and the structure down to `level`, are the first plan's; all below
    is open.

    Weights are taken as they are. At the top, where the prior is N(0, I), weights that add up to less than 1 bring
    a mean of themes nearer to the prior's mean, more than 1 take it away from there.

    Raises ValueError for another number of weights than of plans, a weight that is not finite, and where the plans have
    no such latents, or not equally many.
    """
    if len(weights) != len(plans) or not all(map(math.isfinite, weights)):
        raise ValueError(f"weights are {list(weights)}; they must be {len(plans)} numbers, one for each document")
    latents = [latents_of(plan, level) for plan in plans]
    counts = list(map(len, latents))
    if len(set(counts)) > 1:
        raise ValueError(
            f"the documents have {', '.join(map(str, counts[:-1]))} and {counts[-1]} units at level '{level}'; their "
            "latents can be added at a level where they have equally many, such as the top"
        )
    first = zoom(plans[0], level)
    total = torch.tensordot(latents[0].new_tensor(weights), torch.stack(latents), dims=1)
    return replace(first, z={**first.z, level: total})


def interpolate(start: DocumentPlan, end: DocumentPlan, share: float, level: str) -> DocumentPlan:
    """The latents of `level` go from `start`'s (`share` 0) to `end`'s (1) in a straight line; the rest as in `mix`,
    `start` being the first."""
    return mix([start, end], [1 - share, share], level)


def combine(above: DocumentPlan, below: DocumentPlan, level: str) -> DocumentPlan:
    """The latents of `level` and of all levels under it are `below`'s, with its structure; those over it `above`'s.
    They stay as they were inferred: `HierarchicalTextVAE.plan(text, under=above)` infers them anew under `above`'s.

    Raises ValueError where the two do not have equally many units at a level over `level`.
    """
    border = below.depth(level)
    z, given = dict(below.z), dict(below.given)
    for name in above.z:
        depth = above.depth(name)
        if depth < border:
            counts = above.num_units(depth), below.num_units(depth)
            if counts[0] != counts[1]:
                raise ValueError(
                    f"the documents have {counts[0]} and {counts[1]} units at level '{name}'; combine documents that "
                    "have equally many there"
                )
            z[name], given[name] = above.z[name], above.given[name]
    return DocumentPlan(below.hierarchy, below.children, z, given)


def latents_of(plan: DocumentPlan, level: str) -> Tensor:
    """[U, Z], all held. Raises ValueError where the plan does not hold them."""
    if level not in plan.z or not bool(plan.given[level].all()):
        raise ValueError(f"there is no latent level '{level}'; this document's are {list(plan.z)}")
    return plan.z[level]
