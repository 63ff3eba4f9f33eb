"""Statistics of latents, as pure functions.

Shapes: B documents, U units of one level, R some of them, Z latent size. Amounts are nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from textvae.data.batch import key_of
from textvae.evaluation.standard_errors import ratio_error
from textvae.model.gaussian import LOG_TWO_PI, DiagonalGaussian

ACTIVE_VARIANCE = 0.01


def departure_variance(posterior: DiagonalGaussian, prior: DiagonalGaussian) -> Tensor:
    """Var over the units of (mean_q - mean_p) / std_p, [Z] in float64.

    Under an N(0, I) prior this is the variance that Burda et al. (2016) look at. Below the root theirs, of
    mean_q alone, also counts what merely follows the parent.
    """
    return mean_variance((posterior.mean - prior.mean) / prior.std)


def mean_variance(means: Tensor) -> Tensor:
    """Variance over the units of `means` [U, Z], [Z] in float64; zero for a single unit."""
    return means.double().var(dim=0, correction=0)


def active_units(variances: Tensor) -> int:
    """Number of dimensions whose variance is above 0.01 (Burda et al. 2016)."""
    return int((variances > ACTIVE_VARIANCE).sum())


def mutual_information(posterior: DiagonalGaussian, z: Tensor) -> float:
    """I(unit; z) under the aggregate posterior over the units (Hoffman & Johnson 2016), from one sample z [U, Z]
    of every unit; it never exceeds log(U)."""
    return float(pointwise_information(posterior, z, torch.arange(len(z))).mean())


def pointwise_information(posterior: DiagonalGaussian, z: Tensor, units: Tensor, block: int = 1024) -> Tensor:
    """log q(z | unit) - log mean over all U units of q(z | unit'), for the numbers `units` [R]; [R] in float64.

    posterior: of all U units; z: [U, Z], one sample of each. At most `block` x `block` densities are held.
    """
    mean, log_variance = posterior.mean.double(), posterior.log_variance.double()
    precision = (-log_variance).exp()
    linear = mean * precision
    constant = -0.5 * (log_variance + LOG_TWO_PI + mean * linear).sum(-1)
    information = []
    for rows in units.split(block):
        sample = z[rows].double()
        total = torch.full((len(rows),), -math.inf, dtype=torch.float64)
        own = torch.zeros_like(total)
        for columns in torch.arange(len(z)).split(block):
            log_prob = constant[columns] - 0.5 * sample.square() @ precision[columns].T + sample @ linear[columns].T
            total = torch.logaddexp(total, log_prob.logsumexp(1))
            # Taken from the sum's own terms, so that no rounding lifts the ratio above one.
            here = torch.isin(rows, columns)
            own[here] = log_prob[here, rows[here] - columns[0]]
        information.append(own - total + math.log(len(z)))
    return torch.cat(information)


def paired_interval(differences: Tensor, units: Tensor, sources: Sequence[str]) -> list[float]:
    """95 % interval of sum(differences) / sum(units), both [B] of single documents, the differences paired.

    The standard error is a ratio's, as documents differ in size, and clustered by the documents' `sources`. Raises
    ValueError for a single source, whose error cannot be known.
    """
    error = ratio_error(differences.tolist(), units.tolist(), sources)
    if error is None:
        raise ValueError("an interval needs documents of two or more sources: give more data")
    ratio = float(differences.sum()) / float(units.sum())
    return [ratio - 1.96 * error, ratio + 1.96 * error]


def exchange_partners(ids: Sequence[str], sources: Sequence[str], seed: int) -> Tensor:
    """[B]: whose latents each document gets: never its own, nor those of another section of its source.

    Documents stand in a circle, the sections of a source together, and each takes from as many places back as the
    largest source is long: so each gives once, unless one source holds more than half of the documents, when the
    others must give more than once. The circle is in an order that depends on ids and seed, not on how the documents
    are ordered.

    Raises ValueError for documents of a single source.
    """
    if len(set(sources)) < 2:
        raise ValueError(
            f"latents are exchanged between documents of different sources, but the data hold {len(set(sources))} "
            "source: give documents of two or more"
        )

    def place(name: str) -> int:
        return key_of(f"{seed}/exchange/{name}")

    circle = sorted(range(len(ids)), key=lambda row: (place(sources[row]), place(ids[row]), row))
    sizes = [len(list(members)) for _, members in groupby(circle, key=lambda row: sources[row])]
    step, others = max(sizes), len(ids) - max(sizes)
    partner = torch.empty(len(ids), dtype=torch.long)
    first = 0
    for size in sizes:
        back = min(step, len(ids) - size)
        for offset in range(size):
            partner[circle[first + offset]] = circle[(first - back + offset % others) % len(ids)]
        first += size
    return partner
