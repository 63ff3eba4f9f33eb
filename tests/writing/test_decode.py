from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO

import pytest
import tiny
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import Cache

from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE
from textvae.writing.complete import complete_plans, document_keys
from textvae.writing.decode import WrittenDocument, _Writer, write_documents
from textvae.writing.operations import resample, theme
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import DocumentPlan, open_plan, plan_of

PLAIN = SamplingOptions(temperature=1, top_p=1)
"""Tokens as the model has them."""
SHORT = replace(PLAIN, max_sentence_tokens=4, max_children=3)
SHORTER = replace(PLAIN, max_sentence_tokens=3, max_children=2)
CASES = [
    (hierarchy, levels, context)
    for hierarchy, levels in tiny.depths()
    for context in (hierarchy[0], hierarchy[-2], hierarchy[-1])
]


def write(
    vae: DocumentVAE, plans: Sequence[DocumentPlan], seed: int, options: SamplingOptions
) -> list[WrittenDocument]:
    return write_documents(vae, plans, options, seed)


def complete(vae: DocumentVAE, plans: Sequence[DocumentPlan], options: SamplingOptions) -> list[DocumentPlan]:
    return complete_plans(vae, plans, document_keys(range(len(plans)), vae.device), KeyedNoise(0), options)


def nothing(vae: DocumentVAE, num: int = 1) -> list[DocumentPlan]:
    return [open_plan(vae.config.hierarchy)] * num


def source_plan(vae: DocumentVAE, level: str | None) -> DocumentPlan:
    """Latents and structure of a document of the text, kept above `level`."""
    member = tiny.documents(vae.config.hierarchy)[0]
    with torch.no_grad():
        z = vae(tiny.batch_of(vae, [member]), tiny.NOISE).hierarchy.z
    plan = plan_of(z, member.structure, vae.config.hierarchy)
    return plan if level is None else resample(plan, level)


def assert_consistent(vae: DocumentVAE, written: WrittenDocument, options: SamplingOptions) -> None:
    counts = [[1], *written.structure]
    assert len(counts) == len(vae.config.hierarchy)
    for above, below in zip(counts, [*counts[1:], written.sentences], strict=True):
        assert sum(above) == len(below)
        assert all(count >= 1 for count in above)
    assert all(len(words) <= options.max_sentence_tokens for words in written.sentences)
    assert not any(vae.layout.end_id in words for words in written.sentences)


@pytest.fixture(scope="module", params=CASES, ids=str)
def vae(request: pytest.FixtureRequest) -> DocumentVAE:
    """Of every hierarchy, choice of latent levels and width of context; it is only read."""
    hierarchy, levels, context = request.param
    return tiny.model(levels, hierarchy, context=context, context_tokens=6)


def test_what_is_written_is_a_document(vae: DocumentVAE) -> None:
    options = SamplingOptions(max_sentence_tokens=4, max_children=2, batch_tokens=24)
    first = write(vae, nothing(vae, 4), 0, options)
    for written in first:
        assert_consistent(vae, written, options)
        assert max(count for row in written.structure for count in row) <= 2
    assert write(vae, nothing(vae, 4), 0, options) == first, "the seed decides"
    assert write(vae, nothing(vae, 4), 1, options) != first


def test_a_given_structure_is_kept(vae: DocumentVAE) -> None:
    """All of it when nothing is resampled, else what lies above the level; also where no latent tells it."""
    hierarchy = vae.config.hierarchy
    structure = tiny.documents(hierarchy)[0].structure
    (written,) = write(vae, [source_plan(vae, None)], 0, SHORT)
    assert written.structure == structure
    for number in range(1, len(hierarchy)):
        for written in write(vae, [source_plan(vae, hierarchy[number])] * 3, 0, SHORT):
            assert written.structure[: number - 1] == structure[: number - 1]
            assert_consistent(vae, written, SHORT)


