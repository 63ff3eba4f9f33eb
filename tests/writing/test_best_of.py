"""The best of several versions: every part is one of theirs, and the text says what was planned no worse than the
first version alone."""

from collections.abc import Callable, Sequence

import pytest
import torch
from tiny import DOCUMENT

from textvae.model.noise import KeyedNoise
from textvae.text_vae import GeneratedDocument, HierarchicalTextVAE
from textvae.writing.best_of import part_depth, parts_of, plan_scores
from textvae.writing.complete import complete_plans, document_keys
from textvae.writing.decode import write_plans
from textvae.writing.operations import structured
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import open_plan

MakeModel = Callable[..., HierarchicalTextVAE]


def write(model: HierarchicalTextVAE, best_of: int, num: int = 8) -> list[GeneratedDocument]:
    options = SamplingOptions(temperature=1, top_p=1, max_sentence_tokens=6, max_children=3, best_of=best_of)
    return model.write([open_plan(model.config.hierarchy)] * num, seed=5, options=options)


def scores(model: HierarchicalTextVAE, written: Sequence[GeneratedDocument]) -> torch.Tensor:
    """[documents] log q of what was planned."""
    return torch.cat([plan_scores(model, document.plan, [model.reread(document)]) for document in written])


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


@pytest.mark.parametrize("levels", [DOCUMENT, ("document", "sentence"), ("paragraph", "sentence")], ids=str)
def test_parts_are_exchanged_until_the_whole_text_says_the_plan_better(
    make_model: MakeModel, levels: tuple[str, ...]
) -> None:
    """Sentences that see only themselves: the text is put together of several versions'."""
    model = make_model(*levels)
    one, eight = write(model, 1), write(model, 8)
    changed = [a != b for x, y in zip(one, eight, strict=True) for a, b in zip(x.sentences, y.sentences, strict=True)]
    assert 0.3 < sum(changed) / len(changed) <= 1
    gain = scores(model, eight) - scores(model, one)
    assert bool((gain >= 0).all())
    assert float((gain > 0).float().mean()) > 0.5


def test_the_last_part_is_the_version_that_scores_highest_beside_the_others(make_model: MakeModel) -> None:
    model = make_model(*DOCUMENT)
    options = SamplingOptions(max_sentence_tokens=6, best_of=4)
    plan = structured(open_plan(model.config.hierarchy), {"paragraph": [2], "sentence": [2]})
    keys, chosen = document_keys(range(8), model.device), set()
    plans = complete_plans(model, [plan] * 8, keys, KeyedNoise(5), options)
    versions = [write_plans(model, plans, keys, KeyedNoise(5, step=number), options) for number in range(4)]
    for number, best in enumerate(model.write([plan] * 8, seed=5, options=options)):
        *before, last = best.plan.sentences or ()
        lasts = [version[number].sentences[3] for version in versions]
        texts = [model.processor.encode_written(best.structure, [*before, words]) for words in lasts]
        chosen.add(int(plan_scores(model, best.plan, texts).argmax()))
        assert list(last) == lasts[int(plan_scores(model, best.plan, texts).argmax())]
    assert chosen != {0}


@pytest.mark.parametrize(("depth", "counts"), [(0, [[[2], [3, 2]]]), (1, [[[3]], [[2]]]), (2, [[]] * 5)])
def test_parts_are_units_with_all_that_is_under_them(
    make_model: MakeModel, depth: int, counts: list[list[list[int]]]
) -> None:
    model = make_model(*DOCUMENT)
    document = model.process(["The boat moved out. It was late. The wind rose.\n\nIs there soup? There is none."])[0]
    found = parts_of(model, document, depth)
    assert [part.counts for part in found] == counts
    assert [word for part in found for ids in part.sentences for word in ids] == list(document.decoder_ids)
    assert [piece for part in found for ids in part.encoder_ids for piece in ids] == list(document.encoder_ids)
    features = torch.cat([torch.from_numpy(part.features) for part in found])
    torch.testing.assert_close(features, model.sentence_features(model.batch([document])))


def test_without_latents_there_is_nothing_to_choose_by(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="of which this model has none"):
        write(make_model(), 2)
