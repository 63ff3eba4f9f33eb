"""The best of several versions: each part is one of them, and the encoder reads it as planned the better the more."""

from collections.abc import Callable, Sequence

import pytest
import torch
from tiny import DOCUMENT

from textvae.text_vae import GeneratedDocument, HierarchicalTextVAE
from textvae.writing.best_of import part_depth, plan_scores, spliced
from textvae.writing.decode import WrittenDocument
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import open_plan

MakeModel = Callable[..., HierarchicalTextVAE]


def write(model: HierarchicalTextVAE, best_of: int, num: int = 3) -> list[GeneratedDocument]:
    options = SamplingOptions(max_sentence_tokens=6, max_children=3, best_of=best_of)
    return model.write([open_plan(model.config.hierarchy)] * num, seed=5, options=options)


def scores(model: HierarchicalTextVAE, written: Sequence[GeneratedDocument]) -> torch.Tensor:
    """[documents] log q of what was planned."""
    depth = part_depth(model)
    return torch.stack([plan_scores(model, document.plan, model.reread(document), depth).sum() for document in written])


@pytest.mark.parametrize("levels", [DOCUMENT, ("document",), ("paragraph",)], ids=str)
def test_more_versions_are_never_worse_where_a_document_is_one_part(
    make_model: MakeModel, levels: tuple[str, ...]
) -> None:
    model = make_model(*levels, context="document")
    found = torch.stack([scores(model, write(model, best_of)) for best_of in (1, 2, 8)])
    assert part_depth(model) == 0
    assert bool((found.diff(dim=0) >= 0).all())
    assert bool((found[2] > found[0]).any())


@pytest.mark.parametrize("context", ["sentence", "paragraph", "document"])
def test_latents_and_what_lies_above_the_parts_do_not_change(make_model: MakeModel, context: str) -> None:
    model = make_model("document", "paragraph", context=context)
    depth = part_depth(model)
    for one, several in zip(write(model, 1), write(model, 6), strict=True):
        assert one.structure[:depth] == several.structure[:depth]
        for name, z in one.plan.z.items():
            torch.testing.assert_close(several.plan.z[name], z, rtol=0, atol=0)
        assert sum(several.structure[-1]) == len(several.sentences)


def test_every_part_is_that_of_the_version_with_the_best_score(make_model: MakeModel) -> None:
    """Sentences that see only themselves: the text is put together of several versions'."""
    model = make_model(*DOCUMENT)
    one, eight = write(model, 1), write(model, 8)
    changed = [a != b for x, y in zip(one, eight, strict=True) for a, b in zip(x.sentences, y.sentences, strict=True)]
    assert 0.4 < sum(changed) / len(changed) <= 1
    assert bool((scores(model, eight) > scores(model, one)).all())


def test_spliced_takes_units_with_all_that_is_under_them() -> None:
    def version(offset: int, second: list[int]) -> WrittenDocument:
        counts = [2, *second]
        sentences = [[offset + n] for n in range(sum(counts))]
        plan = open_plan(("document", "paragraph", "sentence"))
        return WrittenDocument(sentences, [[2], counts], plan)

    found = spliced([version(0, [1]), version(10, [3])], [0, 1], 1)
    assert found.structure == [[2], [2, 3]]
    assert found.sentences == [[0], [1], [12], [13], [14]]
    assert found.plan.structure == found.structure


def test_without_latents_there_is_nothing_to_choose_by(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="of which this model has none"):
        write(make_model(), 2)