@pytest.mark.parametrize("levels", tiny.subsets(tiny.DOCUMENT), ids=str)
def test_a_unit_is_ended_after_the_most_children(levels: tuple[str, ...]) -> None:
    """It alone: a full paragraph does not end its document."""
    vae = tiny.model(levels)
    for name, module in vae.named_modules():
        if name.endswith("structure"):
            last = module[-1] if isinstance(module, torch.nn.Sequential) else module
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.constant_(last.bias, -50.0)
    (written,) = write(vae, nothing(vae), 0, SHORT)
    assert written.structure == [[3], [3, 3, 3]]


def test_a_held_latent_stays_and_the_rest_varies() -> None:
    vae = tiny.model()
    held = torch.randn(6, generator=torch.Generator().manual_seed(5))
    plans = complete(vae, [theme(held, tiny.DOCUMENT)] * 3, SHORT)
    assert all(torch.equal(plan.z["document"][0], held) for plan in plans)
    below = [plan.z["paragraph"][0] for plan in plans]
    assert not torch.equal(below[0], below[1])


def test_greedy_text_of_the_same_plan_is_the_same() -> None:
    vae = tiny.model()
    options = SamplingOptions(temperature=0, max_sentence_tokens=5)
    assert write(vae, [source_plan(vae, None)], 0, options) == write(vae, [source_plan(vae, None)], 1, options)


def test_latent_temperature_zero_takes_the_prior_means() -> None:
    vae = tiny.model(("document",))
    (plan,) = complete(vae, nothing(vae), SamplingOptions(latent_temperature=0))
    assert not plan.z["document"].any()


def test_a_level_has_a_latent_temperature_of_its_own() -> None:
    """Every level's departure from its prior's mean, in standard deviations, is its temperature times the noise."""
    vae = tiny.model()
    given = {"document": 0.5, "sentence": 0.0}
    (plan,) = complete(vae, nothing(vae), SamplingOptions(latent_temperature=given, max_children=3))
    batch = tiny.batch_of(vae, [tiny.document("any", *plan.structure)])
    with torch.no_grad():
        passed = vae.hierarchy(None, batch, tiny.NOISE, plan.z)
    keys = document_keys([0], vae.device)
    for name, temperature in (("document", 0.5), ("paragraph", 1.0), ("sentence", 0.0)):
        prior = passed.levels[name].prior
        units = torch.arange(len(prior.mean))
        noise = KeyedNoise(0).normal(keys.expand(len(units)), name, units, prior.mean.shape[1])
        torch.testing.assert_close(plan.z[name], prior.sample(temperature * noise), atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="latent_temperature names 'verse', but the model has latents at levels"):
        complete(vae, nothing(vae), SamplingOptions(latent_temperature={"verse": 1.0}))


@pytest.mark.parametrize("prior", ["autoregressive", "independent"])
@pytest.mark.parametrize(
    ("hierarchy", "levels"), [case for case in tiny.depths() if case[1]] + [(tiny.FOUR, ("book", "paragraph"))], ids=str
)
def test_latents_are_drawn_from_the_priors_of_the_parallel_pass(
    hierarchy: tuple[str, ...], levels: tuple[str, ...], prior: str
) -> None:
    """Without noise every latent is its prior's mean, given all that was drawn above and before it."""
    vae = tiny.model(levels, hierarchy, level_options={"prior": prior})
    options = SamplingOptions(latent_temperature=0, max_children=3)
    plans = complete(vae, nothing(vae, 12), options)
    planned = range(hierarchy.index(levels[-1]))
    for plan in plans:
        structure = [plan.structure[depth] for depth in planned]
        while len(structure) < len(hierarchy) - 1:
            structure.append([1] * (sum(structure[-1]) if structure else 1))
        with torch.no_grad():
            passed = vae.hierarchy(None, tiny.batch_of(vae, [tiny.document("any", *structure)]), tiny.NOISE, plan.z)
        for name, level in passed.levels.items():
            torch.testing.assert_close(plan.z[name], level.prior.mean, atol=1e-4, rtol=1e-3)
    assert len({str(plan.structure) for plan in plans}) > 1 or not planned


