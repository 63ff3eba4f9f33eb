import math

import numpy as np
import pytest
import tiny
import torch

from textvae.config import ObjectiveConfig, RatePolicy
from textvae.search.similarity import similarities
from textvae.search.storage import LevelDescription
from textvae.training.objective import (
    SCALE_LIMIT,
    ElboTerms,
    Objective,
    RateRegulariser,
    elbo_terms,
    similarity_loss,
)

CONSTANT = RatePolicy(anneal="constant")
LEVELS = ("document", "paragraph", "sentence")


def terms(rates: dict[str, list[float]]) -> ElboTerms:
    """Two documents; `rates` by dimension, all in the first of them."""
    by_dimension = {name: torch.tensor(values) for name, values in rates.items()}
    return ElboTerms(
        torch.tensor([10.0, 5.0]),
        torch.tensor([1.0, 0.5]),
        {name: torch.tensor([float(values.sum()), 0.0]) for name, values in by_dimension.items()},
        by_dimension,
    )


def objective(policy: RatePolicy = CONSTANT, **options: object) -> Objective:
    return Objective(ObjectiveConfig(default=policy, **options), LEVELS, steps=100)


def test_the_loss_is_distortion_plus_weighted_rates() -> None:
    config = ObjectiveConfig(
        default=CONSTANT,
        levels={"document": RatePolicy(beta=0.25, anneal="constant"), "sentence": RatePolicy(start=0.2, end=0.6)},
    )
    found = Objective(config, LEVELS, steps=100)
    given = terms({"document": [8.0, 4.0], "paragraph": [2.0], "sentence": [20.0]})
    assert found.loss(given, found.weights(40)).item() == pytest.approx(16.5 + 0.25 * 12 + 2 + 0.5 * 20)
    assert found.loss(given, found.weights(10)).item() == pytest.approx(16.5 + 0.25 * 12 + 2)
    assert given.negative_elbo.tolist() == pytest.approx([11 + 34, 5.5]), "what is reported knows no beta"


def test_at_beta_one_the_loss_is_the_negative_elbo() -> None:
    vae = tiny.model()
    batch = tiny.batch_of(vae, tiny.documents())
    given = elbo_terms(vae(batch, tiny.NOISE), batch)
    found = objective()
    torch.testing.assert_close(found.loss(given, found.weights(0)), given.negative_elbo.sum())


def test_the_bag_of_words_is_the_top_levels_and_no_part_of_what_is_reported() -> None:
    vae = tiny.model()
    batch = tiny.batch_of(vae, tiny.documents())
    output = vae(batch, tiny.NOISE, with_bag=True)
    given, plain = elbo_terms(output, batch), elbo_terms(vae(batch, tiny.NOISE), batch)
    torch.testing.assert_close(given.negative_elbo, plain.negative_elbo)
    top = vae.score_bag({"document": output.hierarchy.z["document"]}, batch).token_log_prob.sum()
    found = objective(bag_of_words=0.3)
    torch.testing.assert_close(found.loss(given, found.weights(0)), plain.negative_elbo.sum() - 0.3 * top)


def test_similarity_is_an_auxiliary_loss_and_no_part_of_what_is_reported() -> None:
    vae = tiny.model()
    batch = tiny.batch_of(vae, tiny.documents())
    output, found = vae(batch, tiny.NOISE), objective(similarity=0.3)
    given, plain = found.terms(output, batch), elbo_terms(output, batch)
    assert plain.similarity is None
    torch.testing.assert_close(given.negative_elbo, plain.negative_elbo)
    top = output.hierarchy.levels["document"].posterior
    tokens = batch.by_document(torch.ones(batch.num_tokens), batch.levels[-1].document[batch.token_sentence])
    expected = plain.negative_elbo.sum() + 0.3 * similarity_loss(top.mean, output.states) @ tokens
    loss = found.loss(given, found.weights(0))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in vae.parameters() if p.grad is not None)


def test_the_similarity_of_latents_is_that_of_an_index() -> None:
    """Standardised as `search.similarity.similarities` does it, one document after the other."""
    torch.manual_seed(0)
    means, states = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    described = LevelDescription(5, means.mean(0).tolist(), means.std(0, correction=0).tolist())
    found = similarity_loss(means, states)
    for row in range(5):
        ours = similarities(means.numpy(), means[row].numpy(), described)
        theirs = torch.cosine_similarity(states - states.mean(0), (states - states.mean(0))[row, None])
        others = [other for other in range(5) if other != row]
        expected = np.square(ours - theirs.numpy())[others].mean()
        assert found[row].item() == pytest.approx(expected, rel=1e-4)


def test_similarity_costs_no_rate_because_scale_does_not_matter() -> None:
    torch.manual_seed(0)
    means, states = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
    scale, shift = torch.tensor([1e-3, 0.1, 1.0, 7.0]), torch.tensor([0.0, 5.0, -1.0, 0.3])
    found = similarity_loss(means * scale + shift, states)
    torch.testing.assert_close(found, similarity_loss(means, states), rtol=1e-5, atol=1e-6)


def test_a_projection_that_keeps_all_variance_is_perfectly_similar() -> None:
    """States of three dimensions, rotated into thirty: their principal components lose nothing."""
    torch.manual_seed(0)
    latents = torch.randn(50, 3, dtype=torch.float64)
    latents = (latents - latents.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(latents.T))).T
    rotation = torch.linalg.qr(torch.randn(30, 3, dtype=torch.float64))[0]
    assert similarity_loss(latents * 0.1, latents @ rotation.T + 2).max() < 1e-10
    assert similarity_loss(latents[:, :2], latents @ rotation.T).mean() > 0.05


