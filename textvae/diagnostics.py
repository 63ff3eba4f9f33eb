"""What the latents carry: active units, mutual information, shuffle tests, payoff.

Shapes: B documents, U units of one level, Z latent size. Amounts are nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textvae.data.batch import DocumentBatch
from textvae.model.gaussian import LOG_TWO_PI, DiagonalGaussian
from textvae.model.level import LatentSource
from textvae.model.noise import KeyedNoise
from textvae.model.vae import VAEOutput
from textvae.objective import ElboTerms, elbo_terms
from textvae.text_vae import HierarchicalTextVAE

ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True)
class LevelDiagnostics:
    dims: int
    units: int
    active_units: int
    """Dimensions with Var((mean_q - mean_p) / std_p) > 0.01 over the units."""
    active_units_marginal: int
    """Dimensions with Var(mean_q) > 0.01 (Burda et al. 2016)."""
    variance_spectrum: list[float]
    """Var((mean_q - mean_p) / std_p) of every dimension, largest first."""
    rate_per_unit: float
    rate_per_document: float
    mutual_information: float
    """I(unit; z) under the aggregate posterior over the units (Hoffman & Johnson 2016)."""
    mutual_information_ceiling: float
    """log(units), which the estimate cannot exceed."""
    nll_increase_when_shuffled: float
    """Of the distortion, per unit of the level."""
    nll_increase_when_shuffled_interval: list[float]
    """95 % interval over documents, paired."""
    payoff: float | None
    """Increase of distortion and lower rates when the level is drawn from its prior, over its rate; None when
    the rate is zero."""


@dataclass(frozen=True)
class _Reference:
    """One pass over the data with every level drawn from its posterior."""

    posterior: DiagonalGaussian
    prior: DiagonalGaussian
    z: Tensor
    """[U, Z]"""


class LatentDiagnostics:
    """Measures every level of a model on the same documents with the same noise."""

    def __init__(self, model: HierarchicalTextVAE, batches: Sequence[DocumentBatch], seed: int = 0) -> None:
        self.model = model
        self.batches = [self._read_once(batch) for batch in batches]
        self.noise = KeyedNoise(seed)
        outputs = [self._run(batch) for batch in self.batches]
        self.terms = [terms for _, terms in outputs]
        self.reference = {name: self._collect(name, [output for output, _ in outputs]) for name in model.level_names}

    def level(self, name: str) -> LevelDiagnostics:
        """Raises ValueError when the model has no latent at level `name`."""
        if name not in self.reference:
            raise ValueError(f"there is no latent level '{name}'; this model's are {list(self.reference)}")
        found = self.reference[name]
        units, dims = found.z.shape
        departure = (found.posterior.mean - found.prior.mean) / found.prior.std
        spectrum = _variance(departure)
        marginal = _variance(found.posterior.mean)
        rate = float(found.posterior.kl(found.prior).double().sum())
        shuffled, interval = self._shuffle_increase(name, units)
        return LevelDiagnostics(
            dims=dims,
            units=units,
            active_units=int((spectrum > ACTIVE_VARIANCE).sum()),
            active_units_marginal=int((marginal > ACTIVE_VARIANCE).sum()),
            variance_spectrum=spectrum.sort(descending=True).values.tolist(),
            rate_per_unit=rate / units,
            rate_per_document=rate / sum(len(batch) for batch in self.batches),
            mutual_information=mutual_information(found.posterior, found.z),
            mutual_information_ceiling=math.log(units),
            nll_increase_when_shuffled=shuffled,
            nll_increase_when_shuffled_interval=interval,
            payoff=self._payoff(name) / rate if rate > 0 else None,
        )

    @torch.no_grad()
    def _read_once(self, batch: DocumentBatch) -> DocumentBatch:
        """The batch with its sentence features, which every pass would compute again."""
        return replace(batch, features=self.model.sentence_features(batch.to(self.model.device)), encoder_chunks=())

    @torch.no_grad()
    def _run(self, batch: DocumentBatch, sources: dict[str, LatentSource] | None = None) -> tuple[VAEOutput, ElboTerms]:
        batch = batch.to(self.model.device)
        output = self.model(batch, self.noise, sources)
        return output, elbo_terms(output, batch)

    def _collect(self, name: str, outputs: Sequence[VAEOutput]) -> _Reference:
        passes = [output.hierarchy.levels[name] for output in outputs]
        posteriors = [level.posterior for level in passes if level.posterior is not None]
        return _Reference(
            _concatenate(posteriors),
            _concatenate([level.prior for level in passes]),
            torch.cat([level.z for level in passes]).cpu(),
        )

    def _shuffle_increase(self, name: str, units: int) -> tuple[float, list[float]]:
        """Distortion with the level's samples exchanged between documents, other levels' samples staying."""
        exchanged = self._exchange(name)
        differences = []
        start = dict.fromkeys(self.reference, 0)
        for batch, terms in zip(self.batches, self.terms, strict=True):
            sources: dict[str, LatentSource] = {}
            for level, found in self.reference.items():
                count = len(batch.levels[batch.level_number(level)])
                z = exchanged if level == name else found.z
                sources[level] = z[start[level] : start[level] + count].to(self.model.device)
                start[level] += count
            _, shuffled = self._run(batch, sources)
            differences.append((_distortion(shuffled) - _distortion(terms)).cpu())
        per_document = torch.cat(differences).double()
        total = float(per_document.sum())
        # The sum over documents has the standard error sqrt(B) * std of one document's difference.
        error = (
            1.96 * math.sqrt(len(per_document)) * float(per_document.std(correction=1))
            if len(per_document) > 1
            else 0.0
        )
        return total / units, [(total - error) / units, (total + error) / units]

    def _exchange(self, name: str) -> Tensor:
        """[U, Z]: every unit gets the sample of the unit with its number (modulo their count) in the next
        document of a shuffled circle, so none keeps its own document's."""
        z = self.reference[name].z
        counts = torch.cat([
            torch.bincount(batch.levels[batch.level_number(name)].document, minlength=len(batch))
            for batch in self.batches
        ])  # fmt: skip
        if len(counts) < 2:
            raise ValueError("the shuffle test needs two documents or more")
        first = counts.cumsum(0) - counts
        order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(self.noise.seed))
        donor = torch.empty_like(order)
        donor[order] = order.roll(1)
        document = torch.repeat_interleave(torch.arange(len(counts)), counts)
        number = torch.arange(len(z)) - first[document]
        return z[first[donor[document]] + number % counts[donor[document]]]

    def _payoff(self, name: str) -> float:
        """Nats that the level saves below it: text, structure and the rates of lower levels."""
        names = list(self.reference)
        below = names[names.index(name) + 1 :]
        saved = 0.0
        for batch, terms in zip(self.batches, self.terms, strict=True):
            _, without = self._run(batch, {name: "prior"})
            for sign, case in ((1.0, without), (-1.0, terms)):
                lower = sum(float(case.rate[level].double().sum()) for level in below)
                saved += sign * (float(_distortion(case).double().sum()) + lower)
        return saved


