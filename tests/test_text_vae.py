from collections.abc import Callable

import pytest
import torch
from tiny import DOCUMENT, subsets

from textvae.data.document import SourceDocument
from textvae.model.noise import KeyedNoise
from textvae.text_vae import HierarchicalTextVAE
from textvae.writing.operations import resample, written_anew, zoom
from textvae.writing.options import SamplingOptions

TEXTS = [
    "The harbour lay quiet. A single boat moved out.\n\nOld Marta watched it. Nobody had asked her to leave.",
    "In the afternoon the wind rose.",
    "At midnight a light was seen.\n\nIt was the boat.\n\nIs there soup? Everybody laughed.",
]
SHORT = SamplingOptions(max_sentence_tokens=6, max_children=3)
Make = Callable[..., HierarchicalTextVAE]


@pytest.fixture(scope="module")
def model(make_model: Make) -> HierarchicalTextVAE:
    return make_model(*DOCUMENT)


def test_every_unit_of_every_text_has_a_latent(model: HierarchicalTextVAE) -> None:
    z = model.encode(TEXTS)
    documents = model.process(TEXTS)
    assert list(z) == list(DOCUMENT)
    for number, document in enumerate(documents):
        counts = (1, *(sum(row) for row in document.structure))
        assert [len(level.of(number)) for level in z.values()] == list(counts)


def test_a_text_has_the_same_latents_in_any_company(model: HierarchicalTextVAE) -> None:
    together = model.encode(TEXTS)
    for number, text in enumerate(TEXTS):
        for name, level in model.encode([text]).items():
            torch.testing.assert_close(together[name].of(number), level.mean, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together["document"].mean[0], together["document"].mean[1])


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_of_any_size_give_the_same_latents_in_the_same_order(
    model: HierarchicalTextVAE, batch_size: int
) -> None:
    for name, whole in model.encode(TEXTS).items():
        part = model.encode(TEXTS, batch_size=batch_size)[name]
        assert torch.equal(part.document, whole.document)
        torch.testing.assert_close(part.mean, whole.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(part.log_variance, whole.log_variance, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="batch_size is 0"):
        model.encode(TEXTS, batch_size=0)


@pytest.mark.parametrize("levels", subsets(DOCUMENT), ids=str)
def test_a_reconstruction_keeps_the_structure(make_model: Make, levels: tuple[str, ...]) -> None:
    vae, greedy = make_model(*levels), SamplingOptions(temperature=0, max_sentence_tokens=12)
    for text in TEXTS:
        plan = written_anew(vae.plan(text))
        rebuilt, again = (vae.write([plan], seed=seed, options=greedy)[0] for seed in (0, 1))
        assert rebuilt == again
        assert rebuilt.structure == vae.process([text])[0].structure
        assert len(rebuilt.text.split("\n\n")) <= sum(rebuilt.structure[0])


@pytest.mark.parametrize("levels", [DOCUMENT, ("document",), ("sentence",)], ids=str)
def test_a_resampled_text_keeps_what_lies_above(make_model: Make, levels: tuple[str, ...]) -> None:
    vae = make_model(*levels)
    paragraphs = vae.process(TEXTS[:1])[0].structure[0]
    plan = resample(vae.plan(TEXTS[0]), "sentence")
    variations = vae.write([plan] * 3, seed=1, options=SHORT)
    assert all(variation.structure[0] == paragraphs for variation in variations)
    assert len({variation.text for variation in variations}) == 3
    assert vae.write([plan] * 3, seed=1, options=SHORT) == variations
    if "document" in levels:
        assert torch.equal(plan.z["document"], vae.encode(TEXTS[:1])["document"].mean)
        assert "sentence" not in plan.z


@pytest.mark.parametrize("levels", [DOCUMENT, ()], ids=str)
def test_a_plan_holds_a_text_to_the_letter(make_model: Make, levels: tuple[str, ...]) -> None:
    vae = make_model(*levels)
    for text in TEXTS:
        (written,) = vae.write([vae.plan(text)], options=SHORT)
        assert written.text == vae.process([text])[0].text()


def test_a_theme_is_held_and_texts_differ(model: HierarchicalTextVAE) -> None:
    theme = model.encode(TEXTS)["document"].mean[0]
    texts = [document.text for document in model.generate(theme, num=3, options=SHORT)]
    assert len(set(texts)) == 3
    assert texts == [document.text for document in model.generate(theme, num=3, options=SHORT)]
    assert texts != [document.text for document in model.generate(theme, num=3, seed=1, options=SHORT)]
    assert texts != [document.text for document in model.generate(10 - theme, num=3, options=SHORT)]


def test_a_text_is_read_under_another_theme(model: HierarchicalTextVAE) -> None:
    """q(z of paragraphs and sentences | one text, the document latent of another), by the parallel pass."""
    theme = zoom(model.plan(TEXTS[1]), "document")
    plan = model.plan(TEXTS[0], under=theme)
    batch = model.batch(model.process(TEXTS[:1]))
    with torch.no_grad():
        sources = {"document": theme.z["document"], "paragraph": "mean", "sentence": "mean"}
        passed = model.hierarchy(model.features(batch), batch, KeyedNoise(0), sources)
    assert torch.equal(plan.z["document"], theme.z["document"])
    for name in ("paragraph", "sentence"):
        torch.testing.assert_close(plan.z[name], passed.levels[name].posterior.mean)
        assert not torch.allclose(plan.z[name], model.plan(TEXTS[0]).z[name], atol=1e-3)
    assert plan.structure == model.plan(TEXTS[0]).structure
    with pytest.raises(ValueError, match="have 3 and 2 units at level 'paragraph'"):
        model.plan(TEXTS[0], under=zoom(model.plan(TEXTS[2]), "paragraph"))


def test_paragraphs_are_separated_by_blank_lines(model: HierarchicalTextVAE) -> None:
    written = model.generate(num=5, options=SHORT)
    assert max(len(document.structure[1]) for document in written) > 1
    for document in written:
        assert len(document.text.split("\n\n")) == len(document.structure[1])
        assert len(document.sentences) == sum(document.structure[1])


def test_a_theme_needs_a_top_latent(make_model: Make) -> None:
    with pytest.raises(ValueError, match="level 'document'"):
        make_model("sentence").generate(torch.zeros(8))


def test_an_unknown_level_is_named(model: HierarchicalTextVAE) -> None:
    with pytest.raises(ValueError, match="no level 'verse'"):
        resample(model.plan(TEXTS[0]), "verse")


def test_a_text_without_a_sentence_is_named(model: HierarchicalTextVAE) -> None:
    with pytest.raises(ValueError, match="'empty' has no sentence"):
        model.encode([SourceDocument(id="empty", text=" \n ")])
