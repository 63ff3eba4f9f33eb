"""Statistics of latents against closed forms and numerical integration."""

import math

import pytest
import torch
from torch import Tensor

from textvae.evaluation.diagnostics.statistics import (
    active_units,
    departure_variance,
    exchange_partners,
    mean_variance,
    mutual_information,
    paired_interval,
    pointwise_information,
)
from textvae.model.gaussian import DiagonalGaussian


def gaussian(mean: Tensor, std: float | Tensor) -> DiagonalGaussian:
    return DiagonalGaussian(mean, torch.as_tensor(std).log().mul(2).expand_as(mean).to(mean))


@pytest.mark.parametrize(("means", "stds"), [((-1.0, 1.0), (0.5, 0.5)), ((0.0, 0.6), (1.0, 0.3))])
def test_mutual_information_is_that_of_numerical_integration(
    means: tuple[float, float], stds: tuple[float, float]
) -> None:
    """Half of the units have one posterior, half the other: I = h(mixture) - mean h(component), in one dimension."""
    grid = torch.linspace(-12, 12, 48_001, dtype=torch.float64)
    components = torch.stack(
        [torch.distributions.Normal(m, s).log_prob(grid) for m, s in zip(means, stds, strict=True)]
    )
    mixture = components.logsumexp(0) - math.log(2)
    expected = float((components.exp() * (components - mixture)).sum(1).mean() * (grid[1] - grid[0]))
    half = 600
    # Evenly spread quantiles in the place of random noise.
    noise = torch.special.ndtri((torch.arange(half) + 0.5) / half).repeat(2)
    mean, std = (torch.tensor(values).repeat_interleave(half) for values in (means, stds))
    found = mutual_information(gaussian(mean[:, None], std[:, None]), (mean + std * noise)[:, None])
    assert expected > 0.1
    assert found == pytest.approx(expected, abs=2e-3)


def test_mutual_information_lies_between_nothing_and_its_ceiling() -> None:
    noise = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    apart = gaussian(100 * torch.arange(64.0)[:, None].expand(-1, 3), 0.1)
    assert mutual_information(apart, apart.sample(noise)) == pytest.approx(math.log(64), rel=1e-12)
    same = gaussian(torch.ones(64, 3), 0.1)
    assert mutual_information(same, same.sample(noise)) == pytest.approx(0, abs=1e-9)


def test_information_does_not_depend_on_how_units_are_taken() -> None:
    random = torch.Generator().manual_seed(0)
    posterior = gaussian(torch.randn(50, 3, generator=random), torch.rand(50, 3, generator=random) + 0.1)
    z = posterior.sample(torch.randn(50, 3, generator=random))
    whole = pointwise_information(posterior, z, torch.arange(50))
    some = torch.tensor([7, 0, 49, 7])
    torch.testing.assert_close(pointwise_information(posterior, z, some, block=3), whole[some])
    assert float(whole.mean()) == pytest.approx(mutual_information(posterior, z))


def test_active_units_depart_from_their_prior() -> None:
    """Five dimensions of known moments: means off the prior's by a share of its standard deviation, or following it."""
    sign = torch.tensor([1.0, -1.0]).repeat(10)[:, None]
    prior = gaussian(5 * sign.expand(-1, 5), torch.tensor([1.0, 1.0, 10.0, 10.0, 0.01]))
    posterior = gaussian(prior.mean + sign.roll(1) * torch.tensor([0.0, 0.2, 0.2, 2.0, 0.0005]), 1.0)
    variances = departure_variance(posterior, prior)
    torch.testing.assert_close(
        variances, torch.tensor([0.0, 0.2, 0.02, 0.2, 0.05]).double().square(), atol=1e-6, rtol=1e-3
    )
    assert active_units(variances) == 2
    assert active_units(mean_variance(posterior.mean)) == 5, "they all follow the prior's mean"
    assert active_units(mean_variance(gaussian(torch.full((20, 5), 7.0), 1.0).mean)) == 0


def test_the_interval_is_that_of_a_ratio() -> None:
    """Four documents of one unit each are a plain mean; what is proportional to a document's size is no error."""
    differences = torch.tensor([3.0, 1.0, 7.0, 1.0], dtype=torch.float64)
    error = 1.96 * 2 * math.sqrt((0**2 + 2**2 + 4**2 + 2**2) / 3)
    one_each = torch.ones(4, dtype=torch.long)
    assert paired_interval(differences, one_each) == pytest.approx([(12 - error) / 4, (12 + error) / 4])
    sizes = torch.tensor([1, 40, 7])
    assert paired_interval(2.5 * sizes.double(), sizes) == pytest.approx([2.5, 2.5])
    assert paired_interval(torch.tensor([6.0]), torch.tensor([3])) == [2.0, 2.0]


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Documents of 1 to 30 units; every unit adds 2 nats, give or take 3."""
    random = torch.Generator().manual_seed(0)
    held, trials, documents = 0, 2000, 100
    for _ in range(trials):
        sizes = torch.randint(1, 31, (documents,), generator=random)
        noise = torch.randn(documents, generator=random, dtype=torch.float64) * 3 * sizes.double().sqrt()
        low, high = paired_interval(2 * sizes.double() + noise, sizes)
        held += low < 2 < high
    assert held / trials == pytest.approx(0.95, abs=0.02)


def test_documents_exchange_in_one_circle() -> None:
    names = [f"doc-{number}" for number in range(9)]
    partners = exchange_partners(names, seed=1)
    seen, at = [], 0
    for _ in range(9):
        seen.append(at)
        at = int(partners[at])
    assert at == 0
    assert sorted(seen) == list(range(9))
    assert not torch.equal(partners, exchange_partners(names, seed=2))
