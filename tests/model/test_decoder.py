from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import DynamicCache

import textvae.model.decoder as decoder_module
from textvae.data.document import EncodedDocument
from textvae.model.backbone import output_layer
from textvae.model.dropout import DropoutMasks
from textvae.model.vae import DocumentVAE, VAEOutput

DECODERS = ("gpt2", "llama")
CONDITIONING: tuple[dict[str, Any], ...] = (
    {"conditioning": "embedding", "logit_rank": 0},
    {"conditioning": "layers", "logit_rank": 0},
    {"conditioning": "layers", "logit_rank": 7, "topic_context": 5.0},
)
PREFIX: tuple[dict[str, Any], ...] = (
    {"conditioning": "none", "prefix_length": 3, "logit_rank": 0},
    {"conditioning": "layers", "prefix_length": 1, "logit_rank": 7, "topic_context": 2.0},
)
IN_CONTEXT = [*product(CONDITIONING, tiny.DOCUMENT), *((each, "sentence") for each in PREFIX)]
STORY = tiny.document("story", [3], [2, 3, 2])


@torch.no_grad()
def token_log_prob(vae: DocumentVAE, document: EncodedDocument, z: dict[str, Tensor] | None = None) -> Tensor:
    sources = z if z is not None else dict.fromkeys(vae.level_names, "prior")
    return vae(tiny.batch_of(vae, [document]), tiny.NOISE, sources).text.token_log_prob


def inputs_of(tokens: Tensor) -> Tensor:
    """[N] what stands before each of the predicted `tokens` [N]."""
    starts = torch.cat([torch.tensor([True]), tokens[:-1] == tiny.END])
    return torch.where(starts, tiny.START, tokens.roll(1))


def with_word(document: EncodedDocument, place: int) -> EncodedDocument:
    """Another word at `place` of the document's words."""
    words = list(document.decoder_ids)
    words[place] = tiny.FIRST_WORD + (words[place] - tiny.FIRST_WORD + 1) % (tiny.VOCABULARY - tiny.FIRST_WORD)
    return replace(document, decoder_ids=words)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("conditioning", "context"), IN_CONTEXT)
def test_a_word_changes_only_what_may_see_it(decoder: str, conditioning: dict[str, Any], context: str) -> None:
    """Later tokens of its sentence and of later sentences of its context unit; nothing before it."""
    vae = tiny.model(decoder=decoder, context=context, **conditioning)
    batch = tiny.batch_of(vae, [STORY])
    before = token_log_prob(vae, STORY)
    unit = batch.ancestor(2, tiny.DOCUMENT.index(context))[batch.token_sentence]
    for place in range(0, len(STORY.decoder_ids), 3):
        position = int(torch.nonzero(batch.tokens != tiny.END)[place, 0])
        changed = token_log_prob(vae, with_word(STORY, place)) != before
        after = torch.arange(batch.num_tokens) >= position
        assert torch.equal(changed, after & (unit == unit[position]))


@pytest.mark.parametrize("context_tokens", [1, 6, 12])
def test_the_window_is_counted_in_what_stands_before_a_sentence(context_tokens: int) -> None:
    """What a sentence sees does not depend on its own length, or its probabilities would not add up."""
    vae = tiny.model((), context="document", context_tokens=context_tokens)
    reach, behind, first = [], 0, 0
    for sentence, length in enumerate(STORY.decoder_lengths):
        if behind >= context_tokens:
            first, behind = sentence, 0
        reach.append(first)
        behind += length + 1
    batch = tiny.batch_of(vae, [STORY])
    before = token_log_prob(vae, STORY)
    starts = np.cumsum([0, *STORY.decoder_lengths])
    for sentence in range(len(reach)):
        changed = token_log_prob(vae, with_word(STORY, int(starts[sentence]))) != before
        seen_by = {int(s) for s in batch.token_sentence[changed].unique()}
        assert seen_by == {later for later in range(sentence, len(reach)) if reach[later] <= sentence}


# A vocabulary of an end and two words, so that all texts can be written out.
WORDS = [list(words) for length in range(4) for words in product((1, 2), repeat=length)]
SHORT, CUT = [w for w in WORDS if len(w) < 3], [w for w in WORDS if len(w) == 3]


