"""A trained model read sentence by sentence is the model read at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import tiny
import torch
from torch import Tensor

from textvae.evaluation.likelihood import iwae, smc
from textvae.evaluation.likelihood.model_document import ModelDocument
from textvae.evaluation.likelihood.sequential import SequentialDocument
from textvae.training.objective import distortions, elbo_terms

DEPTHS = [(hierarchy, levels) for hierarchy, levels in tiny.depths() if levels]


def read(
    hierarchy: Sequence[str], levels: Sequence[str], context: int, number: int = 2, **decoder: int
) -> ModelDocument:
    """Document `number` under a random model whose sentences see the unit of level `context` before them."""
    vae = tiny.model(levels, hierarchy, context=hierarchy[context], context_tokens=12, **decoder)
    return ModelDocument(vae, tiny.documents(hierarchy)[number], seed=4)


@pytest.mark.parametrize("context", [-1, 0], ids=["sentence context", "document context"])
@pytest.mark.parametrize(("hierarchy", "levels"), DEPTHS)
def test_without_resampling_particles_weigh_what_joint_samples_weigh(
    hierarchy: Sequence[str], levels: Sequence[str], context: int
) -> None:
    """Prior stepped with a cache, text scored behind its own context, each structure event exactly once."""
    document = read(hierarchy, levels, context)
    one = iwae(document, 6, samples_per_chunk=4).log_likelihood
    assert smc(document, 6, threshold=0.0).log_likelihood == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize(("context", "decoder"), [(0, {"logit_rank": 7}), (-1, {"logit_rank": 7, "prefix_length": 2})])
def test_every_way_from_the_latents_to_the_text_is_weighed(context: int, decoder: dict[str, int]) -> None:
    document = read(tiny.DOCUMENT, tiny.DOCUMENT, context, **decoder)
    one = iwae(document, 6, samples_per_chunk=4).log_likelihood
    assert smc(document, 6, threshold=0.0).log_likelihood == pytest.approx(one, rel=1e-5)


@pytest.mark.parametrize("context", [-1, 0], ids=["sentence context", "document context"])
def test_survivors_take_their_whole_history_along(context: int) -> None:
    """Particles chosen at random after every sentence weigh what the model gives to their ancestors' latents."""
    document = read(tiny.DOCUMENT, tiny.DOCUMENT, context, logit_rank=7)
    random = torch.Generator().manual_seed(0)
    state, weights = document.start(4), torch.zeros(4, dtype=torch.float64)
    drawn: list[dict[str, list[Tensor]]] = [{name: [] for name in tiny.DOCUMENT} for _ in range(4)]
    for leaf in range(document.num_leaves):
        state, increment = document.advance(state, leaf)
        weights = weights + increment.log_likelihood + sum(draw.log_ratio for draw in increment.draws.values())
        for order in increment.draws:
            for history, z in zip(drawn, state.z[tiny.DOCUMENT[order]], strict=True):
                history[tiny.DOCUMENT[order]].append(z)
        survivors = torch.randint(4, (4,), generator=random)
        state, weights = document.select(state, survivors), weights[survivors]
        drawn = [{name: list(rows) for name, rows in drawn[number].items()} for number in survivors.tolist()]
    for weight, history in zip(weights.tolist(), drawn, strict=True):
        with torch.no_grad():
            output = document.model(document.batch, document.noise, {n: torch.stack(z) for n, z in history.items()})
        log_ratio = sum(
            float((level.prior.log_prob(level.z) - level.posterior.log_prob(level.z)).sum())
            for level in output.hierarchy.levels.values()
        )
        given = sum(float(values) for values in distortions(output, document.batch))
        assert weight == pytest.approx(log_ratio - given, rel=1e-5)


def test_log_weights_average_to_the_elbo_with_analytic_rates() -> None:
    """What iwae takes the mean of in probability, and what is reported as the ELBO, are one model's: of the same draws,
    log p(z) - log q(z | x) has the expectation -KL at every level."""
    document = read(tiny.DOCUMENT, tiny.DOCUMENT, -1, logit_rank=7)
    count = 3000
    log_weights = document.joint_log_weights(count, 0)
    copies = document.batch.copies(count, 0, document.model.layout.chunk_tokens)
    features = {name: rows.repeated(count) for name, rows in document.features.items()}
    with torch.no_grad():
        passed = document.model.hierarchy(features, copies, document.noise)
        elbos = -elbo_terms(document.model.score(passed, copies), copies).negative_elbo.double()
    difference = log_weights - elbos
    error = float(difference.std()) / count**0.5
    assert 1e-3 < error < 0.2
    assert abs(float(difference.mean())) < 4 * error


def test_the_memory_budget_changes_nothing() -> None:
    document = read(tiny.DOCUMENT, tiny.DOCUMENT, 0)
    whole = smc(document, 8, seed=1).log_likelihood
    document.model.set_chunk_tokens(10)
    assert smc(document, 8, seed=1).log_likelihood == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(("hierarchy", "levels"), DEPTHS)
def test_exposure_grows_to_one_at_the_end_of_every_unit(hierarchy: Sequence[str], levels: Sequence[str]) -> None:
    document: SequentialDocument = read(hierarchy, levels, -1)
    lowest = len(hierarchy) - 1
    for row, name in zip(document.exposure, levels, strict=True):
        unit = document.batch.ancestor(lowest, hierarchy.index(name))
        ends = torch.cat([unit[1:] != unit[:-1], torch.tensor([True])])
        assert torch.equal(row == 1, ends)
        assert bool((row > 0).all())
        within = (unit[1:] == unit[:-1]).nonzero().flatten()
        assert bool((row[within + 1] > row[within]).all())
