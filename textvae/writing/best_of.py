"""Several versions of every part of a document, of which the one is kept that says best what was planned.

Shapes: U units of a level, Z latent size, N candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor

from textvae.data.collate import collate
from textvae.data.document import EncodedDocument
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE
from textvae.writing.complete import complete_plans, document_keys
from textvae.writing.decode import WrittenDocument, write_plans
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import DocumentPlan

Encode = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], EncodedDocument]
"""Structure, tokens of the sentences -> document."""


@torch.no_grad()
def write_best_of(
    model: DocumentVAE,
    plans: Sequence[DocumentPlan],
    options: SamplingOptions,
    seed: int,
    draws: Sequence[int] | None = None,
    progress: bool | None = False,
    *,
    encode: Encode,
) -> list[WrittenDocument]:
    """As `write_documents`, each part the best of `options.best_of` versions, the first of which it would write alone.

    A part is what is written without sight of the rest, such as a sentence or a document (`decoder.context`), but no
    less than a unit of the lowest latent level. Its score is log q(z | x) of the planned latents, summed over the
    part's units, x being the version with that part: a search by sampling for what the encoder reads as planned.
    Raises ValueError for a model without latents.
    """
    if not model.level_names:
        raise ValueError(
            f"best_of is {options.best_of}, but versions are chosen by latents, of which this model has none: leave it "
            "at 1"
        )
    draws = range(len(plans)) if draws is None else draws
    keys = document_keys(draws, model.device)
    plans = complete_plans(model, plans, keys, KeyedNoise(seed), options)
    versions = [
        write_plans(model, plans, keys, KeyedNoise(seed, step=number), options, progress)
        for number in range(options.best_of)
    ]
    depth = part_depth(model)
    best = []
    for number, plan in enumerate(plans):
        of_document = [version[number] for version in versions]
        scores = torch.stack(
            [plan_scores(model, plan, encode(written.structure, written.sentences), depth) for written in of_document]
        )
        best.append(spliced(of_document, scores.argmax(0).tolist(), depth))
    return best


def part_depth(model: DocumentVAE) -> int:
    """Of the units that are written without sight of one another and whose latents are planned."""
    hierarchy = model.config.hierarchy
    return min(hierarchy.index(model.layout.context), hierarchy.index(model.level_names[-1]))


def plan_scores(model: DocumentVAE, plan: DocumentPlan, document: EncodedDocument, depth: int) -> Tensor:
    """[U] for every unit of a depth, log q of the planned latents of that unit and of all under it, given the text
    and the planned latents above them."""
    batch = collate([document], model.layout).to(model.device)
    planned = {name: plan.z[name].to(model.device) for name in model.level_names}
    passed = model.hierarchy(model.features(batch), batch, KeyedNoise(0), planned)
    scores = torch.zeros(len(batch.levels[depth]), device=model.device)
    for name, level in passed.levels.items():
        of_level = batch.level_number(name)
        if of_level >= depth:
            scores.index_add_(0, batch.ancestor(of_level, depth), level.posterior.log_prob(planned[name]).sum(-1))
    return scores


def spliced(versions: Sequence[WrittenDocument], chosen: Sequence[int], depth: int) -> WrittenDocument:
    """The document whose unit u of a depth is that of version `chosen[u]`, with all that is under it."""
    parts = [_parts(version, depth) for version in versions]
    kept = [parts[version][unit] for unit, version in enumerate(chosen)]
    first = versions[0]
    structure = first.structure[:depth] + [
        list(chain.from_iterable(rows)) for rows in zip(*(k[0] for k in kept), strict=True)
    ]
    sentences = list(chain.from_iterable(part[1] for part in kept))
    plan = replace(
        first.plan,
        children=tuple(torch.tensor(row, dtype=torch.long) for row in structure),
        sentences=tuple(map(tuple, sentences)),
    )
    return WrittenDocument(sentences, structure, plan)


def _parts(document: WrittenDocument, depth: int) -> list[tuple[list[list[int]], list[list[int]]]]:
    """By unit of a depth: the numbers of children from there down, by depth, and the sentences."""
    count = len(document.structure[depth]) if depth < len(document.structure) else len(document.sentences)
    edges, by_depth = list(range(count + 1)), []
    for row in document.structure[depth:]:
        by_depth.append([row[start:end] for start, end in pairwise(edges)])
        totals = list(accumulate(row, initial=0))
        edges = [totals[edge] for edge in edges]
    sentences = [document.sentences[start:end] for start, end in pairwise(edges)]
    return [([rows[unit] for rows in by_depth], sentences[unit]) for unit in range(count)]