def texts() -> list[tuple[list[list[int]], bool]]:
    """Documents of one or two sentences of two words at most, and whether the last is cut at its third word."""
    found = []
    for begun in ([], *([first] for first in SHORT)):
        found.extend(([*begun, last], len(last) == 3) for last in WORDS)
    return found


@pytest.mark.parametrize(
    ("levels", "context", "context_tokens"),
    [
        ((), "document", 100),
        ((), "document", 2),
        ((), "sentence", 9),
        (("document",), "document", 2),
        (("sentence",), "document", 3),
        (("document", "sentence"), "sentence", 9),
    ],
    ids=str,
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_probabilities_of_all_documents_sum_to_one(
    levels: tuple[str, ...], context: str, context_tokens: int, decoder: str
) -> None:
    """Words, sentence ends and document ends together, given the latents: p(all short documents) plus
    p(those that go on) is one. A document goes on where its sentence is cut or a third sentence follows."""
    hierarchy = ("document", "sentence")
    special = {"start_id": 0, "end_id": 0, "decoder_pad_id": 0}
    vae = tiny.model(
        levels, hierarchy, decoder=decoder, vocabulary=3, tokens=special, context=context, context_tokens=context_tokens
    )
    cases = texts()
    members = [tiny.encoded(f"text-{n}", [[len(text)]], text) for n, (text, _) in enumerate(cases)]
    batch = tiny.batch_of(vae, members)
    generator = torch.Generator().manual_seed(0)
    # The first sentence's latent is the same in all documents, as is the second's.
    z = {name: torch.randn(2, 6 if name == "document" else 5, generator=generator) for name in levels}
    rows = {"document": torch.zeros(len(batch), dtype=torch.long), "sentence": batch.levels[1].index}
    with torch.no_grad():
        output = vae(batch, tiny.NOISE, {name: values[rows[name]] for name, values in z.items()})
    total = 0.0
    for number, (text, is_cut) in enumerate(cases):
        of_tokens = batch.levels[1].document[batch.token_sentence] == number
        tokens = output.text.token_log_prob[of_tokens].double()
        ends = _ends(output, batch.levels[1].document == number)
        going_on, ended = logsigmoid(-ends[:-1]).sum(), logsigmoid(ends[-1])
        if is_cut:
            total += float((tokens[:-1].sum() + going_on).exp())
        else:
            total += float((tokens.sum() + going_on + ended).exp())
            if len(text) == 2:
                total += float((tokens.sum() + going_on + logsigmoid(-ends[-1])).exp())
    assert total == pytest.approx(1, abs=1e-5)


def _ends(output: VAEOutput, rows: Tensor) -> Tensor:
    """Logits of every sentence's ending its document, whoever tells them."""
    told = [output.text.structure, *(level.structure for level in output.hierarchy.levels.values())]
    (logits,) = (scores.logits for scores in told if scores.logits.shape[1])
    return logits[rows, 0].double()


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("context", ["sentence", "document"])
@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_a_fresh_model_is_the_plain_language_model(decoder: str, context: str, conditioning: dict[str, Any]) -> None:
    torch.manual_seed(0)
    vae = DocumentVAE(tiny.config(decoder=decoder, context=context, **conditioning)).eval()
    plain = DocumentVAE(tiny.config((), decoder=decoder, context=context)).eval()
    plain.decoder.backbone.load_state_dict(vae.decoder.backbone.state_dict())
    assert torch.equal(token_log_prob(vae, STORY), token_log_prob(plain, STORY))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("conditioning", PREFIX)
def test_a_prefix_speaks_to_every_token(decoder: str, conditioning: dict[str, Any]) -> None:
    vae = tiny.model(decoder=decoder, **conditioning)
    batch = tiny.batch_of(vae, [STORY])
    sizes = {level.name: level.latent_size for level in vae.config.model_config.levels}
    z = {name: torch.zeros(len(batch.levels[batch.level_number(name)]), size) for name, size in sizes.items()}
    moved = z | {"sentence": torch.eye(len(batch.levels[-1]), sizes["sentence"]) * 3}
    changed = token_log_prob(vae, STORY, moved) != token_log_prob(vae, STORY, z)
    assert torch.equal(changed, batch.token_sentence < sizes["sentence"]), (
        "the sentences whose latents moved, from their first word"
    )


def test_a_prefix_stands_before_single_sentences() -> None:
    with pytest.raises(ValueError, match=r"prefix_length.*'sentence', not 'document'"):
        tiny.model(context="document", prefix_length=2)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_plain_model_scores_as_the_backbone_alone(decoder: str) -> None:
    vae = tiny.model((), decoder=decoder, context="document", context_tokens=1000)
    tokens = tiny.batch_of(vae, [STORY]).tokens
    with torch.no_grad():
        logits = vae.decoder.backbone(input_ids=inputs_of(tokens)[None]).logits[0]
    expected = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(token_log_prob(vae, STORY), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("conditioning", "context"), IN_CONTEXT)
def test_steps_score_as_the_parallel_pass(decoder: str, conditioning: dict[str, Any], context: str) -> None:
    """Sampling reads the distribution that scoring reports: words and events, with latents, in context."""
    vae = tiny.model(("document",), decoder=decoder, context=context, **conditioning)
    batch = tiny.batch_of(vae, [STORY])
    z = {"document": torch.randn(1, 6, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        output = vae(batch, tiny.NOISE, z)
        vectors = vae.decoder.conditioner(z)
        unit = batch.ancestor(2, tiny.DOCUMENT.index(context))[batch.token_sentence].tolist()
        log_prob, ends, before, here = [], [], tiny.START, None
        for token, mine in zip(batch.tokens.tolist(), unit, strict=True):
            if mine != here:
                cache, here, context = DynamicCache(config=vae.decoder.backbone.config), mine, 0
            logits, events = vae.decoder.step(torch.tensor([[before]]), vectors, cache, context)
            context += 1
            log_prob.append(logits[0].log_softmax(-1)[token])
            before = tiny.START if token == tiny.END else token
            if token == tiny.END:
                ends.append(events[0])
    torch.testing.assert_close(torch.stack(log_prob), output.text.token_log_prob, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.stack(ends), output.text.structure.logits, atol=1e-4, rtol=1e-4)


def dropped(members: Sequence[EncodedDocument], context: str = "document", **options: Any) -> Tensor:
    """Token log-probabilities [N] while training."""
    vae = tiny.model((), context=context, **options).train()
    return vae(tiny.batch_of(vae, members), tiny.NOISE).text.token_log_prob.detach()


def test_word_dropout_hides_words_and_nothing_else() -> None:
    """With nearly every word hidden, the words hardly matter; the start token, hence the first word's
    prediction, is as without dropout, and evaluation hides nothing."""
    usual, other = dropped([STORY], "sentence"), with_word(STORY, 0)
    hidden = dropped([STORY], "sentence", word_dropout=0.999)
    first = torch.tensor([0, *(np.cumsum(np.asarray(STORY.decoder_lengths) + 1)[:-1]).tolist()])
    torch.testing.assert_close(hidden[first], usual[first])
    differs = dropped([other], "sentence", word_dropout=0.999) != hidden
    assert differs.nonzero().flatten().tolist() == [0], "only the changed word's own prediction"
    assert torch.equal(token_log_prob(tiny.model((), word_dropout=0.999), STORY), token_log_prob(tiny.model(()), STORY))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_as_much_is_hidden_as_asked_for(share: float) -> None:
    """Of 400 sentences of 9 words each; what is hidden of words says nothing of sentences."""
    batch = tiny.batch_of(tiny.model(()), [tiny.encoded("long", [[1], [400]], [[5] * 9] * 400)])
    hidden = DropoutMasks.draw(batch, tiny.NOISE, share, share)
    words = hidden.tokens[batch.token_position > 0].double()
    assert not hidden.tokens[batch.token_position == 0].any(), "the start token carries no word"
    for drawn in (words, hidden.sentences.double()):
        error = (share * (1 - share) / len(drawn)) ** 0.5
        assert float(drawn.mean()) == pytest.approx(share, abs=4 * error)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_context_dropout_hides_earlier_sentences_whole(attention: str, precision: torch.dtype) -> None:
    alone = dropped([STORY], "sentence")
    longest = int(np.argmax(STORY.decoder_lengths))
    word = STORY.decoder_lengths[longest] // 2
    place = sum(STORY.decoder_lengths[:longest]) + word
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        hidden = dropped([STORY], context_dropout=0.999, attention=attention)
        changed = dropped([with_word(STORY, place)], context_dropout=0.999, attention=attention) != hidden
    batch = tiny.batch_of(tiny.model(()), [STORY])
    assert torch.equal(changed, (batch.token_sentence == longest) & (batch.token_position >= word)), (
        "the sentence itself still sees the words behind it, and only it"
    )
    assert not torch.allclose(alone, dropped([STORY])), "context must matter when it is not dropped"


@pytest.mark.parametrize("options", [{"word_dropout": 0.5}, {"context_dropout": 0.5}], ids=str)
def test_dropout_is_the_same_in_any_company(options: dict[str, float]) -> None:
    together = dropped([*tiny.documents(), STORY], **options)
    torch.testing.assert_close(together[-STORY.num_tokens :], dropped([STORY], **options), atol=1e-5, rtol=1e-5)


def bag(vae: DocumentVAE, members: Sequence[EncodedDocument], levels: Sequence[str] = tiny.DOCUMENT) -> Tensor:
    """Token log-probabilities [N] of the bag of words, given random latents of `levels`."""
    batch = tiny.batch_of(vae, members)
    passed = vae(batch, tiny.NOISE, dict.fromkeys(vae.level_names, "prior")).hierarchy
    return vae.score_bag({name: passed.z[name] for name in levels}, batch).token_log_prob


@torch.no_grad()
def test_a_bag_of_words_without_what_latents_add_is_the_unigram() -> None:
    torch.manual_seed(0)
    vae = DocumentVAE(tiny.config(logit_rank=7)).eval()
    counts = torch.arange(tiny.VOCABULARY - 1)
    vae.decoder.topic_head.set_unigram(counts)
    batch = tiny.batch_of(vae, [STORY])
    smoothed = torch.cat([counts + 1, torch.ones(1)])
    expected = (smoothed / smoothed.sum()).log()[batch.tokens]
    torch.testing.assert_close(bag(vae, [STORY]), expected)


@torch.no_grad()
def test_a_bag_of_words_knows_its_sentences_latents_and_no_order() -> None:
    vae = tiny.model(logit_rank=7)
    vae.decoder.topic_head.set_unigram(torch.zeros(tiny.VOCABULARY))
    words, cuts = np.asarray(STORY.decoder_ids), np.cumsum(STORY.decoder_lengths)[:-1]
    turned = replace(STORY, decoder_ids=np.concatenate([part[::-1] for part in np.split(words, cuts)]).tolist())
    sentence = tiny.batch_of(vae, [STORY]).token_sentence
    sums = [torch.zeros(7).index_add(0, sentence, bag(vae, [story])) for story in (STORY, turned)]
    torch.testing.assert_close(*sums)
    assert sums[0].unique().numel() == 7
    same_word = tiny.encoded("same", [[2], [2, 1]], [[5, 5], [5], [5]])
    both, own, par, doc = (
        bag(vae, [same_word], levels).round(decimals=4).tolist()
        for levels in (tiny.DOCUMENT, ["sentence"], ["paragraph"], ["document"])
    )
    assert both[0] == both[1] != both[3], "one prediction for all of a sentence"
    assert own[0] != own[3] != own[5]
    assert par[0] == par[3] != par[5], "sentences of a paragraph share what it adds"
    assert doc[0] == doc[3] == doc[5]


@torch.no_grad()
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_topic_logits_multiply_the_decoders_prediction(weight: float) -> None:
    """p(word) in proportion to p_decoder(word) times exp(topic logits) to the power of their weight."""
    vae = tiny.model(("document",), logit_rank=7, topic_weight=weight)
    z = {"document": torch.randn(1, 6, generator=torch.Generator().manual_seed(0))}
    vectors = vae.decoder.conditioner(z)
    ids = torch.tensor([[tiny.START, 5, 9]])
    with_topics, _ = vae.decoder.step(ids, vectors, DynamicCache(config=vae.decoder.backbone.config), 2)
    topics = vae.decoder.topic_head(vae.decoder.topics(vectors))
    vae.decoder.topic_head.weight.zero_()
    without, _ = vae.decoder.step(ids, vectors, DynamicCache(config=vae.decoder.backbone.config), 2)
    expected = without.softmax(-1) * topics.exp() ** weight
    assert topics.abs().max() > 0.1
    torch.testing.assert_close(with_topics.softmax(-1), expected / expected.sum())


@torch.no_grad()
@pytest.mark.parametrize("held", [True, False], ids=["logits of sentences", "logits of tokens"])
def test_topics_count_less_the_more_context_there_is(held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The topics' power behind c tokens of a document is their weight times k / (k + c), whatever sentence c is in."""
    vae = tiny.model(("document",), logit_rank=7, topic_weight=0.8, topic_context=3.0, context="document")
    vae.decoder.topic_head.weight.mul_(9)
    batch = tiny.batch_of(vae, [STORY])
    if not held:
        monkeypatch.setattr("textvae.model.decoder.LOGITS", vae.decoder.topic_head.out_features * 3)
    z = {"document": torch.randn(1, 6, generator=torch.Generator().manual_seed(0))}
    found = vae(batch, tiny.NOISE, z).text.token_log_prob
    topics = vae.decoder.topic_head(vae.decoder.topics(vae.decoder.conditioner(z)))
    vae.decoder.topic_head.weight.zero_()
    cache, vectors = DynamicCache(config=vae.decoder.backbone.config), vae.decoder.conditioner(z)
    expected = []
    for behind, (before, token) in enumerate(zip(inputs_of(batch.tokens).tolist(), batch.tokens.tolist(), strict=True)):
        logits, _ = vae.decoder.step(torch.tensor([[before]]), vectors, cache, behind)
        product = logits[0].softmax(-1) * topics[0].exp() ** (0.8 * 3 / (3 + behind))
        expected.append((product / product.sum()).log()[token])
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_a_bag_of_words_needs_a_path_to_the_logits() -> None:
    with pytest.raises(ValueError, match="logit_rank"):
        bag(tiny.model(logit_rank=0), [STORY])


@pytest.mark.parametrize("context", ["sentence", "document"])
@pytest.mark.parametrize("held", [5, 25])
def test_a_large_vocabulary_is_scored_piece_by_piece(context: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same scores and gradients, whatever is held at a time: the logits of 5 tokens are fewer than those of the
    sentences' topics, which are then computed for every token anew; those of 25 are not."""
    texts = [STORY, *tiny.documents()]

    def scores_and_gradients() -> tuple[Tensor, dict[str, Tensor]]:
        vae = tiny.model(context=context)
        log_prob = tiny.scored(vae, texts)[0].text.token_log_prob
        (-log_prob.sum()).backward()
        return log_prob.detach(), tiny.gradients(vae)

    sentences = tiny.batch_of(tiny.model(context=context), texts).levels[-1].document
    assert 5 < len(sentences) <= 25
    whole, expected = scores_and_gradients()
    monkeypatch.setattr(decoder_module, "LOGITS", held * tiny.VOCABULARY)
    pieces, gradients = scores_and_gradients()
    torch.testing.assert_close(pieces, whole)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_only_predicted_tokens_have_logits() -> None:
    """Padding makes rows of one shape; a vocabulary's worth of numbers for each place of it would be thrown away."""
    vae = tiny.model()
    batch = tiny.batch_of(vae, [STORY, *tiny.documents()])
    assert sum(chunk.ids.numel() for chunk in batch.decoder_chunks) > batch.num_tokens
    rows: list[int] = []
    output_layer(vae.decoder.backbone).register_forward_hook(lambda _, inputs, out: rows.append(out[..., 0].numel()))
    vae(batch, tiny.NOISE)
    assert sum(rows) == batch.num_tokens


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (4, [0, 1, 2, 3])])
def test_latents_enter_as_many_blocks_as_asked_for(count: int, chosen: list[int]) -> None:
    config = tiny.config(conditioning_blocks=count)
    config.decoder_config["n_layer"] = 4
    blocks = DocumentVAE(config).decoder.backbone.transformer.h
    assert [number for number, block in enumerate(blocks) if hasattr(block, "latent_input")] == chosen


def test_latents_cannot_enter_more_blocks_than_there_are() -> None:
    with pytest.raises(ValueError, match="conditioning_blocks is 3, but the decoder has 2 blocks"):
        tiny.model(conditioning_blocks=3)
