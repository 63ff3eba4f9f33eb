"""Latent diagnostics against their definitions, computed one document at a time, and on models that are known to
ignore a level."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from comparing import assert_same_numbers
from torch import Tensor

from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.evaluation.diagnostics import LatentReport, latent_diagnostics
from textvae.evaluation.diagnostics.positions import TOKEN_POSITIONS, UNIT_POSITIONS
from textvae.evaluation.diagnostics.statistics import exchange_partners
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE
from textvae.training.objective import ElboTerms, elbo_terms

SEED = 3


def examine(vae: DocumentVAE, members: Sequence[EncodedDocument], **options: Any) -> LatentReport:
    documents = Documents.of(members)
    return latent_diagnostics(vae, documents, SEED, **options)


def terms(vae: DocumentVAE, document: EncodedDocument, sources: dict[str, Any] | None = None) -> ElboTerms:
    batch = tiny.batch_of(vae, [document])
    with torch.no_grad():
        return elbo_terms(vae(batch, KeyedNoise(SEED), sources), batch)


def samples(vae: DocumentVAE, document: EncodedDocument) -> dict[str, Tensor]:
    with torch.no_grad():
        return vae(tiny.batch_of(vae, [document]), KeyedNoise(SEED)).hierarchy.z


def text_and_structure(scored: ElboTerms) -> float:
    return float(scored.distortion_tokens + scored.distortion_structure)


@torch.no_grad()
def ignore(vae: DocumentVAE, name: str) -> None:
    """Cut every way from a level's latents to text, structure and the levels below."""
    level = vae.hierarchy.stack[name]
    size, width = level.latent_size, vae.hierarchy.width
    vae.decoder.conditioner.inputs[name].weight.zero_()
    for read in (level.structure, level.descend):
        if read is not None:
            read[0].weight[:, width : width + size] = 0
    if level.siblings is not None:
        level.previous.weight[:, :size] = 0


@pytest.fixture(scope="module")
def vae() -> DocumentVAE:
    return tiny.model()


@pytest.fixture(scope="module")
def report(vae: DocumentVAE) -> LatentReport:
    return examine(vae, tiny.documents())


# The report against its definitions


def without_message(vae: DocumentVAE, document: EncodedDocument, name: str) -> Tensor:
    """The prior's means of a level given its ancestors' samples, found by going on until they are their own
    prior's means."""
    z = torch.zeros_like(samples(vae, document)[name])
    for _ in range(len(z)):
        with torch.no_grad():
            passed = vae(tiny.batch_of(vae, [document]), KeyedNoise(SEED), {name: z}).hierarchy
        z = passed.levels[name].prior.mean
    return z


def partner_samples(vae: DocumentVAE, members: Sequence[EncodedDocument], number: int, name: str) -> Tensor:
    own, names = samples(vae, members[number])[name], [member.id for member in members]
    other = samples(vae, members[int(exchange_partners(names, names, SEED)[number])])[name]
    return torch.stack([other[unit % len(other)] for unit in range(len(own))])


@pytest.mark.parametrize("name", tiny.DOCUMENT)
def test_a_level_is_left_out_at_its_priors_means(vae: DocumentVAE, report: LatentReport, name: str) -> None:
    """Zeroed: all other samples stay. Payoffs: the levels below are inferred again, and their rates count."""
    below = tiny.DOCUMENT[tiny.DOCUMENT.index(name) + 1 :]
    zeroed, elbo_change, units = 0.0, 0.0, 0
    for document in tiny.documents():
        full, z = terms(vae, document), samples(vae, document)
        mean = without_message(vae, document, name)
        zeroed += text_and_structure(terms(vae, document, z | {name: mean})) - text_and_structure(full)
        left_out = terms(vae, document, {name: mean})
        elbo_change += float(left_out.negative_elbo - left_out.rate[name] - full.negative_elbo)
        units += len(z[name])
    found = report.levels[name]
    assert found.units == units
    assert found.nll_increase_when_zeroed == pytest.approx(zeroed / units, rel=1e-4)
    low, high = found.nll_increase_when_zeroed_interval
    assert low < found.nll_increase_when_zeroed < high
    # Payoff 1 is where the negative ELBO would not change.
    total_rate = found.rate_per_unit * units
    assert (found.payoff_over_prior_mean - 1) * total_rate == pytest.approx(elbo_change, rel=1e-4)
    assert (found.payoff_over_prior_mean * total_rate == pytest.approx(zeroed, rel=1e-4)) == (not below)


