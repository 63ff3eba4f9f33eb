"""Statistics of latents, as pure functions.

Shapes: B documents, U units of one level, R some of them, Z latent size. Amounts are nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from textvae.data.batch import key_of
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


def paired_interval(differences: Tensor, units: Tensor) -> list[float]:
    """95 % interval of sum(differences) / sum(units), both [B] of single documents, the differences paired.

    The standard error is the ratio estimator's (Cochran 1977, eq. 2.39): documents differ in size, and only what
    departs from the common ratio is error.
    """
    total = float(units.sum())
    ratio, error = float(differences.sum()) / total, 0.0
    if len(differences) > 1:
        residuals = differences - ratio * units
        error = 1.96 * math.sqrt(len(differences)) * float(residuals.std(correction=1)) / total
    return [ratio - error, ratio + error]


def exchange_partners(ids: Sequence[str], seed: int) -> Tensor:
    """[B]: whose latents each document gets: the next in a circle, so never its own. The circle is in an order that
    depends on the documents' ids and the seed, not on how the documents are ordered.

    Raises ValueError for fewer than two documents.
    """
    if len(ids) < 2:
        raise ValueError(
            f"latents are exchanged between documents, but the data hold {len(ids)}: give two documents or more"
        )
    order = torch.tensor([key_of(f"{seed}/exchange/{name}") for name in ids]).argsort(stable=True)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner
