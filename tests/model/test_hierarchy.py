from collections import Counter

import pytest
import tiny
import torch
from torch import Tensor

from textvae.data.batch import DocumentBatch
from textvae.data.collate import collate
from textvae.model.hierarchy import EventPlan, structure_events
from textvae.model.vae import DocumentVAE


def scored_events(batch: DocumentBatch, plan: EventPlan) -> Counter[tuple[int, int, bool]]:
    """(level number, unit, whether it ends its parent) of every event that some part of the model scores."""
    lowest = len(batch.levels) - 1
    found: Counter[tuple[int, int, bool]] = Counter()
    for host, told in [*plan.hosts.items(), (lowest, plan.decoder)]:
        events = structure_events(batch, host, told)
        for column, number in enumerate(told):
            units = batch.ancestor(host, number)
            for unit, event in zip(units.tolist(), events[:, column].tolist(), strict=True):
                if event:
                    found[number, unit, event > 0] += 1
    return found


@pytest.mark.parametrize(
    ("hierarchy", "levels"),
    [
        (h, levels)
        for h in (("sentence",), ("document", "sentence"), tiny.DOCUMENT, tiny.FOUR)
        for levels in tiny.subsets(h)
    ],
    ids=str,
)
def test_every_end_is_scored_exactly_once_in_every_model(hierarchy: tuple[str, ...], levels: tuple[str, ...]) -> None:
    """Also the last of a parent's parents: all models score the same events, so their likelihoods compare."""
    batch = collate(tiny.documents(hierarchy), tiny.model((), hierarchy).layout)
    expected = {
        (number, unit, bool(last)): 1
        for number, level in enumerate(batch.levels)
        for unit, last in enumerate(level.last.tolist())
        if number
    }
    assert scored_events(batch, EventPlan.of(hierarchy, levels)) == expected


def test_an_end_is_told_when_its_unit_is_complete() -> None:
    """A level without latent is told at the last unit of its host, never before: a sampler must know it."""
    batch = collate(tiny.documents(), tiny.model(("sentence",)).layout)
    events = structure_events(batch, 2, EventPlan.of(tiny.DOCUMENT, ["sentence"]).hosts[2])
    sentence, paragraph = batch.levels[2], batch.levels[1]
    assert torch.equal(events[:, 0] > 0, sentence.last)
    assert torch.equal(events[:, 1] != 0, sentence.last)
    assert torch.equal(events[:, 1] > 0, sentence.last & paragraph.last[sentence.parent])


@pytest.fixture(scope="module", params=[tiny.DOCUMENT, tiny.FOUR], ids=["three levels", "four levels"])
def deep(request: pytest.FixtureRequest) -> DocumentVAE:
    return tiny.model(request.param, request.param)


def units_under(batch: DocumentBatch, at: int, unit: int, of: int) -> Tensor:
    """[U_of] whether each unit of level `of` belongs to `unit` of level `at`."""
    return batch.ancestor(of, at) == unit


@pytest.mark.parametrize(
    ("deep", "depth"),
    [(hierarchy, depth) for hierarchy in (tiny.DOCUMENT, tiny.FOUR) for depth in range(len(hierarchy))],
    indirect=["deep"],
)
def test_a_latent_matters_below_it_and_nowhere_else(deep: DocumentVAE, depth: int) -> None:
    """Text: exactly the unit's sentences. Priors: the unit's descendants, and later units that look back."""
    hierarchy = deep.config.hierarchy
    batch = collate(tiny.documents(hierarchy), deep.layout)
    with torch.no_grad():
        before = deep(batch, tiny.NOISE, dict.fromkeys(hierarchy, "mean"))
        unit = len(batch.levels[depth]) // 2
        latents = dict(before.hierarchy.z)
        latents[hierarchy[depth]] = latents[hierarchy[depth]].index_add(
            0, torch.tensor([unit]), torch.full((1, latents[hierarchy[depth]].shape[1]), 3.0)
        )
        after = deep(batch, tiny.NOISE, latents)
    lowest = len(hierarchy) - 1
    text = after.text.token_log_prob != before.text.token_log_prob
    assert torch.equal(text, units_under(batch, depth, unit, lowest)[batch.token_sentence])
    for number, name in enumerate(hierarchy):
        one, other = before.hierarchy.levels[name], after.hierarchy.levels[name]
        changed = (one.prior.mean != other.prior.mean).any(1)
        level = batch.levels[number]
        same_document = level.document == batch.levels[depth].document[unit]
        if number < depth:
            expected = torch.zeros(len(level), dtype=torch.bool)
        elif number == depth:
            expected = same_document & (level.index > batch.levels[depth].index[unit])
        else:
            # From the unit's first descendant on, through itself or through what siblings remember.
            expected = same_document & (batch.ancestor(number, depth) >= unit)
        assert torch.equal(changed, expected), name
        events = (one.structure.logits != other.structure.logits).any(1)
        own = torch.arange(len(level)) == unit if number == depth else torch.zeros_like(expected)
        assert torch.equal(events, (expected | own) & (number > 0)), name


def test_sources_are_per_level(deep: DocumentVAE) -> None:
    """Prior above, posterior below: what is inferred answers to what was drawn above it."""
    hierarchy = deep.config.hierarchy
    batch = collate(tiny.documents(hierarchy), deep.layout)
    with torch.no_grad():
        usual = deep(batch, tiny.NOISE).hierarchy.levels
        drawn = deep(batch, tiny.NOISE, {hierarchy[0]: "prior"}).hierarchy.levels
    top, below = usual[hierarchy[0]], hierarchy[1]
    noise = tiny.NOISE.normal(batch.document_key, hierarchy[0], torch.zeros(len(batch), dtype=torch.long), 6)
    torch.testing.assert_close(drawn[hierarchy[0]].z, noise)
    torch.testing.assert_close(drawn[hierarchy[0]].posterior.mean, top.posterior.mean)
    assert not torch.allclose(drawn[below].posterior.mean, usual[below].posterior.mean)


def test_priors_alone_need_no_encoder(deep: DocumentVAE) -> None:
    batch = collate(tiny.documents(deep.config.hierarchy), deep.layout)
    sources = dict.fromkeys(deep.level_names, "prior")
    with torch.no_grad():
        alone = deep.hierarchy(None, batch, tiny.NOISE, sources)
        beside = deep.hierarchy(deep.features(batch), batch, tiny.NOISE, sources)
    for name in deep.level_names:
        assert torch.equal(alone.z[name], beside.z[name])
        assert alone.levels[name].posterior is None


def test_an_unknown_level_is_named(deep: DocumentVAE) -> None:
    batch = collate(tiny.documents(deep.config.hierarchy), deep.layout)
    with pytest.raises(ValueError, match="no latent level 'verse'"):
        deep(batch, tiny.NOISE, {"verse": "prior"})