@pytest.mark.parametrize("name", tiny.DOCUMENT)
def test_payoff_is_over_a_draw_from_the_prior(vae: DocumentVAE, report: LatentReport, name: str) -> None:
    change, rate = 0.0, 0.0
    for document in tiny.documents():
        full, drawn = terms(vae, document), terms(vae, document, {name: "prior"})
        change += float(drawn.negative_elbo - drawn.rate[name] - (full.negative_elbo - full.rate[name]))
        rate += float(full.rate[name])
    assert report.levels[name].payoff == pytest.approx(change / rate, rel=1e-4)
    assert report.levels[name].rate_per_document == pytest.approx(rate / 4, rel=1e-5)
    assert report.levels[name].payoff != pytest.approx(report.levels[name].payoff_over_prior_mean, rel=1e-2)


@pytest.mark.parametrize("name", tiny.DOCUMENT)
def test_exchanged_latents_cost_what_the_gain_adds_up_to(vae: DocumentVAE, report: LatentReport, name: str) -> None:
    members = tiny.documents()
    text, structure = 0.0, 0.0
    for number, document in enumerate(members):
        z = samples(vae, document)
        exchanged = terms(vae, document, z | {name: partner_samples(vae, members, number, name)})
        full = terms(vae, document)
        text += float(exchanged.distortion_tokens - full.distortion_tokens)
        structure += float(exchanged.distortion_structure - full.distortion_structure)
    found, gain = report.levels[name], report.nll_gain[name]
    assert found.nll_increase_when_shuffled * found.units == pytest.approx(text + structure, rel=1e-4, abs=1e-4)
    assert found.nll_increase_when_shuffled_structure * found.units == pytest.approx(structure, rel=1e-4, abs=1e-4)
    for curve in (gain.by_token_position, gain.by_unit_position):
        total = sum(nats * count for nats, count in zip(curve.nats_per_token, curve.tokens, strict=True))
        assert total == pytest.approx(text, rel=1e-4)
        assert sum(curve.tokens) == report.tokens == sum(document.num_tokens for document in members)


def test_positions_are_counted_by_hand() -> None:
    """One document of 15 sentences, the first longer than all positions; another of two short ones."""
    lengths = [40, *[2] * 14]
    long = tiny.encoded("long", [[15]], [[5] * length for length in lengths])
    short = tiny.encoded("short", [[2]], [[6, 7], [8]])
    vae = tiny.model(("document", "sentence"), ("document", "sentence"))
    report = examine(vae, [long, short]).to_json()
    gain = report["nll_gain"]["sentence"]
    # Sentence ends are tokens: 41 in the first sentence, then 14 of 3, one of 3 and one of 2.
    by_token = gain["by_token_position"]
    assert by_token["position"] == list(range(TOKEN_POSITIONS + 1)) == list(range(33))
    assert by_token["tokens"] == [17, 17, 16, *[1] * 29, 41 - 32]
    by_unit = gain["by_unit_position"]
    assert by_unit["level"] == "sentence"
    assert by_unit["position"] == list(range(UNIT_POSITIONS + 1)) == list(range(13))
    assert by_unit["tokens"] == [41 + 3, 3 + 2, *[3] * 10, 3 * 3]
    assert len(by_unit["nats_per_token"]) == len(by_unit["position"])


def test_the_position_is_that_of_the_unit_just_below_the_root(vae: DocumentVAE) -> None:
    """Whichever level the latents are of: paragraphs of one and two sentences, and of one."""
    members = [tiny.encoded("two", [[2], [1, 2]], [[5], [6, 7], [8]]), tiny.encoded("one", [[1], [1]], [[9] * 4])]
    for gain in examine(vae, members).to_json()["nll_gain"].values():
        by_unit = gain["by_unit_position"]
        assert (by_unit["level"], by_unit["position"], by_unit["tokens"]) == ("paragraph", [0, 1], [2 + 5, 3 + 2])


