from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from textvae.config import LevelConfig, ModelConfig
from textvae.data.document import EncodedDocument
from textvae.model.vae import DocumentVAE, TextVAEConfig, check_levels
from textvae.training.objective import elbo_terms

CONTEXTS = [("sentence", tiny.DOCUMENT), ("document", tiny.DOCUMENT), ("document", ()), ("paragraph", ("paragraph",))]


def losses(vae: DocumentVAE, members: Sequence[EncodedDocument]) -> dict[str, Tensor]:
    """Negative ELBO by document."""
    _, terms = tiny.scored(vae, members)
    return dict(zip([member.id for member in members], terms.negative_elbo, strict=True))


def loss_and_gradients(
    vae: DocumentVAE, parts: Sequence[Sequence[EncodedDocument]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    found: dict[str, Tensor] = {}
    for part in parts:
        here = losses(vae, part)
        torch.stack(list(here.values())).sum().backward()
        found |= {name: loss.detach() for name, loss in here.items()}
    return found, tiny.gradients(vae)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        # Single entries are sums of cancelling terms, so each is judged by the size of its tensor.
        margin = 2e-5 * max(1.0, float(values.detach().abs().max()))
        torch.testing.assert_close(other[name], values, atol=margin, rtol=1e-3, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(scope="module", params=CONTEXTS, ids=str)
def vae(request: pytest.FixtureRequest) -> DocumentVAE:
    context, levels = request.param
    return tiny.model(levels, context=context, context_tokens=8, encoder_trainable=True)


@pytest.fixture(scope="module")
def usual(vae: DocumentVAE) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return loss_and_gradients(vae, [tiny.documents()])


@pytest.mark.parametrize("order", [[3, 1, 0, 2], [1, 0, 2, 3]], ids=str)
def test_the_order_of_documents_changes_nothing(vae: DocumentVAE, usual: tuple, order: list[int]) -> None:
    members = tiny.documents()
    found = loss_and_gradients(vae, [[members[place] for place in order]])
    for one, other in zip(usual, found, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [3, 1], [1, 2, 1]], ids=str)
def test_micro_batches_add_up_to_the_batch(vae: DocumentVAE, usual: tuple, sizes: list[int]) -> None:
    """Padding, packing and company differ between these; loss per document and summed gradients do not."""
    members = iter(tiny.documents())
    found = loss_and_gradients(vae, [[next(members) for _ in range(size)] for size in sizes])
    for one, other in zip(usual, found, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("chunk_tokens", [1, 20, 32])
def test_chunks_and_recomputation_change_nothing(vae: DocumentVAE, usual: tuple, chunk_tokens: int) -> None:
    """Small chunks are recomputed in the backward pass."""
    calls: list[object] = []
    hook = vae.decoder.backbone.base_model.register_forward_hook(lambda *inputs: calls.append(inputs))
    before = vae.layout.chunk_tokens
    vae.set_chunk_tokens(chunk_tokens)
    try:
        num_chunks = len(tiny.batch_of(vae, tiny.documents()).decoder_chunks)
        found = loss_and_gradients(vae, [tiny.documents()])
    finally:
        hook.remove()
        vae.set_chunk_tokens(before)
    assert num_chunks > 1
    assert len(calls) == 2 * num_chunks, "every chunk is to be scored again in the backward pass"
    for one, other in zip(usual, found, strict=True):
        assert_same(one, other)


def test_gradient_checkpointing_changes_nothing(vae: DocumentVAE, usual: tuple) -> None:
    vae.decoder.checkpointing = True
    try:
        found = loss_and_gradients(vae, [tiny.documents()])
    finally:
        vae.decoder.checkpointing = False
    for one, other in zip(usual, found, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("decoder", ["gpt2", "llama"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("context", "levels"), CONTEXTS, ids=str)
def test_sequences_that_share_a_row_do_not_see_each_other(
    context: str, levels: Sequence[str], attention: str, decoder: str
) -> None:
    """Packed or in rows of their own: the same loss of every document, the same gradients, whatever is dropped."""

    def found(packing: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        options = {"context": context, "context_tokens": 8, "word_dropout": 0.3, "context_dropout": 0.3}
        vae = tiny.model(levels, decoder=decoder, attention=attention, packing=packing, **options).train()
        chunks = tiny.batch_of(vae, tiny.documents()).decoder_chunks
        assert all((chunk.position is not None) is packing for chunk in chunks)
        return loss_and_gradients(vae, [tiny.documents()])

    for one, other in zip(found(False), found(True), strict=True):
        assert_same(one, other)


def test_a_prefix_leaves_no_room_for_others_in_its_row() -> None:
    assert not tiny.model(prefix_length=2).decoder.can_pack
    with pytest.raises(ValueError, match=r"prefix.*set model.decoder.packing to false"):
        _ = tiny.model(prefix_length=2, packing=True).layout


@pytest.mark.parametrize("checkpointing", [True, False])
def test_recomputation_repeats_the_decoders_dropout(checkpointing: bool) -> None:
    vae = tiny.model((), dropout=0.2).train()
    vae.decoder.checkpointing = checkpointing
    torch.manual_seed(1)
    _, found = loss_and_gradients(vae, [tiny.documents()])
    vae.decoder.checkpointing = not checkpointing
    torch.manual_seed(1)
    assert_same(loss_and_gradients(vae, [tiny.documents()])[1], found)


@pytest.mark.parametrize("prior", ["autoregressive", "independent"])
@pytest.mark.parametrize("decoder", ["gpt2", "llama"])
@pytest.mark.parametrize(("hierarchy", "levels"), tiny.depths(), ids=str)
def test_every_parameter_learns(hierarchy: tuple[str, ...], levels: tuple[str, ...], decoder: str, prior: str) -> None:
    """Distributed training waits for the gradient of every parameter; after the zero starts none is zero."""
    vae = tiny.model(levels, hierarchy, decoder=decoder, encoder_trainable=True, level_options={"prior": prior}).train()
    _, found = loss_and_gradients(vae, [tiny.documents(hierarchy)])
    assert {name for name, p in vae.named_parameters() if p.requires_grad} == found.keys()
    # Softmax ignores what is added to all scores.
    free = ("score.bias", "attention.self.key.bias")
    assert [n for n, g in found.items() if g.abs().max() < 1e-7 and not n.endswith(free)] == []


@pytest.mark.parametrize(("hierarchy", "levels"), [case for case in tiny.depths() if case[1]], ids=str)
def test_the_words_reach_every_posterior(hierarchy: tuple[str, ...], levels: tuple[str, ...]) -> None:
    """Through the decoder alone, without the help of rates; down to the encoder where it is trained."""
    vae = tiny.model(levels, hierarchy, encoder_trainable=True).train()
    _, terms = tiny.scored(vae, tiny.documents(hierarchy))
    terms.distortion_tokens.sum().backward()
    found = tiny.gradients(vae)
    for name in levels:
        assert found[f"hierarchy.levels.{name}.posterior.0.weight"].abs().max() > 1e-4
    assert found["encoder.backbone.embeddings.word_embeddings.weight"].abs().max() > 1e-4


def test_a_fresh_model_lets_the_text_reach_the_conditioner() -> None:
    torch.manual_seed(0)
    vae = DocumentVAE(tiny.config()).train()
    _, found = loss_and_gradients(vae, [tiny.documents()])
    assert found["decoder.conditioner.output.weight"].abs().max() > 1e-4


def test_a_frozen_encoder_is_fixed() -> None:
    frozen = tiny.model(encoder_trainable=False)
    batch = tiny.batch_of(frozen, tiny.documents())
    count = len(batch.levels[-1])
    before = frozen.encoder(batch.encoder_chunks, count)
    frozen.train()
    after = frozen.encoder(batch.encoder_chunks, count)
    assert torch.equal(before, after)
    assert not after.requires_grad
    assert not any(parameter.requires_grad for parameter in frozen.encoder.parameters())
    assert not any(name.startswith("encoder") for name in loss_and_gradients(frozen, [tiny.documents()])[1])
    free = tiny.model(encoder_trainable=True).train()
    assert not torch.equal(free.encoder(batch.encoder_chunks, count), before), "a trained encoder has dropout"


def test_sentence_features_are_the_mean_over_the_real_tokens() -> None:
    vae = tiny.model()
    members = tiny.documents()
    batch = tiny.batch_of(vae, members)
    found = vae.encoder(batch.encoder_chunks, len(batch.levels[-1]))
    number = 0
    for member in members:
        ids = torch.tensor(member.encoder_ids)
        for sentence in ids.split(list(member.encoder_lengths)):
            with torch.no_grad():
                states = vae.encoder.backbone(sentence[None]).last_hidden_state[0]
            torch.testing.assert_close(found[number], states.mean(0), atol=1e-5, rtol=1e-4)
            number += 1


def test_cached_features_give_what_the_live_encoder_gives() -> None:
    vae = tiny.model()
    members = tiny.documents()
    batch = tiny.batch_of(vae, members)
    features = vae.encoder(batch.encoder_chunks, len(batch.levels[-1]))
    parts = features.split([len(member.sentences) for member in members])
    cached = [replace(m, features=part.flatten().numpy()) for m, part in zip(members, parts, strict=True)]
    live = losses(vae, members)
    assert tiny.batch_of(vae, cached).features is not None
    assert_same(losses(vae, cached), live)


def test_terms_add_up_document_by_document() -> None:
    """Text log-probability, structure and analytic rates of one document alone, summed by hand."""
    vae = tiny.model()
    members = tiny.documents()
    _, together = tiny.scored(vae, members)
    for number, member in enumerate(members):
        output, _ = tiny.scored(vae, [member])
        levels = output.hierarchy.levels.values()
        structure = sum(level.structure.log_prob.sum() for level in levels)
        torch.testing.assert_close(together.distortion_tokens[number], -output.text.token_log_prob.sum())
        torch.testing.assert_close(together.distortion_structure[number], -structure, atol=1e-5, rtol=1e-4)
        for level in levels:
            rate = level.posterior.kl(level.prior).sum()
            torch.testing.assert_close(together.rate[level.name][number], rate, atol=1e-4, rtol=1e-4)


def test_scoring_given_latents_repeats_the_pass_that_drew_them() -> None:
    vae = tiny.model(context="document")
    batch = tiny.batch_of(vae, tiny.documents())
    with torch.no_grad():
        first = vae(batch, tiny.NOISE)
        again = vae(batch, tiny.NOISE, first.hierarchy.z)
        text = vae.score_text(first.hierarchy.z, batch)
    assert_same({"elbo": elbo_terms(first, batch).negative_elbo}, {"elbo": elbo_terms(again, batch).negative_elbo})
    assert torch.equal(text.token_log_prob, first.text.token_log_prob)


@pytest.mark.parametrize(
    ("levels", "context", "message"),
    [
        (["verse"], "sentence", "no level 'verse' in the data; its levels are"),
        (["sentence", "document"], "sentence", "must stand in the data's order"),
        (["document"], "chapter", "no level 'chapter'"),
    ],
)
def test_levels_that_do_not_fit_the_data_are_named(levels: list[str], context: str, message: str) -> None:
    settings = ModelConfig(tuple(map(LevelConfig, levels)))
    settings = replace(settings, decoder=replace(settings.decoder, context=context))
    with pytest.raises(ValueError, match=message):
        check_levels(tiny.DOCUMENT, settings)


@pytest.mark.parametrize("decoder", ["gpt2", "llama"])
def test_every_attention_kernel_gives_the_same(decoder: str) -> None:
    """Set on the whole model, it reaches the transformers over units."""
    vae = tiny.model(decoder=decoder, context="document", context_dropout=0.5).train()
    batch = tiny.batch_of(vae, tiny.documents())
    found: list[dict[str, Tensor]] = []
    for kernel in ("sdpa", "eager"):
        vae.set_attn_implementation(kernel)
        assert vae.hierarchy.levels["sentence"].siblings.backbone.config._attn_implementation == kernel
        output = vae(batch, tiny.NOISE)
        found.append({**output.hierarchy.z, "text": output.text.token_log_prob})
    assert_same(*found)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("context", ["sentence", "document"])
def test_a_training_pass_never_waits_for_the_device(context: str, packing: bool) -> None:
    """On the meta device there are shapes but no numbers: whatever the host would have to wait for raises. Features are
    cached here, because transformers asks whether an encoder's mask hides anything."""
    vae = tiny.model(context=context, word_dropout=0.1, context_dropout=0.1, packing=packing).train()
    assert vae.decoder.can_pack
    vae.to("meta")
    batch = tiny.batch_of(vae, tiny.documents())
    batch = replace(batch, features=torch.zeros(len(batch.levels[-1]), 32)).to(torch.device("meta"))
    terms = elbo_terms(vae(batch, tiny.NOISE), batch)
    terms.negative_elbo.sum().backward()


def test_the_outer_configuration_is_no_text_configuration(tmp_path: Path) -> None:
    config = tiny.config()
    assert config.get_text_config() is config
    assert config.get_text_config(decoder=True) is config
    config.save_pretrained(tmp_path)
    assert TextVAEConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_configurations_of_version_0_1_are_read() -> None:
    config = tiny.config()
    values = config.to_dict()
    values |= {"encoder": values.pop("encoder_config"), "decoder": values.pop("decoder_config")}
    assert TextVAEConfig(**values).to_dict() == config.to_dict()
