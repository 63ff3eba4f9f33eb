import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from textvae.build import build_model
from textvae.config import DecoderConfig, ModelConfig
from textvae.data.text.processor import DocumentProcessor
from textvae.data.text.tokenizer import train_sentencepiece
from textvae.runs import load_run
from textvae.text_vae import HierarchicalTextVAE

Settings = Callable[..., ModelConfig]
Processors = Callable[..., DocumentProcessor]
TEXTS = ["The harbour lay quiet. A boat moved out.\n\nOld Marta watched it.", "Is there soup?"]


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in model.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_backbones_come_with_their_weights(settings: Settings, make_processor: Processors, tmp_path: Path) -> None:
    first = build_model(settings("document"), make_processor())
    first.decoder.backbone.save_pretrained(tmp_path)
    built = build_model(settings("document", name=str(tmp_path)), make_processor())
    assert_equal(weights(built.decoder.backbone), weights(first.decoder.backbone))
    assert_equal(weights(built.encoder), weights(first.encoder))


def test_backbones_of_half_precision_are_trained_in_full(
    settings: Settings, make_processor: Processors, tmp_path: Path
) -> None:
    """Small updates vanish in bfloat16; mixed precision is the trainer's business."""
    build_model(settings(), make_processor()).decoder.backbone.to(torch.bfloat16).save_pretrained(tmp_path)
    built = build_model(settings(name=str(tmp_path)), make_processor())
    assert {parameter.dtype for parameter in built.parameters()} == {torch.float32}
    built.write([built.plan(TEXTS[0])])


def test_a_trained_encoder_is_read_at_its_end(settings: Settings, make_processor: Processors) -> None:
    given = settings("document")
    build_model(replace(given, encoder=replace(given.encoder, layers=(0,))), make_processor())
    with pytest.raises(ValueError, match="would never learn"):
        build_model(replace(given, encoder=replace(given.encoder, layers=(0,), trainable=True)), make_processor())


def test_a_run_lends_its_decoder(settings: Settings, make_processor: Processors, tmp_path: Path) -> None:
    plain = build_model(settings(), make_processor())
    plain.save_pretrained(tmp_path)
    built = build_model(settings("document", "sentence", name=str(tmp_path)), make_processor())
    assert_equal(weights(built.decoder.backbone), weights(plain.decoder.backbone))


def test_a_run_of_another_vocabulary_is_refused(settings: Settings, make_processor: Processors, tmp_path: Path) -> None:
    """Of the same size, too: its token ids would mean other words."""
    build_model(settings(), make_processor()).save_pretrained(tmp_path)
    own = make_processor()
    other = train_sentencepiece(["zu viele köche verderben den brei, sagt man in deutschland oft und gern"] * 50, 300)
    processor = DocumentProcessor(own.hierarchy, own.encoder_tokenizer, other, own.max_sentence_tokens)
    with pytest.raises(ValueError, match="another vocabulary"):
        build_model(replace(settings(), decoder=DecoderConfig(name=str(tmp_path))), processor)


def test_the_vocabulary_is_the_tokenizers(settings: Settings, make_processor: Processors) -> None:
    processor = make_processor()
    built = build_model(settings("sentence"), processor)
    assert built.decoder.backbone.get_input_embeddings().num_embeddings == len(processor.decoder_tokenizer)
    assert built.layout.end_id == processor.decoder_tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": {}, "name": None}, "needs a name .* or an architecture"),
        ({"name": "somewhere", "architecture": {"model_type": "gpt2"}}, "not both"),
        ({"architecture": {"model_type": "no-such-model"}}, "model.decoder.architecture"),
        ({"architecture": {"model_type": "gpt2", "vocab_size": 10}}, "knows|tokens"),
        ({"context": "chapter"}, "no level 'chapter'"),
    ],
)
def test_a_decoder_that_cannot_be_built_is_explained(
    settings: Settings, make_processor: Processors, change: dict[str, object], message: str
) -> None:
    given = settings("document")
    with pytest.raises(ValueError, match=message):
        build_model(replace(given, decoder=replace(given.decoder, **change)), make_processor())


def test_a_backbone_of_another_vocabulary_is_refused(settings: Settings, make_processor: Processors) -> None:
    processor = make_processor()
    given = settings("document")
    larger = deepcopy(processor.encoder_tokenizer)
    larger.add_tokens([f"<new-{n}>" for n in range(1000)])
    wrong = DocumentProcessor(processor.hierarchy, larger, processor.decoder_tokenizer, 48)
    with pytest.raises(ValueError, match=r"encoder .* knows .* tokens but the data were prepared"):
        build_model(given, wrong)


def test_too_few_positions_are_noticed_before_training(settings: Settings, make_processor: Processors) -> None:
    """48 tokens and an end for a sentence; 256 behind it in a document, rounded up to a row's length."""
    build_model(settings("document", architecture={"n_positions": 64}), make_processor())
    with pytest.raises(ValueError, match="positions"):
        build_model(settings("document", architecture={"n_positions": 48}), make_processor())
    with pytest.raises(ValueError, match="context_tokens"):
        build_model(settings("document", context="document", architecture={"n_positions": 256}), make_processor())


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
@pytest.mark.parametrize("levels", [("document", "paragraph", "sentence"), ("sentence",), ()], ids=str)
def test_what_is_saved_is_what_is_loaded(
    settings: Settings, make_processor: Processors, tmp_path: Path, levels: tuple[str, ...], model_type: str
) -> None:
    torch.manual_seed(3)
    model = build_model(settings(*levels, model_type=model_type), make_processor()).eval()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["model_type"] == "textvae"
    torch.manual_seed(4)
    loaded = HierarchicalTextVAE.from_pretrained(tmp_path).eval()
    assert_equal(weights(loaded), weights(model))
    backbone = loaded.decoder.backbone
    assert backbone.get_output_embeddings().weight is backbone.get_input_embeddings().weight, "still tied"
    if levels:
        for name, level in model.encode(TEXTS).items():
            assert torch.equal(loaded.encode(TEXTS)[name].mean, level.mean)
    assert loaded.process(TEXTS)[0].decoder_ids == model.process(TEXTS)[0].decoder_ids
    assert load_run(tmp_path).training is False


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "processor.json"])
def test_an_incomplete_run_is_explained(
    settings: Settings, make_processor: Processors, tmp_path: Path, missing: str
) -> None:
    build_model(settings("sentence"), make_processor()).save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ValueError, match=f"not a complete run: {missing} missing"):
        load_run(tmp_path)


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run folder"):
        load_run(tmp_path / "none")