def test_a_document_alone_in_its_batch_is_like_nothing() -> None:
    vae = tiny.model()
    batch = tiny.batch_of(vae, tiny.documents()[:1])
    found = objective(similarity=1.0)
    given = found.terms(vae(batch, tiny.NOISE), batch)
    assert given.similarity.item() == 0
    found.loss(given, found.weights(0)).backward()
    assert all(p.grad.isfinite().all() for p in vae.parameters() if p.grad is not None)


@pytest.mark.parametrize("levels", [(), ("sentence",)])
def test_similarity_is_that_of_the_top_levels_units(levels: tuple[str, ...]) -> None:
    vae = tiny.model(levels)
    batch = tiny.batch_of(vae, tiny.documents())
    output = vae(batch, tiny.NOISE)
    given = Objective(ObjectiveConfig(similarity=1.0), levels, steps=100).terms(output, batch)
    if not levels:
        assert given.similarity is None
    else:
        each = similarity_loss(output.hierarchy.levels["sentence"].posterior.mean, output.states)
        tokens = torch.bincount(batch.token_sentence).float()
        torch.testing.assert_close(given.similarity.sum(), each @ tokens)
        assert len(given.similarity) == len(batch)


def test_free_bits_stop_the_pressure_on_quiet_dimensions_only() -> None:
    found = objective(RatePolicy(beta=0.5, anneal="constant", free_bits=0.3))
    rates = torch.tensor([0.1, 0.29, 0.31, 2.0], requires_grad=True)
    given = terms({})
    before = found.weights(0)["document"]
    assert before == 0.5, "nothing is known before the first step"
    found.update(0, {name: rates.detach() for name in LEVELS})
    loss = found.loss(
        ElboTerms(given.distortion_tokens, given.distortion_structure, {}, {"document": rates}),
        {"document": found.weights(1)["document"]},
    )
    loss.backward()
    assert rates.grad.tolist() == [0.0, 0.0, 0.5, 0.5]


def test_clamps_look_at_the_mean_of_earlier_steps() -> None:
    """Not at this batch, so accumulation and process count do not change the objective."""
    level = RateRegulariser(RatePolicy(anneal="constant", free_bits=1.0))
    level.update(torch.tensor([2.0]), 0.0)
    level.update(torch.tensor([0.0]), 0.1)
    assert level.weight(0.2).item() == 1, "one quiet step is not a quiet dimension"
    for _ in range(30):
        level.update(torch.tensor([0.0]), 0.2)
    assert level.weight(0.5).item() == 0


@pytest.mark.parametrize("target", [2.0, 8.0])
@pytest.mark.parametrize("exponent", [0.5, 1.5])
def test_the_controller_settles_on_its_target(target: float, exponent: float) -> None:
    """A level whose rate answers beta as 6 * beta ** -exponent, following slowly as training does."""
    level = RateRegulariser(RatePolicy(anneal="constant", target_rate=target, controller_gain=0.02))
    rate, found = 30.0, []
    for _ in range(1500):
        rate += 0.1 * (6 * float(level.weight(0.5)) ** -exponent - rate)
        level.update(torch.tensor([rate / 2, rate / 2]), 0.5)
        found.append(rate)
    assert all(abs(value / target - 1) < 0.1 for value in found[-300:])


def test_the_controller_waits_and_is_bounded() -> None:
    level = RateRegulariser(RatePolicy(start=0.5, end=0.9, target_rate=1.0, controller_gain=1.0))
    level.update(torch.tensor([50.0]), 0.2)
    assert level.log_scale == 0, "while beta is zero there is nothing to scale"
    for _ in range(100):
        level.update(torch.tensor([50.0]), 1.0)
    assert level.log_scale == pytest.approx(SCALE_LIMIT)
    assert float(level.weight(1.0)) == pytest.approx(math.exp(SCALE_LIMIT))


def test_balance_presses_in_proportion_to_the_rates_and_ends() -> None:
    found = objective(balance_until=0.5)
    assert set(found.weights(0).values()) == {1.0}
    found.update(
        0, {"document": torch.tensor([1.0]), "paragraph": torch.tensor([2.0, 3.0]), "sentence": torch.tensor([6.0])}
    )
    weights = {name: float(weight) for name, weight in found.weights(10).items()}
    assert weights == pytest.approx({"document": 0.25, "paragraph": 1.25, "sentence": 1.5})
    assert sum(weights.values()) == pytest.approx(len(LEVELS))
    assert set(found.weights(50).values()) == {1.0}


def test_the_state_survives_a_checkpoint() -> None:
    policy = RatePolicy(anneal="constant", free_bits=0.2, target_rate=1.0)
    found, restored = objective(policy, balance_until=0.5), objective(policy, balance_until=0.5)
    for step in range(3):
        found.update(step, {name: torch.tensor([0.1 * step, 3.0]) for name in LEVELS})
    restored.load_state_dict(found.state_dict())
    for one, other in zip(found.weights(5).values(), restored.weights(5).values(), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    found.update(6, {name: torch.tensor([0.0, 9.0]) for name in LEVELS})
    assert not torch.equal(found.state_dict()["document"]["mean_rate"], restored.state_dict()["document"]["mean_rate"])
