"""Several versions of every part of a document, put together to the text that says best what was planned.

Shapes: U units of a level, Z latent size, F size of the encoder's features, N documents side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise

import numpy as np
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


@dataclass(frozen=True)
class Part:
    """A unit of one version, with all that is under it."""

    counts: list[list[int]]
    """Numbers of children, by depth from its own down."""
    sentences: list[list[int]]
    """Tokens of the decoder."""
    encoder_ids: list[list[int]]
    features: np.ndarray
    """[sentences, F]"""


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
    """As `write_documents`, every part one of `options.best_of` versions, the first of which it would write alone.

    A part is what is written without sight of the rest, such as a sentence or a document (`decoder.context`), but no
    less than a unit of the lowest latent level. From the first version on, part after part is exchanged for the version
    with which the text scores highest, by log q(z | x) of all planned latents: those of the part and those above, which
    the other parts have a say in. So no text scores lower than the first version. Encoding each sentence once, the
    search costs a pass of the latents for every version of every part.

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
        parts = [parts_of(model, encode(written.structure, written.sentences), depth) for written in of_document]
        best.append(_written(of_document[0], _search(model, plan, parts, depth), depth))
    return best


def part_depth(model: DocumentVAE) -> int:
    """Of the units that are written without sight of one another and whose latents are planned."""
    hierarchy = model.config.hierarchy
    return min(hierarchy.index(model.layout.context), hierarchy.index(model.level_names[-1]))


def parts_of(model: DocumentVAE, document: EncodedDocument, depth: int) -> list[Part]:
    """The units of a depth."""
    features = model.sentence_features(collate([document], model.layout).to(model.device)).float().cpu().numpy()
    sentences = [ids.tolist() for ids in document.decoder_sentences()]
    encoder_ids = [ids.tolist() for ids in document.encoder_sentences()]
    below = [list(map(int, row)) for row in list(document.structure)[depth:]]
    count = len(below[0]) if below else len(sentences)
    edges, by_depth = list(range(count + 1)), []
    for row in below:
        by_depth.append([row[start:end] for start, end in pairwise(edges)])
        totals = list(accumulate(row, initial=0))
        edges = [totals[edge] for edge in edges]
    return [
        Part([rows[unit] for rows in by_depth], sentences[start:end], encoder_ids[start:end], features[start:end])
        for unit, (start, end) in enumerate(pairwise(edges))
    ]


def plan_scores(model: DocumentVAE, plan: DocumentPlan, documents: Sequence[EncodedDocument]) -> Tensor:
    """[N] log q of all the plan's latents given each text, every unit's under the planned latents above it."""
    batch = collate(documents, model.layout).to(model.device)
    planned = {name: plan.z[name].to(model.device).repeat(len(documents), 1) for name in model.level_names}
    passed = model.hierarchy(model.features(batch), batch, KeyedNoise(0), planned)
    scores = torch.zeros(len(documents), device=model.device)
    for name, level in passed.levels.items():
        of_unit = level.posterior.log_prob(planned[name]).sum(-1)
        scores.index_add_(0, batch.levels[batch.level_number(name)].document, of_unit)
    return scores


def _search(model: DocumentVAE, plan: DocumentPlan, versions: Sequence[Sequence[Part]], depth: int) -> list[Part]:
    """Of every part the version that is kept."""
    kept = list(versions[0])
    for unit in range(len(kept)):
        tried = [[*kept[:unit], version[unit], *kept[unit + 1 :]] for version in versions]
        scores = plan_scores(model, plan, [_encoded(plan, parts, depth) for parts in tried])
        kept = tried[int(scores.argmax())]
    return kept


def _encoded(plan: DocumentPlan, parts: Sequence[Part], depth: int) -> EncodedDocument:
    """The document of these parts, as far as a batch needs it."""
    sentences = list(chain.from_iterable(part.sentences for part in parts))
    encoder_ids = list(chain.from_iterable(part.encoder_ids for part in parts))
    return EncodedDocument(
        id="written",
        source_id="written",
        title=None,
        label=None,
        extra="{}",
        sentences=[""] * len(sentences),
        structure=_structure(plan.structure[:depth], parts),
        encoder_ids=list(chain.from_iterable(encoder_ids)),
        encoder_lengths=list(map(len, encoder_ids)),
        decoder_ids=list(chain.from_iterable(sentences)),
        decoder_lengths=list(map(len, sentences)),
        num_tokens=sum(map(len, sentences)) + len(sentences),
        num_words=0,
        num_bytes=0,
        features=np.concatenate([part.features for part in parts]).reshape(-1),
    )


def _written(first: WrittenDocument, parts: Sequence[Part], depth: int) -> WrittenDocument:
    structure = _structure(first.structure[:depth], parts)
    sentences = list(chain.from_iterable(part.sentences for part in parts))
    plan = replace(
        first.plan,
        children=tuple(torch.tensor(row, dtype=torch.long) for row in structure),
        sentences=tuple(map(tuple, sentences)),
    )
    return WrittenDocument(sentences, structure, plan)


def _structure(above: Sequence[list[int]], parts: Sequence[Part]) -> list[list[int]]:
    """As `EncodedDocument.structure`: the rows down to the parts, then theirs."""
    return [*above, *(list(chain.from_iterable(rows)) for rows in zip(*(part.counts for part in parts), strict=True))]