@pytest.mark.parametrize("context", tiny.DOCUMENT)
@pytest.mark.parametrize("levels", [(), ("document",), ("paragraph",), tiny.DOCUMENT], ids=str)
def test_the_greedy_word_is_the_most_probable(levels: tuple[str, ...], context: str) -> None:
    """By the scores of the parallel pass, in which every other word is put in its place."""
    vae = tiny.model(levels, vocabulary=6, context=context, context_tokens=5, seed=2)
    with torch.no_grad():  # or what stands before would hardly ever change the best word
        for block in vae.decoder.backbone.transformer.h:
            block.attn.c_proj.weight.mul_(20)
    options = SamplingOptions(temperature=0, max_sentence_tokens=3)
    generator = torch.Generator().manual_seed(4)
    sizes = {"document": (1, 6), "paragraph": (2, 5), "sentence": (5, 4)}
    z = {name: torch.randn(sizes[name], generator=generator) for name in levels}
    plan = plan_of(z, [[2], [3, 2]], tiny.DOCUMENT)
    (written,) = write(vae, [plan], 4, options)
    places = [(s, i) for s, words in enumerate(written.sentences) for i in range(len(words))]
    members = []
    for s, i in places:
        for word in range(6):
            sentences = [list(words) for words in written.sentences]
            sentences[s][i] = word
            members.append(tiny.encoded(f"{s}, {i}: {word}", written.structure, sentences))
    batch = tiny.batch_of(vae, members)
    with torch.no_grad():
        output = vae(batch, tiny.NOISE, {name: z.repeat(len(members), 1) for name, z in plan.z.items()})
    tokens = output.text.token_log_prob.view(len(places), 6, -1)
    starts = [sum(len(words) + 1 for words in written.sentences[:s]) for s in range(len(written.sentences))]
    assert len(places) > 6, "there must be something to compare"
    for (s, i), scores in zip(places, tokens, strict=True):
        assert int(scores[:, starts[s] + i].argmax()) == written.sentences[s][i]


