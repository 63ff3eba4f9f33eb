"""Every level of a model measured on the same documents with the same noise, by one or by several processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from textvae.data.batch import DocumentBatch
from textvae.data.dataset import Documents
from textvae.data.loader import walk
from textvae.evaluation.diagnostics.latent_report import LatentReport, LevelDiagnostics, NllGain
from textvae.evaluation.diagnostics.passes import Exchanged, LeftOut, LevelUnits, exchange, leave_out
from textvae.evaluation.diagnostics.positions import PositionSums, position_gain
from textvae.evaluation.diagnostics.statistics import (
    active_units,
    departure_variance,
    exchange_partners,
    mean_variance,
    paired_interval,
)
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE

NEGLIGIBLE_RATE = 1e-5
"""Nats per unit; a smaller KL is float32 rounding, and nothing can be divided by it."""


def latent_diagnostics(
    model: DocumentVAE,
    documents: Documents,
    seed: int = 0,
    *,
    process: PartialState | None = None,
    batch_tokens: int = 8192,
) -> LatentReport:
    """Measure every level; of several processes each takes a share, and all return the same report.

    Raises ValueError for a model without latents and for documents of a single source.
    """
    if not model.level_names:
        raise ValueError("a plain language model has no latents to examine; give a model with levels")
    partners = exchange_partners(documents.ids, documents.source_ids, seed)
    noise = KeyedNoise(seed)

    def batches(purpose: str) -> Iterator[tuple[DocumentBatch, Tensor]]:
        for group in walk(
            documents, model.layout, model.device, batch_tokens=batch_tokens, process=process, purpose=purpose
        ):
            yield group.batch, torch.tensor(group.rows)

    # Whoever computed it, everybody knows it: the partners of a document may be another process's.
    first: list[LeftOut] = gather_object(
        [leave_out(model, batch, rows, noise) for batch, rows in batches("levels left out")]
    )
    units = {name: LevelUnits.joined([part.units[name] for part in first]) for name in model.level_names}
    second: list[dict[str, Exchanged]] = gather_object(
        [exchange(model, batch, rows, noise, units, partners) for batch, rows in batches("levels exchanged")]
    )
    by_level = {name: [part[name] for part in second] for name in model.level_names}
    return LatentReport(
        documents=len(documents),
        sources=documents.num_sources,
        tokens=int(documents.token_counts.sum()),
        seed=seed,
        hierarchy=model.layout.hierarchy,
        levels={
            name: _level(name, units[name], documents.source_ids, first, by_level[name]) for name in model.level_names
        },
        nll_gain={name: _gain(first, by_level[name]) for name in model.level_names},
    )


def _level(
    name: str, found: LevelUnits, source_ids: Sequence[str], first: Sequence[LeftOut], second: Sequence[Exchanged]
) -> LevelDiagnostics:
    units, dims = found.z.shape
    effects = [part.effects[name] for part in first]
    zeroed = torch.cat([effect.nll_when_zeroed for effect in effects])
    rows, counts = map(
        torch.cat,
        zip(*(part.units[name].document.unique_consecutive(return_counts=True) for part in first), strict=True),
    )
    sources = [source_ids[row] for row in rows.tolist()]
    # Both passes took the same batches in the same order.
    shuffled = torch.cat([b.distortion - a.distortion for a, b in zip(first, second, strict=True)])
    restructured = math.fsum(float((b.structure - a.structure).sum()) for a, b in zip(first, second, strict=True))
    rate, saved, saved_over_mean = (
        math.fsum(float(amount.sum()) for amount in amounts)
        for amounts in zip(*((e.rate, e.saved, e.saved_over_prior_mean) for e in effects), strict=True)
    )
    spectrum = departure_variance(found.posterior, found.prior)
    has_rate = rate > NEGLIGIBLE_RATE * units
    return LevelDiagnostics(
        dims=dims,
        units=units,
        active_units=active_units(spectrum),
        active_units_marginal=active_units(mean_variance(found.posterior.mean)),
        variance_spectrum=spectrum.sort(descending=True).values.tolist(),
        rate_per_unit=rate / units,
        rate_per_document=rate / len(zeroed),
        mutual_information=math.fsum(part.information for part in second) / units,
        mutual_information_ceiling=math.log(units),
        nll_increase_when_shuffled=float(shuffled.sum()) / units,
        nll_increase_when_shuffled_interval=paired_interval(shuffled, counts, sources),
        nll_increase_when_shuffled_structure=restructured / units,
        nll_increase_when_zeroed=float(zeroed.sum()) / units,
        nll_increase_when_zeroed_interval=paired_interval(zeroed, counts, sources),
        payoff=saved / rate if has_rate else None,
        payoff_over_prior_mean=saved_over_mean / rate if has_rate else None,
    )


def _gain(first: Sequence[LeftOut], second: Sequence[Exchanged]) -> NllGain:
    reference = PositionSums.total([part.positions for part in first])
    exchanged = PositionSums.total([part.positions for part in second])
    return NllGain(
        position_gain(exchanged.by_token, reference.by_token), position_gain(exchanged.by_unit, reference.by_unit)
    )
