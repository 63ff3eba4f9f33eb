"""A trained model read sentence by sentence is the model read at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import tiny
import torch

from textvae.likelihood import iwae, smc
from textvae.likelihood.document import ModelDocument
from textvae.likelihood.sequential import SequentialDocument

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
