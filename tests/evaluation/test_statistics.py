"""Statistics of latents against closed forms and numerical integration."""

import math
from collections import Counter
from collections.abc import Iterator
from statistics import fmean, stdev

import numpy as np
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
from textvae.evaluation.standard_errors import ratio_error
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
    one_each, names = torch.ones(4, dtype=torch.long), list("abcd")
    assert paired_interval(differences, one_each, names) == pytest.approx([(12 - error) / 4, (12 + error) / 4])
    sizes = torch.tensor([1, 40, 7])
    assert paired_interval(2.5 * sizes.double(), sizes, names[:3]) == pytest.approx([2.5, 2.5])
    with pytest.raises(ValueError, match="two or more sources"):
        paired_interval(differences, one_each, ["a"] * 4)


def test_sections_of_one_source_are_one_observation() -> None:
    """Copies of a document tell no more than the document; sections that depart in opposite ways cancel."""
    amounts, sizes = [3.0, 1.0, 7.0], [1.0, 1.0, 1.0]
    once = ratio_error(amounts, sizes, ["a", "b", "c"])
    assert once == pytest.approx(stdev(amounts) / math.sqrt(3))
    copied = ratio_error(amounts * 5, sizes * 5, ["a", "b", "c"] * 5)
    assert copied == pytest.approx(once)
    assert ratio_error([1.0, 5.0, 5.0, 1.0], [1.0] * 4, ["a", "a", "b", "b"]) == 0
    assert ratio_error(amounts, sizes, ["a", "a", "a"]) is None


def simulated(trials: int, sources: int, sections: int, shared: float) -> Iterator[tuple[list[float], list[str]]]:
    """Sections whose variance is 1, of which their article has the part `shared`; the mean is 2."""
    random = np.random.default_rng(0)
    names = [f"article-{number}" for number in range(sources) for _ in range(sections)]
    for _ in range(trials):
        of_source = np.repeat(random.normal(size=sources), sections)
        of_section = random.normal(size=sources * sections)
        yield (2 + math.sqrt(shared) * of_source + math.sqrt(1 - shared) * of_section).tolist(), names


def test_a_naive_error_is_short_by_the_design_effect_and_the_clustered_one_is_not() -> None:
    """Kish (1965): sections of m to an article, correlated by rho, have sqrt(1 + (m - 1) rho) times the error."""
    sections, rho = 7, 0.5
    errors, held = [], 0
    for values, names in simulated(400, 60, sections, rho):
        clustered = ratio_error(values, [1.0] * len(values), names)
        naive = ratio_error(values, [1.0] * len(values), range(len(values)))
        errors.append((naive, clustered))
        held += abs(fmean(values) - 2) < 1.96 * clustered
    naive, clustered = (fmean(column) for column in zip(*errors, strict=True))
    assert clustered / naive == pytest.approx(math.sqrt(1 + (sections - 1) * rho), rel=0.03)
    assert held / 400 == pytest.approx(0.95, abs=0.025)


def test_independent_sections_are_not_punished() -> None:
    ratios = []
    for values, names in simulated(400, 60, 7, shared=0.0):
        clustered = ratio_error(values, [1.0] * len(values), names)
        ratios.append(clustered / ratio_error(values, [1.0] * len(values), range(len(values))))
    assert fmean(ratios) == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Documents of 1 to 30 units; every unit adds 2 nats, give or take 3, and every source gives or takes 1."""
    random = torch.Generator().manual_seed(0)
    held, trials, documents = 0, 2000, 300
    sources = [str(number // 3) for number in range(documents)]
    for _ in range(trials):
        sizes = torch.randint(1, 31, (documents,), generator=random)
        noise = torch.randn(documents, generator=random, dtype=torch.float64) * 3 * sizes.double().sqrt()
        of_source = torch.randn(documents // 3, generator=random, dtype=torch.float64).repeat_interleave(3)
        low, high = paired_interval((2 + of_source) * sizes + noise, sizes, sources)
        held += low < 2 < high
    assert held / trials == pytest.approx(0.95, abs=0.02)


def test_documents_exchange_in_one_circle() -> None:
    names = [f"doc-{number}" for number in range(9)]
    partners = exchange_partners(names, names, seed=1)
    seen, at = [], 0
    for _ in range(9):
        seen.append(at)
        at = int(partners[at])
    assert at == 0
    assert sorted(seen) == list(range(9))
    assert not torch.equal(partners, exchange_partners(names, names, seed=2))


@pytest.mark.parametrize(
    "sizes", [(1, 1), (3, 1, 2, 5, 1), (4, 2, 2), (2, 2, 2, 2), (7,) * 8, (5, 1, 1), (9, 2)], ids=str
)
def test_partners_are_of_another_source(sizes: tuple[int, ...]) -> None:
    sources = [f"source-{number}" for number, size in enumerate(sizes) for _ in range(size)]
    ids = [f"{name}#{number}" for number, name in enumerate(sources)]
    for seed in range(5):
        partners = exchange_partners(ids, sources, seed).tolist()
        assert all(sources[row] != sources[partner] for row, partner in enumerate(partners))
        given = Counter(partners)
        # A source that is more than half of the data takes from the others more than once.
        at_most = 1 if 2 * max(sizes) <= len(ids) else -(-max(sizes) // (len(ids) - max(sizes)))
        assert max(given.values()) <= at_most


def test_partners_follow_the_ids_not_the_order() -> None:
    sources = ["a", "a", "b", "c", "c", "c", "d"]
    ids = [f"{name}#{number}" for number, name in enumerate(sources)]
    order = [4, 2, 0, 6, 5, 1, 3]
    partners = exchange_partners(ids, sources, 3).tolist()
    turned = exchange_partners([ids[row] for row in order], [sources[row] for row in order], 3).tolist()
    assert [order[partner] for partner in turned] == [partners[row] for row in order]


def test_a_single_source_has_no_partners() -> None:
    with pytest.raises(ValueError, match=r"the data hold 1 source: give documents of two or more"):
        exchange_partners(["a#1", "a#2"], ["a", "a"], 0)