def chi_square_margin(observed: Counter, expected: dict[object, float], draws: int) -> float:
    """Distance of the counts from what is expected, in standard deviations of the chi-square statistic."""
    kept = {key: p for key, p in expected.items() if p * draws >= 5}
    rest = 1 - sum(kept.values())
    cells = [(observed[key], p) for key, p in kept.items()]
    if rest * draws >= 5:
        cells.append((draws - sum(count for count, _ in cells), rest))
    statistic = sum((count - draws * p) ** 2 / (draws * p) for count, p in cells)
    freedom = len(cells) - 1
    assert freedom >= 3, "the case must leave something to compare"
    return (statistic - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("levels", [tiny.DOCUMENT, ("sentence",), ("document", "sentence"), ("paragraph",)], ids=str)
@pytest.mark.parametrize("prior", ["autoregressive", "independent"])
def test_structures_are_drawn_as_they_are_scored(levels: tuple[str, ...], prior: str) -> None:
    """Drawn counts against the mean, over latents from the prior, of what the parallel pass scores."""
    vae = tiny.model(levels, level_options={"prior": prior})
    draws = 1000
    plans = complete(vae, nothing(vae, draws), SamplingOptions(max_children=20))
    number = tiny.DOCUMENT.index(levels[-1])  # what lies below is decided with the text
    observed = Counter(str(plan.structure[:number]) for plan in plans)
    cases = [[[1]], [[2]], [[3]], [[4]], [[5]]]
    if number == 2:
        cases = [[[1], [1]], [[1], [2]], [[1], [3]], [[2], [1, 1]], [[2], [1, 2]], [[2], [2, 1]], [[3], [1, 1, 1]]]
    expected = {}
    for structure in cases:
        whole = [*structure, [1] * sum(structure[-1])][:2]
        words = [[tiny.FIRST_WORD]] * sum(whole[-1])
        members = [tiny.encoded(f"draw-{n}", whole, words) for n in range(1000)]
        batch = tiny.batch_of(vae, members)
        with torch.no_grad():
            passed = vae.hierarchy(None, batch, tiny.NOISE, dict.fromkeys(levels, "prior"))
        log_prob = torch.zeros(len(members))
        for name, level in passed.levels.items():
            units = batch.levels[batch.level_number(name)].document
            log_prob = log_prob.index_add(0, units, level.structure.log_prob)
        expected[str(structure)] = float(log_prob.exp().mean())
    assert chi_square_margin(observed, expected, draws) < 5


def flat_model(levels: tuple[str, ...], context: str) -> DocumentVAE:
    """Two words and an end, none of them unlikely, so that short texts come up often."""
    special = {"start_id": 0, "end_id": 0, "decoder_pad_id": 0}
    vae = tiny.model(levels, ("document", "sentence"), vocabulary=3, tokens=special, context=context, context_tokens=4)
    with torch.no_grad():
        vae.decoder.backbone.get_output_embeddings().weight.mul_(0.3)
        vae.decoder.backbone.transformer.wpe.weight.mul_(0.1)  # what was read matters, not where
    return vae


def fixed_latents(levels: tuple[str, ...], sentences: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"document": (1, 6), "sentence": (sentences, 5)}
    return {name: torch.randn(sizes[name], generator=generator) for name in levels}


@pytest.mark.parametrize(
    ("levels", "context", "counts"),
    [
        ((), "document", None),
        ((), "sentence", None),
        (("document",), "document", None),
        (("document",), "document", [2]),
        (("document", "sentence"), "sentence", [2]),
        (("document", "sentence"), "document", [2]),
    ],
    ids=str,
)
def test_documents_are_drawn_as_they_are_scored(
    levels: tuple[str, ...], context: str, counts: list[int] | None
) -> None:
    """Whole texts given the latents, words and (unless `counts` fixes it) structure, against their scores."""
    vae, draws = flat_model(levels, context), 500
    plan = plan_of(fixed_latents(levels, 2), [counts or [0]], ("document", "sentence"))
    written = write(vae, [plan] * draws, 0, replace(PLAIN, max_sentence_tokens=30))
    observed = Counter(str(document.sentences) for document in written)
    texts = {str(document.sentences): document for document in written}
    members = [tiny.encoded(name, document.structure, document.sentences) for name, document in texts.items()]
    batch = tiny.batch_of(vae, members)
    rows = {"document": torch.zeros(len(members), dtype=torch.long), "sentence": batch.levels[1].index}
    with torch.no_grad():
        output = vae(batch, tiny.NOISE, {name: values[rows[name]] for name, values in plan.z.items()})
    sentence = torch.zeros(len(batch.levels[1])).index_add(0, batch.token_sentence, output.text.token_log_prob)
    if counts is None:
        sentence = sentence + output.text.structure.log_prob
    log_prob = torch.zeros(len(members)).index_add(0, batch.levels[1].document, sentence)
    expected = dict(zip(texts, log_prob.exp().tolist(), strict=True))
    assert chi_square_margin(observed, expected, draws) < 5


def test_top_p_and_temperature_sharpen() -> None:
    vae = tiny.model(("sentence",), vocabulary=8, seed=1)
    plain, sharp, narrow = (
        Counter(tuple(words) for d in write(vae, nothing(vae, 60), 0, options) for words in d.sentences)
        for options in (
            replace(PLAIN, max_sentence_tokens=2),
            replace(PLAIN, max_sentence_tokens=2, temperature=0.3),
            replace(PLAIN, max_sentence_tokens=2, top_p=0.3),
        )
    )
    assert len(sharp) < len(plain)
    assert len(narrow) < len(plain)


def test_a_document_is_the_same_in_any_company(vae: DocumentVAE) -> None:
    """Alone, among others and with no room for a second row: latents to rounding, structure and text to the letter."""
    together = write_documents(vae, nothing(vae, 4), SHORTER, 0)
    narrow = write_documents(vae, nothing(vae, 4), replace(SHORTER, batch_tokens=1), 0)
    assert narrow == together
    for draw in (0, 3):
        (alone,) = write_documents(vae, nothing(vae), SHORTER, 0, draws=[draw])
        assert alone == together[draw]
        assert alone.plan.z.keys() == together[draw].plan.z.keys() == set(vae.level_names)
        for name in vae.level_names:
            torch.testing.assert_close(alone.plan.z[name], together[draw].plan.z[name], atol=1e-5, rtol=1e-4)
    assert len({str(document.sentences) for document in together}) == 4


def test_documents_of_one_draw_share_their_noise() -> None:
    vae = tiny.model()
    same = write_documents(vae, nothing(vae, 3), SHORT, 0, draws=[2, 2, 1])
    assert same[0] == same[1] != same[2]


def test_rows_that_are_done_leave() -> None:
    """A batch costs about as many row-steps as it has tokens, however long its longest sentence is."""
    vae = tiny.model(("sentence",), vocabulary=8, seed=1)
    rows: list[int] = []
    step = vae.decoder.step
    vae.decoder.step = lambda ids, *rest: (rows.append(len(ids)), step(ids, *rest))[1]
    written = write_documents(vae, nothing(vae, 40), replace(PLAIN, max_sentence_tokens=60), 0)
    lengths = [len(words) + 1 for document in written for words in document.sentences]
    assert sum(lengths) <= sum(rows) < 1.3 * sum(lengths)
    assert sum(rows) < 0.7 * max(lengths) * len(lengths), "the case must leave something to save"


def test_progress_ends_at_all_planned_units(vae: DocumentVAE) -> None:
    keys, noise = document_keys(range(3), vae.device), KeyedNoise(0)
    writer = _Writer(vae, complete_plans(vae, nothing(vae, 3), keys, noise, SHORT), keys, noise, SHORT)
    with torch.no_grad(), tqdm(total=writer.num_units, file=StringIO()) as bar:
        writer.write(bar)
        assert 3 <= bar.n == bar.total


def test_a_topic_weight_is_that_of_a_model_trained_with_more() -> None:
    """Twice the weight writes what a model with twice `decoder.topic_weight` does, half of it what one with half."""
    for factor in (2.0, 0.5):
        found, expected = (
            write(
                tiny.model(tiny.DOCUMENT, logit_rank=4, topic_weight=trained),
                nothing(tiny.model(tiny.DOCUMENT)),
                3,
                replace(SHORT, topic_weight=asked),
            )
            for trained, asked in ((0.7, factor), (0.7 * factor, 1.0))
        )
        assert found == expected
    vae = tiny.model(tiny.DOCUMENT, logit_rank=4, topic_weight=0.7)
    assert write(vae, nothing(vae), 3, replace(SHORT, topic_weight=30.0)) != write(vae, nothing(vae), 3, SHORT)


def test_topics_fade_with_the_context_that_was_written(vae: DocumentVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said to stand behind the next token is what the decoder has read of its window."""
    step, seen = vae.decoder.step, set()

    def checked(
        ids: Tensor, vectors: Tensor | None, cache: Cache, context: int, topic_weight: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        assert context == cache.get_seq_length()
        seen.add(context)
        return step(ids, vectors, cache, context, topic_weight)

    monkeypatch.setattr(vae.decoder, "step", checked)
    write(vae, nothing(vae, 2), 0, SHORT)
    assert {0, 1} <= seen


def test_a_topic_weight_without_topics_is_refused() -> None:
    vae = tiny.model(())
    with pytest.raises(ValueError, match=r"topic_weight is 2\.0, but this model has no topics"):
        write(vae, nothing(vae), 0, replace(SHORT, topic_weight=2.0))
