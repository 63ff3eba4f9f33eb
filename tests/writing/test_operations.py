"""Operations on plans, and that what is held stays while the rest is drawn."""

import pytest
import tiny
import torch
from torch import Tensor

from textvae.model.vae import DocumentVAE
from textvae.writing.decode import WrittenDocument, write_documents
from textvae.writing.operations import combine, interpolate, keep, mix, resample, theme, zoom
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import DocumentPlan, open_plan, plan_of

SHORT = SamplingOptions(max_sentence_tokens=4, max_children=3)
FIVE = [[2], [3, 2]]


def source(structure: list[list[int]] = FIVE, seed: int = 0) -> DocumentPlan:
    """All held: random latents, and sentences of one token each, 3, 4, 5 and so on."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"document": (1, 6), "paragraph": (structure[0][0], 5), "sentence": (sum(structure[1]), 4)}
    z = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    return plan_of(z, structure, tiny.DOCUMENT, [[3 + number] for number in range(sum(structure[1]))])


def write(vae: DocumentVAE, *plans: DocumentPlan, options: SamplingOptions = SHORT) -> list[WrittenDocument]:
    return write_documents(vae, plans, options, seed=0)


def is_in(values: Tensor, rows: Tensor) -> list[bool]:
    return [any(torch.equal(value, row) for row in rows) for value in values]


@pytest.mark.parametrize("context", tiny.DOCUMENT)
def test_a_kept_paragraph_stays_to_the_letter_and_the_others_are_new(context: str) -> None:
    plan = source()
    first, second = write(tiny.model(context=context, context_tokens=6), *[keep(plan, [("paragraph", 1)])] * 2)
    assert first.sentences != second.sentences
    for written in (first, second):
        assert written.structure[0] == [2]
        assert written.structure[1][1] == 2
        assert written.sentences[-2:] == [[6], [7]]
        assert torch.equal(written.plan.z["document"], plan.z["document"])
        assert is_in(written.plan.z["paragraph"], plan.z["paragraph"]) == [False, True]
        assert is_in(written.plan.z["sentence"], plan.z["sentence"]) == [False] * written.structure[1][0] + [True] * 2
    assert not torch.equal(first.plan.z["paragraph"][0], second.plan.z["paragraph"][0])


def test_a_kept_sentence_keeps_its_place() -> None:
    (written,) = write(tiny.model(context="document"), keep(source(), [("sentence", 1)]))
    assert written.structure[1][0] == 3
    assert written.sentences[1] == [4]
    assert is_in(written.plan.z["sentence"], source().z["sentence"]).count(True) == 1
    assert is_in(written.plan.z["paragraph"], source().z["paragraph"]) == [True, False]


@pytest.mark.parametrize("levels", tiny.subsets(tiny.DOCUMENT), ids=str)
def test_units_can_be_kept_whatever_levels_have_latents(levels: tuple[str, ...]) -> None:
    whole = source()
    z = {name: whole.z[name] for name in levels}
    plan = plan_of(z, FIVE, tiny.DOCUMENT, whole.sentences)
    for seed in range(4):
        kept = keep(plan, [("paragraph", 1), ("sentence", 0)])
        (written,) = write_documents(tiny.model(levels, context="document"), [kept], SHORT, seed)
        assert written.structure == FIVE
        assert written.sentences[0] == [3]
        assert written.sentences[3:] == [[6], [7]]
        assert written.sentences[1:3] != [[4], [5]]


@pytest.mark.parametrize("unit", [("paragraph", 2), ("sentence", 5), ("paragraph", -1)])
def test_a_unit_that_is_not_there_cannot_be_kept(unit: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=f"there is no {unit[0]} {unit[1] + 1} to keep: the document has"):
        keep(source(), [unit])
    with pytest.raises(ValueError, match="no level 'verse'"):
        keep(source(), [("verse", 0)])


def test_zoom_holds_down_to_a_level_and_resample_opens_from_one() -> None:
    plan = source()
    for held, opened in zip(tiny.DOCUMENT, [*tiny.DOCUMENT[1:], None], strict=True):
        zoomed = zoom(plan, held)
        assert list(zoomed.z) == list(tiny.DOCUMENT[: tiny.DOCUMENT.index(held) + 1])
        assert zoomed.sentences is None
        if opened is not None:
            assert zoomed.structure == resample(plan, opened).structure
    assert zoom(plan, "document").structure == [[0], []]
    assert zoom(plan, "paragraph").structure == [[2], [0, 0]]
    assert zoom(plan, "sentence").structure == FIVE
    assert not resample(plan, "document").z


def test_interpolation_and_arithmetic_are_those_of_the_latents() -> None:
    a, b, c = source(seed=1), source([[2], [1, 1]], seed=2), source([[2], [2, 3]], seed=3)
    for level in ("document", "paragraph"):
        assert torch.equal(interpolate(a, b, 0.0, level).z[level], a.z[level])
        assert torch.equal(interpolate(a, b, 1.0, level).z[level], b.z[level])
        torch.testing.assert_close(interpolate(a, b, 0.25, level).z[level], 0.75 * a.z[level] + 0.25 * b.z[level])
        sums = mix([a, b, c], [1, -1, 0.5], level)
        torch.testing.assert_close(sums.z[level], a.z[level] - b.z[level] + 0.5 * c.z[level])
        assert sums.structure == zoom(a, level).structure
        assert sums.sentences is None
    assert torch.equal(interpolate(a, b, 0.5, "paragraph").z["document"], a.z["document"])
    with pytest.raises(ValueError, match="have 5 and 2 units at level 'sentence'"):
        interpolate(a, b, 0.5, "sentence")
    with pytest.raises(ValueError, match="5, 2 and 5 units"):
        mix([a, b, c], [1, -1, 1], "sentence")
    for weights in ([1.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="they must be 2 numbers, one for each document"):
            mix([a, b], weights, "document")
    with pytest.raises(ValueError, match="no latent level 'verse'"):
        interpolate(a, b, 0.5, "verse")


def test_levels_of_different_documents_are_combined() -> None:
    one, other = source(seed=1), source([[2], [1, 4]], seed=2)
    both = combine(one, other, "paragraph")
    assert torch.equal(both.z["document"], one.z["document"])
    assert all(torch.equal(both.z[name], other.z[name]) for name in ("paragraph", "sentence"))
    assert both.structure == other.structure
    with pytest.raises(ValueError, match="2 and 1 units at level 'paragraph'"):
        combine(one, source([[1], [2]]), "sentence")


def test_a_written_document_can_be_worked_on() -> None:
    """Its plan is whole: all held, it writes the same again, and a part of it can be kept."""
    vae = tiny.model(context="document")
    (first,) = write(vae, open_plan(tiny.DOCUMENT))
    plan = plan_of(first.plan.z, first.structure, tiny.DOCUMENT, first.plan.sentences)
    assert write(vae, plan)[0].sentences == first.sentences
    last = len(first.structure[1]) - 1
    (second,) = write_documents(vae, [keep(plan, [("paragraph", last)])], SHORT, seed=1)
    count = first.structure[1][last]
    assert second.sentences[-count:] == first.sentences[-count:]


def test_parts_of_different_documents_are_no_plan() -> None:
    plan = source()
    with pytest.raises(ValueError, match="lists 2 units at level 'paragraph', and latents of 3"):
        plan_of(plan.z | {"paragraph": torch.zeros(3, 5)}, FIVE, tiny.DOCUMENT)
    with pytest.raises(ValueError, match="lists 2 units at level 'paragraph', and numbers of children of 1"):
        plan_of({}, [[2], [3]], tiny.DOCUMENT)
    with pytest.raises(ValueError, match="holds 1 sentences"):
        plan_of({}, FIVE, tiny.DOCUMENT, [[3]])
    with pytest.raises(ValueError, match="size 6 in this model"):
        write(tiny.model(), theme(torch.zeros(7), tiny.DOCUMENT))
