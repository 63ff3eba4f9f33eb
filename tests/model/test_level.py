import pytest
import torch
from sklearn.decomposition import PCA
from tiny import perturb
from torch import Tensor

from textvae.config import LevelConfig, UnitConfig
from textvae.data.batch import UnitLevel
from textvae.data.packing import pack
from textvae.model.gaussian import DiagonalGaussian
from textvae.model.level import START_DEVIATION, Level, StructureScores, UnitFeatures

WIDTH, LATENT, STATES = 16, 5, 7
COUNTS = [7, 1, 12]
UNITS = sum(COUNTS)


def level(
    prior: str = "autoregressive",
    *,
    window: int = 64,
    has_parent: bool = True,
    is_root: bool = False,
    num_stops: int = 2,
    **options: bool,
) -> Level:
    torch.manual_seed(0)
    built = Level(
        LevelConfig("paragraph", LATENT, prior, **options),
        UnitConfig(WIDTH, 2, 2, window),
        STATES,
        num_stops=num_stops,
        is_root=is_root,
        has_parent=has_parent,
        has_child=True,
    )
    perturb(built)
    return built.eval()


@pytest.fixture
def units() -> UnitLevel:
    document = torch.repeat_interleave(torch.arange(len(COUNTS)), torch.tensor(COUNTS))
    index = torch.cat([torch.arange(count) for count in COUNTS])
    last = index % 3 == 2
    return UnitLevel("paragraph", document, document, index, last, pack(COUNTS))


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def features_of(units: int) -> UnitFeatures:
    return UnitFeatures(random(3, units, WIDTH), random(4, units, STATES))


def events(columns: int = 2) -> Tensor:
    return torch.randint(-1, 2, (UNITS, columns), generator=torch.Generator().manual_seed(5)).float()


