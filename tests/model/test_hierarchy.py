from collections import Counter

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from textvae.data.batch import DocumentBatch, UnitLevel
from textvae.data.collate import collate
from textvae.model.structure import StopHeads, child_counts, parents, stop_labels
from textvae.model.vae import DocumentVAE


def scored_ends(batch: DocumentBatch, heads: StopHeads) -> Counter[tuple[int, int, bool]]:
    """(depth, unit, whether it ends its parent) of every end that some part of the model scores."""
    lowest = len(batch.levels) - 1
    found: Counter[tuple[int, int, bool]] = Counter()
    for depth, predicted in [*heads.by_level.items(), (lowest, heads.decoder)]:
        labels = stop_labels(batch, depth, predicted)
        for column, above in enumerate(predicted):
            units = batch.ancestor(depth, above)
            for unit, label in zip(units.tolist(), labels[:, column].tolist(), strict=True):
                if label:
                    found[above, unit, label > 0] += 1
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
    """Also the last of a parent's parents: all models score the same ends, so their likelihoods compare."""
    batch = collate(tiny.documents(hierarchy), tiny.model((), hierarchy).layout)
    expected = {
        (depth, unit, bool(last)): 1
        for depth, level in enumerate(batch.levels)
        for unit, last in enumerate(level.last.tolist())
        if depth
    }
    assert scored_ends(batch, StopHeads.of(hierarchy, levels)) == expected


def test_an_end_is_predicted_when_its_unit_is_complete() -> None:
    """That of a level without latent at its last unit, never before: a sampler must know it."""
    batch = collate(tiny.documents(), tiny.model(("sentence",)).layout)
    labels = stop_labels(batch, 2, StopHeads.of(tiny.DOCUMENT, ["sentence"]).by_level[2])
    sentence, paragraph = batch.levels[2], batch.levels[1]
    assert torch.equal(labels[:, 0] > 0, sentence.last)
    assert torch.equal(labels[:, 1] != 0, sentence.last)
    assert torch.equal(labels[:, 1] > 0, sentence.last & paragraph.last[sentence.parent])


def test_flags_and_numbers_of_children_say_the_same() -> None:
    batch = collate(tiny.documents(tiny.FOUR), tiny.model((), tiny.FOUR).layout)
    for depth in range(1, 4):
        counts = child_counts(batch.levels[depth].last)
        stored = [count for document in tiny.documents(tiny.FOUR) for count in document.structure[depth - 1]]
        assert counts.tolist() == stored
        assert torch.equal(parents(counts), batch.levels[depth].parent)


def side_by_side(units: UnitLevel, num_documents: int) -> Tensor:
    """[B, longest] unit of every document in reading order; a document that has ended stays at its last unit."""
    longest = int(units.index.max()) + 1
    return torch.stack(
        [
            torch.cat([rows, rows[-1:].expand(longest - len(rows))])
            for rows in ((units.document == document).nonzero().flatten() for document in range(num_documents))
        ]
    )


@pytest.mark.parametrize("prior", ["autoregressive", "independent"])
@pytest.mark.parametrize(("hierarchy", "levels"), [case for case in tiny.depths() if case[1]], ids=str)
def test_a_state_stepped_over_a_batch_is_the_parallel_pass(
    hierarchy: tuple[str, ...], levels: tuple[str, ...], prior: str
) -> None:
    """Level after level, documents of different sizes side by side: priors, stop logits and who is done."""
    vae = tiny.model(levels, hierarchy, level_options={"prior": prior})
    batch = collate(tiny.documents(hierarchy), vae.layout)
    z = {
        name: torch.randn(len(batch.levels[hierarchy.index(name)]), level.latent_size)
        for name, level in vae.hierarchy.stack.items()
    }
    with torch.no_grad():
        passed = vae.hierarchy(None, batch, tiny.NOISE, z)
        state = vae.hierarchy.start(len(batch), vae.device)
        for name, level in passed.levels.items():
            units = batch.levels[hierarchy.index(name)]
            for index, rows in enumerate(side_by_side(units, len(batch)).unbind(dim=1)):
                here = units.index[rows] == index
                assert torch.equal(state.is_open(name), here)
                stepped = state.prior(name)
                same(stepped.mean[here], level.prior.mean[rows][here])
                same(stepped.log_variance[here], level.prior.log_variance[rows][here])
                same(state.stop_logits(name, z[name][rows])[here], level.structure.logits[rows][here])
                state.commit(name, z[name][rows], level.structure.labels[rows])
            assert not state.is_open(name).any()


@pytest.mark.parametrize(("hierarchy", "levels"), [case for case in tiny.depths() if case[1]], ids=str)
def test_a_state_read_in_order_by_chosen_copies_is_the_parallel_pass(
    hierarchy: tuple[str, ...], levels: tuple[str, ...]
) -> None:
    """All levels together, as particles go: whoever survives, history and ancestors come along."""
    vae = tiny.model(levels, hierarchy)
    batch = collate(tiny.documents(hierarchy)[2:3], vae.layout)
    lowest = len(hierarchy) - 1
    z = {name: torch.randn(4, len(batch.levels[hierarchy.index(name)]), 3) for name in levels}
    state = vae.hierarchy.start(4, vae.device)
    history = torch.arange(4)
    with torch.no_grad():
        z = {name: F.pad(values, (0, vae.hierarchy.stack[name].latent_size - 3)) for name, values in z.items()}
        passed = [
            vae.hierarchy(None, batch, tiny.NOISE, {name: values[copy] for name, values in z.items()}).levels
            for copy in range(4)
        ]
        for sentence in range(len(batch.levels[lowest])):
            for name in levels:
                unit = batch.ancestor(lowest, hierarchy.index(name))
                if sentence and unit[sentence] == unit[sentence - 1]:
                    continue
                here = int(unit[sentence])
                expected = torch.stack([passed[copy][name].prior.mean[here] for copy in history.tolist()])
                same(state.prior(name).mean, expected)
                logits = state.stop_logits(name, z[name][history, here])
                same(logits, torch.stack([passed[copy][name].structure.logits[here] for copy in history.tolist()]))
                state.commit(name, z[name][history, here], passed[0][name].structure.labels[here].expand(4, -1))
            chosen = torch.tensor([[0, 1, 2, 3], [3, 0, 2, 1], [1, 1, 0, 2]][sentence % 3])
            state, history = state.select(chosen), history[chosen]
    assert not any(state.is_open(name).any() for name in levels)


def test_levels_may_be_walked_in_any_order_that_has_ancestors_first() -> None:
    """Two paragraphs, the first one's sentences, the third paragraph, the other sentences."""
    vae = tiny.model()
    batch = collate(tiny.documents()[2:3], vae.layout)
    order = ["document", *["paragraph"] * 2, *["sentence"] * 2, "paragraph", *["sentence"] * 6]
    state, next_unit = vae.hierarchy.start(1, vae.device), Counter[str]()
    with torch.no_grad():
        passed = vae.hierarchy(None, batch, tiny.NOISE, dict.fromkeys(tiny.DOCUMENT, "prior")).levels
        for name in order:
            unit = slice(next_unit[name], next_unit[name] + 1)
            same(state.prior(name).mean, passed[name].prior.mean[unit])
            state.commit(name, passed[name].z[unit], passed[name].structure.labels[unit])
            next_unit[name] += 1
    assert not state.is_open("sentence").any()


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


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
