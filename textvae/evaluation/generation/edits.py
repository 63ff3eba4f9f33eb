"""Whether what is written anew keeps to what is held: plans under resampled units, neighbours of kept ones.

Shapes: D documents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from textvae.data.document import EncodedDocument
from textvae.evaluation.generation.agreement import PlanAgreement, plan_agreements
from textvae.evaluation.generation.judge import Judge
from textvae.evaluation.standard_errors import ratio_error
from textvae.text_vae import HierarchicalTextVAE
from textvae.writing.operations import keep, resample
from textvae.writing.options import SamplingOptions

KEPT = 1
"""Number of the unit that is kept: the second, which has a neighbour before it."""


@dataclass(frozen=True)
class ResampledPlan:
    """How far latents that were held are found again in text whose units below were drawn anew."""

    held: PlanAgreement
    theme_alone: PlanAgreement
    """The same latents, and text for which only the theme and the numbers of units were held: what the theme tells."""


@dataclass(frozen=True)
class Fit:
    """Nats per token of text under a judge that has read what stands before it."""

    own: float
    """After its own neighbour."""
    stranger: float
    """After the neighbour of another document's."""
    gain: float
    standard_error: float | None
    """Of the gain, over documents; None of a single one."""


@dataclass(frozen=True)
class KeptUnits:
    documents: int
    to_the_letter: float
    """Share of the kept units whose tokens are what they were."""
    written: Fit | None
    real: Fit | None
    """The same units among the neighbours that they had; None without a judge."""


def resampled_plans(
    model: HierarchicalTextVAE, documents: Sequence[EncodedDocument], level: str, seed: int, options: SamplingOptions
) -> dict[str, ResampledPlan]:
    """By latent level between the top and `level`: what becomes of it where `level` and all below are drawn anew.

    Raises ValueError where there is none between.
    """
    originals = [model.plan(document) for document in documents]
    border = originals[0].depth(level)
    between = [name for name in model.level_names[1:] if originals[0].depth(name) < border]
    top = model.theme_level
    if not between:
        raise ValueError(
            f"--level is '{level}', and no latent level lies between it and the top whose plan could be kept; the "
            f"model's latent levels are {list(model.level_names)}"
        )
    themes = [
        replace(plan, z={top: plan.z[top]}, given={top: plan.given[top]}, sentences=None)
        for plan in (resample(original, level) for original in originals)
    ]
    found = []
    for plans in ([resample(original, level) for original in originals], themes):
        written = model.write(plans, seed=seed, options=options)
        sought = [
            replace(document.plan, z={**document.plan.z, **{name: original.z[name] for name in between}})
            for document, original in zip(written, originals, strict=True)
        ]
        found.append(plan_agreements(model, sought, [model.reread(document) for document in written]))
    return {name: ResampledPlan(found[0][name], found[1][name]) for name in between}


def kept_units(
    model: HierarchicalTextVAE,
    documents: Sequence[EncodedDocument],
    seed: int,
    options: SamplingOptions,
    judge: Judge | None = None,
) -> KeptUnits:
    """The second paragraph (unit above the lowest level) of every document is kept, the others are written around it:
    whether it stays, and whether it follows from the one before it, and the one behind it from it.

    Raises ValueError where fewer than two documents have two paragraphs.
    """
    level = model.config.hierarchy[-2]
    chosen = [document for document in documents if len(document.structure[-1]) > KEPT]
    if len(chosen) < 2:
        raise ValueError(f"of the documents {len(chosen)} have two {level}s, and there must be two: choose more")
    plans = [model.plan(document) for document in chosen]
    written = model.write([keep(plan, [(level, KEPT)]) for plan in plans], seed=seed, options=options)
    stayed = [
        _tokens(plan.structure, plan.sentences or ()) == _tokens(document.structure, document.plan.sentences or ())
        for plan, document in zip(plans, written, strict=True)
    ]
    texts = [document.paragraphs for document in written], [list(document.paragraphs()) for document in chosen]
    written_fit, real_fit = (None if judge is None else neighbours_fit(judge, paragraphs) for paragraphs in texts)
    return KeptUnits(len(chosen), fmean(stayed), written_fit, real_fit)


def _tokens(structure: Sequence[Sequence[int]], sentences: Sequence[Sequence[int] | None]) -> list[object]:
    """Of the unit that is kept."""
    start = sum(structure[-1][:KEPT])
    return list(sentences[start : start + structure[-1][KEPT]])


def neighbours_fit(judge: Judge, paragraphs: Sequence[Sequence[str]]) -> Fit:
    """Of D documents with their paragraphs: the kept one read after that before it, and that behind it read after the
    kept one, each beside the same text after another document's."""
    own, stranger, of = [], [], []
    for place in (KEPT, KEPT + 1):
        readers = [number for number, texts in enumerate(paragraphs) if len(texts) > place]
        for number, other in zip(readers, readers[1:] + readers[:1], strict=True):
            text = paragraphs[number][place]
            nats = [judge.nats_after(paragraphs[who][place - 1], text) for who in (number, other)]
            if not any(map(math.isnan, nats)):
                own.append(nats[0])
                stranger.append(nats[1])
                of.append(number)
    gains = [late - early for early, late in zip(own, stranger, strict=True)]
    return Fit(fmean(own), fmean(stranger), fmean(gains), ratio_error(gains, [1] * len(gains), of))