def test_without_a_unit_below_the_root_there_is_no_curve_by_unit() -> None:
    flat = tiny.model(("document",), ("document",))
    members = tiny.documents(("document",))
    report = examine(flat, members)
    assert set(report.to_json()["nll_gain"]["document"]) == {"by_token_position"}
    curve = report.nll_gain["document"].by_token_position
    # There is no structure either: the increase is all text.
    total = sum(nats * count for nats, count in zip(curve.nats_per_token, curve.tokens, strict=True))
    assert report.levels["document"].nll_increase_when_shuffled == pytest.approx(total / 4, rel=1e-6)


@pytest.mark.parametrize("name", tiny.DOCUMENT)
def test_the_spectrum_is_that_of_all_units_together(vae: DocumentVAE, report: LatentReport, name: str) -> None:
    departures = []
    for document in tiny.documents():
        with torch.no_grad():
            level = vae(tiny.batch_of(vae, [document]), KeyedNoise(SEED)).hierarchy.levels[name]
        departures.append((level.posterior.mean - level.prior.mean) / level.prior.std)
    expected = np.sort(torch.cat(departures).double().numpy().var(axis=0))[::-1]
    assert report.levels[name].variance_spectrum == pytest.approx(expected.tolist(), rel=1e-4)
    assert report.levels[name].dims == len(expected)


# Models of known behaviour


@pytest.mark.parametrize("name", tiny.DOCUMENT)
def test_a_level_that_nothing_listens_to_gains_nothing(name: str) -> None:
    vae = tiny.model()
    ignore(vae, name)
    report = examine(vae, tiny.documents())
    for other, level in report.levels.items():
        increases = (level.nll_increase_when_shuffled, level.nll_increase_when_zeroed)
        payoffs = (level.payoff, level.payoff_over_prior_mean)
        gains = report.nll_gain[other]
        by_position = [*gains.by_token_position.nats_per_token, *gains.by_unit_position.nats_per_token]
        if other == name:
            assert level.rate_per_unit > 0.1
            assert [*increases, *payoffs, *by_position] == pytest.approx([0.0] * (4 + len(by_position)), abs=1e-5)
        else:
            assert all(abs(value) > 1e-3 for value in (*increases, *payoffs))
            assert max(map(abs, by_position)) > 1e-3


def test_a_collapsed_level_has_no_payoff() -> None:
    vae = tiny.model(("document",))
    level = vae.hierarchy.stack["document"]
    with torch.no_grad():
        for parameter in (*level.posterior[-1].parameters(), level.linear.weight):
            parameter.zero_()
    found = examine(vae, tiny.documents()).levels["document"]
    assert (found.rate_per_unit, found.payoff, found.payoff_over_prior_mean) == (0, None, None)
    assert (found.active_units, found.active_units_marginal) == (0, 0), "samples vary, means do not"
    assert found.mutual_information == pytest.approx(0, abs=1e-9)


def test_no_number_depends_on_the_batches(vae: DocumentVAE, report: LatentReport) -> None:
    alone = examine(vae, tiny.documents(), batch_tokens=1)
    assert_same_numbers(report.to_json(), alone.to_json(), rel=1e-4, abs=1e-6)


def test_no_number_depends_on_the_order_of_the_documents(vae: DocumentVAE, report: LatentReport) -> None:
    """Nor on who exchanges latents with whom: the circle is of ids."""
    turned = examine(vae, tiny.documents()[::-1])
    assert_same_numbers(report.to_json(), turned.to_json(), rel=1e-4, abs=1e-6)


def test_sentences_are_read_once(vae: DocumentVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pretrained encoder is the dearest part of a pass."""
    read: list[int] = []
    features = vae.sentence_features
    monkeypatch.setattr(vae, "sentence_features", lambda batch: read.append(len(batch)) or features(batch))
    examine(vae, tiny.documents(), batch_tokens=1)
    assert read == [1, 1, 1, 1]


def test_what_cannot_be_examined_is_said(vae: DocumentVAE) -> None:
    with pytest.raises(ValueError, match="plain language model has no latents"):
        examine(tiny.model(()), tiny.documents())
    with pytest.raises(ValueError, match="the data hold 1 source"):
        examine(vae, tiny.documents()[:1])
