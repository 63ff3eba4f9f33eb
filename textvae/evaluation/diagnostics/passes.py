"""The two passes over the documents that everything is computed from.

The first draws all latents and leaves each level out in turn; the second, when all latents are known, exchanges
each level's between documents. What is kept is a few numbers of every unit and document, never features or scores.

Shapes: B documents, U units of one level, R rows, Z latent size. Amounts are nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textvae.data.batch import DocumentBatch, UnitLevel
from textvae.evaluation.diagnostics.positions import PositionSums
from textvae.evaluation.diagnostics.scoring import LevelEffects, Scorer, level_effects
from textvae.evaluation.diagnostics.statistics import pointwise_information
from textvae.model.gaussian import DiagonalGaussian
from textvae.model.level import LevelPass
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE


@dataclass(frozen=True)
class LevelUnits:
    """Units of one level with what was inferred and drawn, on the CPU."""

    document: Tensor
    """[U] number of their document in the data."""
    posterior: DiagonalGaussian
    prior: DiagonalGaussian
    z: Tensor
    """[U, Z]"""

    @classmethod
    def joined(cls, parts: Sequence[LevelUnits]) -> LevelUnits:
        """All units of `parts` in the order of the data; each document's are together in one part."""
        document = torch.cat([part.document for part in parts])
        order = document.argsort(stable=True)

        def rows(values: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(values))[order]

        posterior, prior = (
            DiagonalGaussian(rows([d.mean for d in every]), rows([d.log_variance for d in every]))
            for every in ([part.posterior for part in parts], [part.prior for part in parts])
        )
        return cls(document[order], posterior, prior, rows([part.z for part in parts]))

    def rows(self, document: Tensor, index: Tensor) -> Tensor:
        """[R] row of unit number `index` [R] of `document` [R]; numbers start over after a document's last unit."""
        counts = torch.bincount(self.document)
        first = counts.cumsum(0) - counts
        return first[document] + index % counts[document]


@dataclass(frozen=True)
class LeftOut:
    """What the first pass says of a batch."""

    distortion: Tensor
    """[B] with every level drawn from its posterior."""
    structure: Tensor
    """[B] the structure's part of it."""
    positions: PositionSums
    units: dict[str, LevelUnits]
    """By level, as are the effects of leaving it out."""
    effects: dict[str, LevelEffects]


def leave_out(model: DocumentVAE, batch: DocumentBatch, documents: Tensor, noise: KeyedNoise) -> LeftOut:
    """documents: [B] numbers in the data."""
    with torch.no_grad():
        score = Scorer(model, batch, model.features(batch), noise)
    reference = score({})
    return LeftOut(
        reference.distortion.cpu(),
        reference.structure.cpu(),
        PositionSums.of(reference.token_nll, batch),
        {
            name: _units(level, documents[_level(batch, name).document.cpu()])
            for name, level in reference.passed.levels.items()
        },
        {name: level_effects(score, reference, name) for name in model.level_names},
    )


@dataclass(frozen=True)
class Exchanged:
    """What the second pass says of a batch and a level."""

    distortion: Tensor
    """[B] with the level's samples exchanged, the other levels' kept."""
    structure: Tensor
    """[B] the structure's part of it."""
    positions: PositionSums
    information: float
    """Sum over the batch's units of log q(z | unit) - log mean over all units of q(z | unit')."""


def exchange(
    model: DocumentVAE,
    batch: DocumentBatch,
    documents: Tensor,
    noise: KeyedNoise,
    units: Mapping[str, LevelUnits],
    partners: Tensor,
) -> dict[str, Exchanged]:
    """By level. `units` of the whole data; `partners` [documents]: whose samples each document gets, unit number by
    unit number."""
    score = Scorer(model, batch, None, noise)
    own, others = {}, {}
    for name, every in units.items():
        level = _level(batch, name)
        number, index = documents[level.document.cpu()], level.index.cpu()
        own[name], others[name] = every.rows(number, index), every.rows(partners[number], index)
    kept = {name: units[name].z[rows].to(model.device) for name, rows in own.items()}
    found = {}
    for name, every in units.items():
        scores = score(kept | {name: every.z[others[name]].to(model.device)})
        found[name] = Exchanged(
            scores.distortion.cpu(),
            scores.structure.cpu(),
            PositionSums.of(scores.token_nll, batch),
            float(pointwise_information(every.posterior, every.z, own[name]).sum()),
        )
    return found


def _level(batch: DocumentBatch, name: str) -> UnitLevel:
    return batch.levels[batch.level_number(name)]


def _units(level: LevelPass, document: Tensor) -> LevelUnits:
    if level.posterior is None:
        raise AssertionError(f"level '{level.name}' was not inferred")
    return LevelUnits(document, _on_cpu(level.posterior), _on_cpu(level.prior), level.z.cpu())


def _on_cpu(distribution: DiagonalGaussian) -> DiagonalGaussian:
    return DiagonalGaussian(distribution.mean.cpu(), distribution.log_variance.cpu())