def mutual_information(posterior: DiagonalGaussian, z: Tensor, rows: int = 1024) -> float:
    """E[log q(z | unit) - log mean over units of q(z | unit')], from one sample z [U, Z] of every unit.

    An estimate of I(unit; z) that never exceeds log(U); computed in float64, `rows` samples at a time.
    """
    mean, log_variance = posterior.mean.double(), posterior.log_variance.double()
    precision = (-log_variance).exp()
    constant = -0.5 * (log_variance + LOG_TWO_PI + mean.square() * precision).sum(-1)
    total = 0.0
    for first in range(0, len(z), rows):
        part = z[first : first + rows].double()
        log_prob = constant - 0.5 * part.square() @ precision.T + part @ (mean * precision).T
        own = log_prob[torch.arange(len(part)), torch.arange(first, first + len(part))]
        total += float((own - log_prob.logsumexp(1)).sum())
    return total / len(z) + math.log(len(z))


def _concatenate(distributions: Sequence[DiagonalGaussian]) -> DiagonalGaussian:
    return DiagonalGaussian(
        torch.cat([d.mean for d in distributions]).cpu(),
        torch.cat([d.log_variance for d in distributions]).cpu(),
    )


def _variance(values: Tensor) -> Tensor:
    """[Z] over the units, in float64; zero for a single unit."""
    return values.double().var(dim=0, correction=0)


def _distortion(terms: ElboTerms) -> Tensor:
    """[B]"""
    return terms.distortion_tokens + terms.distortion_structure
