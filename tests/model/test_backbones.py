"""Every family of decoders and of encoders: trained a step, scored, written with, saved, loaded and copied."""

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from transformers import AutoConfig, DynamicCache, GPT2Config, GPT2LMHeadModel

from textvae.model.vae import DocumentVAE
from textvae.training.objective import elbo_terms
from textvae.writing.decode import write_documents
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import open_plan

SPECIAL = {"vocab_size": tiny.VOCABULARY, "pad_token_id": tiny.PAD, "bos_token_id": None, "eos_token_id": None}
BLOCKS = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "initializer_range": 0.3}
LLAMA = {**BLOCKS, "intermediate_size": 48, "num_key_value_heads": 2}
OPT = {**BLOCKS, "ffn_dim": 48, "max_position_embeddings": 64, "init_std": 0.3}
GPT2 = {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
DECODERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "llama": ("llama", LLAMA),
    "qwen2": ("qwen2", LLAMA),
    "qwen3": ("qwen3", {**LLAMA, "head_dim": 8}),
    "mistral": ("mistral", {**LLAMA, "sliding_window": 16}),
    "gpt_neox": ("gpt_neox", {**BLOCKS, "intermediate_size": 48}),
    "opt": ("opt", {**OPT, "word_embed_proj_dim": 32}),
    "opt with a narrow embedding": ("opt", {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "gemma": ("gemma", {**LLAMA, "head_dim": 8}),
    "gemma2": ("gemma2", {**LLAMA, "head_dim": 8, "final_logit_softcapping": 2.0}),
    "falcon": ("falcon", {**BLOCKS, "multi_query": True}),
    "phi": ("phi", LLAMA),
    "cohere": ("cohere", LLAMA),
    "granite": ("granite", {**LLAMA, "logits_scaling": 3.0}),
    "mamba": ("mamba", {**BLOCKS, "state_size": 4}),
}
BERT = {**BLOCKS, "intermediate_size": 48, "max_position_embeddings": 64}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
ENCODERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "bert, as MiniLM": ("bert", BERT),
    "roberta": ("roberta", BERT),
    "distilbert": ("distilbert", {"n_layers": 2, "dim": 32, "hidden_dim": 48, "n_heads": 4}),
    "modernbert": ("modernbert", {**BERT, "cls_token_id": tiny.START, "sep_token_id": tiny.END}),
    "t5": ("t5", {**T5, "decoder_start_token_id": tiny.PAD}),
    "deberta-v2": ("deberta-v2", {**BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
}
STORY = tiny.document("story", [2], [2, 1])
TEXTS = [STORY, tiny.document("short", [1], [1])]


def model(
    decoder: str | None = None, encoder: str | None = None, levels: tuple[str, ...] = tiny.DOCUMENT, **options: Any
) -> DocumentVAE:
    """Tiny, with random weights, in evaluation mode."""
    config = tiny.config(levels, encoder_trainable=encoder is not None, **options)
    if decoder is not None:
        config.decoder_config = _values(*DECODERS[decoder])
    if encoder is not None:
        config.encoder_config = _values(*ENCODERS[encoder])
    torch.manual_seed(0)
    built = DocumentVAE(config)
    tiny.perturb(built)
    return built.eval()


def _values(model_type: str, values: Mapping[str, Any]) -> dict[str, Any]:
    config = AutoConfig.for_model(model_type, **(SPECIAL | dict(values)))
    return config.to_diff_dict() | {"model_type": model_type}


@torch.no_grad()
def token_log_prob(vae: DocumentVAE) -> Tensor:
    return vae(tiny.batch_of(vae, TEXTS), tiny.NOISE).text.token_log_prob


def learns(vae: DocumentVAE, *names: str) -> None:
    """A step's loss is finite, and its gradient reaches the parameters of these names."""
    vae.train()
    batch = tiny.batch_of(vae, TEXTS)
    terms = elbo_terms(vae(batch, tiny.NOISE), batch)
    assert terms.negative_elbo.isfinite().all()
    terms.distortion_tokens.sum().backward()
    found = tiny.gradients(vae)
    for name in names:
        assert found[name].abs().max() > 1e-5, name
    vae.eval()


def copies(vae: DocumentVAE, folder: Path) -> dict[str, DocumentVAE]:
    """However a model is copied."""
    vae.save_pretrained(folder)
    return {
        "deepcopy": copy.deepcopy(vae),
        "pickle": pickle.loads(pickle.dumps(vae)),
        "average": AveragedModel(vae).module,
        "saved": DocumentVAE.from_pretrained(folder),
    }


def assert_copies_score_the_same(vae: DocumentVAE, folder: Path) -> None:
    expected = token_log_prob(vae)
    for name, other in copies(vae, folder).items():
        torch.testing.assert_close(token_log_prob(other), expected, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def assert_steps_score_as_the_parallel_pass(vae: DocumentVAE) -> None:
    batch = tiny.batch_of(vae, [STORY])
    z = {"document": torch.randn(1, 6, generator=torch.Generator().manual_seed(0))}
    parallel = vae(batch, tiny.NOISE, z).text.token_log_prob
    vectors = vae.decoder.conditioner(z)
    stepped, before, cache = [], tiny.START, DynamicCache(config=vae.decoder.backbone.config)
    known = (batch.tokens, batch.token_sentence, batch.token_position)
    for token, sentence, context in zip(*(values.tolist() for values in known), strict=True):
        logits, _ = vae.decoder.step(torch.tensor([[before]]), vectors, cache, context)
        stepped.append(logits[0].log_softmax(-1)[token])
        before = token
        if token == tiny.END and sentence + 1 < len(batch.sentence_end):
            before, cache = tiny.START, DynamicCache(config=vae.decoder.backbone.config)
    torch.testing.assert_close(torch.stack(stepped), parallel, atol=1e-4, rtol=1e-4)


WITH_PREFIX = ("gpt2", "llama", "opt with a narrow embedding", "gemma2", "falcon", "mamba")


@pytest.mark.parametrize(
    ("family", "prefix_length"), [*((name, 0) for name in DECODERS), *((name, 2) for name in WITH_PREFIX)]
)
def test_every_decoder_works_throughout(family: str, prefix_length: int, tmp_path: Path) -> None:
    if family == "mamba" and prefix_length:
        with pytest.raises(ValueError, match=r"^decoder MambaForCausalLM does not keep .*prefix_length to 0$"):
            model(family, prefix_length=prefix_length)
        return
    vae = model(family, prefix_length=prefix_length)
    assert_copies_score_the_same(vae, tmp_path)
    learns(vae, "decoder.conditioner.output.weight", "hierarchy.levels.document.posterior.0.weight")
    options = SamplingOptions(max_sentence_tokens=4, max_children=2)
    (written,) = write_documents(vae, [open_plan(vae.config.hierarchy)], options, seed=0)
    assert len(written.sentences) == sum(written.structure[-1])
    assert_steps_score_as_the_parallel_pass(model(family, levels=("document",), prefix_length=prefix_length))


@pytest.mark.parametrize("family", DECODERS)
def test_every_decoder_keeps_dropped_sentences_out_or_says_that_it_cannot(family: str) -> None:
    if family == "mamba":
        with pytest.raises(ValueError, match=r"^decoder MambaForCausalLM takes no mask .*context_dropout to 0$"):
            model(family, context="document", context_dropout=0.5)
        return
    alone = model(family, levels=(), context="sentence").train(False)
    dropped = model(family, levels=(), context="document", context_dropout=0.999)
    batch, first = tiny.batch_of(dropped, [STORY]), tiny.batch_of(alone, [STORY])
    with torch.no_grad():
        masked = dropped.score_text({}, batch, tiny.NOISE).token_log_prob
        open_ = dropped.score_text({}, batch).token_log_prob
        # Positions go on where the context does, so the first sentence alone is the same.
        assert torch.equal(masked[batch.token_sentence == 0], open_[batch.token_sentence == 0])
        expected = alone.score_text({}, first).token_log_prob
    torch.testing.assert_close(masked[batch.token_sentence == 0], expected[first.token_sentence == 0])
    assert not torch.allclose(masked, open_)


@pytest.mark.parametrize("family", ENCODERS)
def test_every_encoder_works_throughout(family: str, tmp_path: Path) -> None:
    vae = model(encoder=family)
    assert_copies_score_the_same(vae, tmp_path)
    embedding = vae.encoder.backbone.get_input_embeddings().weight
    (name,) = (name for name, parameter in vae.named_parameters() if parameter is embedding)
    learns(vae, name)


def test_an_encoder_that_needs_its_decoder_is_refused() -> None:
    config = tiny.config()
    config.encoder_config = {"model_type": "bart", "d_model": 32, "encoder_layers": 1, "decoder_layers": 1}
    with pytest.raises(ValueError, match=r"^encoder 'bart' cannot be used without its decoder; .*T5$"):
        DocumentVAE(config)


class Doubled(GPT2LMHeadModel):
    """A family that does to its logits what nobody knows."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output


def test_a_decoder_that_changes_its_logits_unseen_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^decoder Doubled changes its logits .*$"):
        DocumentVAE(tiny.config(), decoder=Doubled(GPT2Config(**SPECIAL, **GPT2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba"])
def test_backbones_in_half_precision_and_latents_in_float32(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    vae = model(family)
    vae.save_pretrained(tmp_path)
    half = DocumentVAE.from_pretrained(tmp_path, dtype=dtype).eval()
    assert half.decoder.backbone.dtype == half.encoder.backbone.dtype == dtype
    batch = tiny.batch_of(vae, TEXTS)
    with torch.no_grad():
        ours, theirs = (each(batch, tiny.NOISE) for each in (half, vae))
    for level in ours.hierarchy.levels.values():
        assert {level.z.dtype, level.prior.mean.dtype, level.posterior.log_variance.dtype} == {torch.float32}
    close = {"atol": 0.3, "rtol": 0.05}
    torch.testing.assert_close(ours.text.token_log_prob, theirs.text.token_log_prob, **close)
    torch.testing.assert_close(ours.text.structure.logits, theirs.text.structure.logits, **close)
    options = SamplingOptions(max_sentence_tokens=4, max_children=2)
    assert write_documents(half, [open_plan(half.config.hierarchy)], options, seed=0)[0].sentences


def test_a_backbone_that_was_another_decoders_is_conditioned_once() -> None:
    first = model("llama")
    second = DocumentVAE(first.config, first.encoder.backbone, first.decoder.backbone).eval()
    second.load_state_dict(first.state_dict())
    fresh = model("llama")
    assert torch.equal(token_log_prob(second), token_log_prob(fresh))


@pytest.mark.parametrize("family", DECODERS)
def test_every_decoder_reads_packed_rows_as_others_or_says_that_it_cannot(family: str) -> None:
    """As a sentence alone: neither neighbours in the row nor the place in it show."""
    packed = model(family, levels=(), packing=True)
    if not packed.decoder.can_pack:
        assert family in ("mamba",)
        assert not model(family, levels=()).layout.row_tokens
        with pytest.raises(ValueError, match=r"set model.decoder.packing to false$"):
            _ = packed.layout
        return
    members = [STORY, *tiny.documents()]
    usual = model(family, levels=(), packing=False)
    with torch.no_grad():
        scores = [vae.score_text({}, tiny.batch_of(vae, members)).token_log_prob for vae in (packed, usual)]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)