@pytest.mark.parametrize("window", [3, 64])
@pytest.mark.parametrize("has_parent", [True, False])
@pytest.mark.parametrize("prior", ["autoregressive", "independent"])
def test_units_one_by_one_are_scored_as_in_parallel(
    units: UnitLevel, prior: str, has_parent: bool, window: int
) -> None:
    unit = level(prior, window=window, has_parent=has_parent)
    above, z, told = random(1, UNITS, WIDTH), random(2, UNITS, LATENT), events()
    passed = unit(above, None, units, told, z, z)
    for document in range(len(COUNTS)):
        rows = torch.nonzero(units.document == document)[:, 0]
        state = unit.start(above[rows[:1]])
        for row in rows.split(1):
            hidden, prior_here = unit.next_prior(state, above[row])
            torch.testing.assert_close(prior_here.mean, passed.prior.mean[row], atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(prior_here.log_variance, passed.prior.log_variance[row], atol=1e-5, rtol=1e-4)
            logits = unit.stop_logits(hidden, z[row])
            torch.testing.assert_close(logits, passed.structure.logits[row], atol=1e-5, rtol=1e-4)
            unit.commit(state, z[row], told[row])


@pytest.mark.parametrize("window", [3, 64])
@pytest.mark.parametrize("prior", ["autoregressive", "independent"])
def test_a_drawn_latent_comes_from_the_prior_that_its_replay_reports(units: UnitLevel, prior: str, window: int) -> None:
    unit = level(prior, window=window)
    above, noise, told = random(1, UNITS, WIDTH), random(2, UNITS, LATENT), events()
    drawn = unit(above, None, units, told, "prior", noise)
    torch.testing.assert_close(drawn.prior.sample(noise), drawn.z, atol=1e-4, rtol=1e-4)
    replayed = unit(above, None, units, told, drawn.z, noise)
    torch.testing.assert_close(replayed.prior.mean, drawn.prior.mean)


def test_an_autoregressive_prior_knows_all_that_came_before_and_nothing_after(units: UnitLevel) -> None:
    unit = level()
    above, z, told = random(1, UNITS, WIDTH), random(2, UNITS, LATENT), events()
    before = unit(above, None, units, told, z, z).prior.mean
    changed = COUNTS[0] + COUNTS[1] + 4  # the fifth unit of the third document
    for other_z, other_told in ((z + 1.0, told), (z, -told + 0.5)):
        z_here, told_here = z.clone(), told.clone()
        z_here[changed], told_here[changed] = other_z[changed], other_told[changed]
        differs = (unit(above, None, units, told_here, z_here, z).prior.mean - before).abs().amax(1) > 1e-6
        assert differs.tolist() == [row > changed for row in range(UNITS)]


def test_an_independent_prior_knows_its_ancestors_alone(units: UnitLevel) -> None:
    unit = level("independent")
    above, z, told = random(1, UNITS, WIDTH), random(2, UNITS, LATENT), events()
    before = unit(above, None, units, told, z, z)
    assert torch.equal(unit(above, None, units, told, z + 1, z).prior.mean, before.prior.mean)
    other = above.clone()
    other[3] += 1
    differs = (unit(other, None, units, told, z, z).prior.mean - before.prior.mean).abs().amax(1) > 1e-6
    assert differs.nonzero().flatten().tolist() == [3]


def test_without_parent_or_predecessor_the_prior_is_standard_normal(units: UnitLevel) -> None:
    above, z, told = random(1, UNITS, WIDTH), random(2, UNITS, LATENT), events()
    first = units.index == 0
    for unit, standard in (
        (level(has_parent=False), first),
        (level("independent", has_parent=False), first | True),
        (level(has_parent=True), first & False),
    ):
        prior = unit(above, None, units, told, z, z).prior
        found = (prior.mean.abs() < 1e-6).all(1) & (prior.log_variance.abs() < 1e-6).all(1)
        assert torch.equal(found, standard)


@pytest.mark.parametrize("sees", [True, False])
def test_the_posterior_sees_ancestors_where_it_should(units: UnitLevel, sees: bool) -> None:
    unit = level(posterior_sees_ancestors=sees)
    features = features_of(UNITS)
    one, other = (unit.infer(features, random(seed, UNITS, WIDTH)) for seed in (1, 2))
    assert torch.equal(one.mean, other.mean) is not sees


def test_the_posteriors_mean_is_what_the_perceptron_makes_and_a_linear_map_of_the_encoders_states() -> None:
    unit, features, above = level(), features_of(UNITS), random(1, UNITS, WIDTH)
    moved = random(9, STATES)
    found, plain = (
        unit.infer(UnitFeatures(features.hidden, features.states + moved), above),
        unit.infer(features, above),
    )
    shift = (unit.linear.weight @ moved).expand(UNITS, -1)
    assert shift.abs().min() > 1e-3
    torch.testing.assert_close(found.mean - plain.mean, shift, atol=1e-5, rtol=1e-4)
    assert torch.equal(found.log_variance, plain.log_variance)


def test_latents_come_from_where_they_are_asked_from(units: UnitLevel) -> None:
    unit = level()
    above, noise, told = random(1, UNITS, WIDTH), random(2, UNITS, LATENT), events()
    features = features_of(UNITS)
    posterior = unit.infer(features, above)
    drawn = unit(above, features, units, told, "posterior", noise)
    assert torch.equal(drawn.z, posterior.sample(noise))
    assert torch.equal(unit(above, features, units, told, "mean", noise).z, posterior.mean)
    assert torch.equal(drawn.rate, posterior.kl(drawn.prior))
    with pytest.raises(ValueError, match="needs the text's features"):
        unit(above, None, units, told, "posterior", noise)
    with pytest.raises(ValueError, match="was not inferred"):
        _ = unit(above, None, units, told, "prior", noise).rate


@pytest.mark.parametrize("std", [0.05, 1.0])
def test_the_posterior_starts_with_the_configured_deviation(std: float) -> None:
    torch.manual_seed(0)
    config = LevelConfig("document", LATENT, initial_posterior_std=std)
    fresh = Level(config, UnitConfig(WIDTH, 1, 2), 0, num_stops=0, is_root=True, has_parent=False, has_child=False)
    found = fresh.infer(features_of(4), torch.zeros(4, WIDTH))
    torch.testing.assert_close(found.std, torch.full_like(found.std, std), atol=0, rtol=1e-4)


def test_structure_is_bernoulli_and_unasked_events_cost_nothing() -> None:
    logits = random(1, 6, 2)
    told = torch.tensor([[1, 1], [1, -1], [-1, 0], [1, 1], [-1, 0], [1, -1]]).float()
    found = StructureScores(logits, told).log_prob
    bernoulli = torch.distributions.Bernoulli(logits=logits).log_prob((told > 0).float())
    torch.testing.assert_close(found, (bernoulli * told.abs()).sum(1))


@pytest.mark.parametrize("prior", ["autoregressive", "independent"])
def test_whether_a_unit_ends_its_parents_is_told_by_its_own_latent(units: UnitLevel, prior: str) -> None:
    """And by those before it where the prior is autoregressive; by none after it, or of another document."""
    unit = level(prior)
    above, z, told = random(1, UNITS, WIDTH), random(2, UNITS, LATENT), events()
    before = unit(above, None, units, told, z, z).structure.logits
    changed = COUNTS[0] + COUNTS[1] + 4
    other = z.clone()
    other[changed] += 1.0
    moved = (unit(above, None, units, told, other, other).structure.logits != before).any(1)
    later = torch.arange(UNITS) >= changed if prior == "autoregressive" else torch.arange(UNITS) == changed
    assert torch.equal(moved, later)


def test_a_fresh_prior_is_standard_normal(units: UnitLevel) -> None:
    torch.manual_seed(0)
    fresh = Level(
        LevelConfig("paragraph", LATENT),
        UnitConfig(WIDTH, 1, 2),
        0,
        num_stops=1,
        is_root=False,
        has_parent=True,
        has_child=False,
    )
    z = random(2, UNITS, LATENT)
    prior = fresh(random(1, UNITS, WIDTH), None, units, events(1), z, z).prior
    rate = prior.kl(DiagonalGaussian.standard((UNITS, LATENT), torch.device("cpu")))
    assert rate.abs().max() < 1e-6


@torch.no_grad()
def test_means_start_from_the_principal_components_of_the_encoders_states() -> None:
    """As the library of PCA finds them; where states have fewer dimensions than the latent, the rest say nothing."""
    states = random(11, 300, STATES) @ random(12, STATES, STATES) + 3
    torch.manual_seed(0)
    fresh = Level(
        LevelConfig("document", STATES + 2),
        UnitConfig(WIDTH, 1, 2),
        STATES,
        num_stops=0,
        is_root=True,
        has_parent=False,
        has_child=False,
    )
    fresh.start_linear(states)
    found = fresh.infer(UnitFeatures(random(3, 300, WIDTH), states), torch.zeros(300, WIDTH)).mean
    components = PCA(whiten=True).fit_transform(states.double().numpy())
    signs = torch.sign((found[:, :STATES].double() * torch.from_numpy(components)).sum(0))
    expected = START_DEVIATION * torch.from_numpy(components) * signs * (300 / 299) ** 0.5
    torch.testing.assert_close(found[:, :STATES].double(), expected, atol=2e-3, rtol=1e-3)
    assert found[:, STATES:].std(0).max() < 1e-6
