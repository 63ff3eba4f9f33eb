"""Saved models that hold their adapters and name their frozen backbones."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from textvae.build import build_model
from textvae.cli.main import main
from textvae.config import LoraConfig, ModelConfig
from textvae.data.text.processor import DocumentProcessor
from textvae.model.adapter import ADAPTER
from textvae.text_vae import HierarchicalTextVAE

Settings = Callable[..., ModelConfig]
Processors = Callable[..., DocumentProcessor]
TEXTS = ["The harbour lay quiet. A boat moved out.\n\nOld Marta watched it.", "Is there soup?"]


@pytest.fixture(params=["gpt2", "llama"])
def base(request: pytest.FixtureRequest, settings: Settings, make_processor: Processors, tmp_path: Path) -> str:
    """A pretrained decoder, as a folder."""
    torch.manual_seed(1)
    build_model(settings(model_type=request.param), make_processor()).decoder.backbone.save_pretrained(
        tmp_path / "base"
    )
    return str(tmp_path / "base")


def adapted(settings: Settings, processor: DocumentProcessor, name: str, **decoder: object) -> HierarchicalTextVAE:
    """Two levels on the decoder `name`, its adapters moved from where they start."""
    model = build_model(settings("document", "sentence", name=name, lora=LoraConfig(rank=2), **decoder), processor)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if ADAPTER in parameter_name:
                parameter.normal_(std=0.3)
    return model.eval()


def nll(model: HierarchicalTextVAE) -> torch.Tensor:
    batch = model.batch(model.process(TEXTS))
    z = {name: level.mean for name, level in model.latents(batch).items()}
    return model.score_text(z, batch).token_log_prob


@pytest.mark.parametrize("save_frozen", [True, False])
def test_a_saved_adapter_scores_what_it_scored(
    base: str, settings: Settings, make_processor: Processors, tmp_path: Path, save_frozen: bool
) -> None:
    model = adapted(settings, make_processor(), base, save_frozen=save_frozen)
    model.save_pretrained(tmp_path / "run")
    loaded = HierarchicalTextVAE.from_pretrained(tmp_path / "run").eval()
    torch.testing.assert_close(nll(loaded), nll(model), rtol=0, atol=0)
    own = loaded.decoder.backbone
    assert own.get_output_embeddings().weight is own.get_input_embeddings().weight or base.endswith("gpt2")


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
def test_frozen_weights_that_a_run_does_not_hold_are_in_the_numbers_that_were_asked_for(
    base: str, settings: Settings, make_processor: Processors, tmp_path: Path, dtype: torch.dtype | str
) -> None:
    adapted(settings, make_processor(), base, save_frozen=False).save_pretrained(tmp_path / "run")
    loaded = HierarchicalTextVAE.from_pretrained(tmp_path / "run", dtype=dtype).eval()
    assert {weight.dtype for weight in loaded.decoder.backbone.parameters()} == {torch.bfloat16}
    exact = {buffer.dtype for buffer in loaded.decoder.backbone.buffers() if buffer.is_floating_point()}
    assert exact <= {torch.float32}  # rotary positions
    assert {latents.mean.dtype for latents in loaded.encode(TEXTS).values()} == {torch.float32}
    own = loaded.decoder.backbone
    assert own.get_output_embeddings().weight is own.get_input_embeddings().weight or base.endswith("gpt2")
    assert nll(loaded).isfinite().all()


def test_the_base_is_left_out_but_for_what_is_trained(
    base: str, settings: Settings, make_processor: Processors, tmp_path: Path
) -> None:
    from safetensors import safe_open

    adapted(settings, make_processor(), base, save_frozen=False).save_pretrained(tmp_path / "run")
    with safe_open(tmp_path / "run" / "model.safetensors", "pt") as file:
        backbone = [name for name in file.keys() if name.startswith("decoder.backbone.")]  # noqa: SIM118
    assert backbone
    assert all(ADAPTER in name for name in backbone)


def test_an_adapter_on_another_base_is_refused(
    base: str, settings: Settings, make_processor: Processors, tmp_path: Path
) -> None:
    model = adapted(settings, make_processor(), base, save_frozen=False)
    model.save_pretrained(tmp_path / "run")
    other = build_model(settings(name=base), make_processor()).decoder.backbone
    with torch.no_grad():
        next(other.parameters()).mul_(1.001)
    other.save_pretrained(base)
    with pytest.raises(ValueError, match=r"trained on the frozen weights of .* has others"):
        HierarchicalTextVAE.from_pretrained(tmp_path / "run")


def test_a_run_with_adapters_lends_them_or_their_sum(
    base: str, settings: Settings, make_processor: Processors, tmp_path: Path
) -> None:
    """The same adapters are trained on; a model without starts from the merged weights."""
    run = str(tmp_path / "run")
    lent = adapted(settings, make_processor(), base, save_frozen=False)
    lent.save_pretrained(run)
    given = settings("document", name=run, lora=LoraConfig(rank=2), save_frozen=False)
    same = build_model(given, make_processor())
    for name, values in lent.decoder.backbone.state_dict().items():
        assert torch.equal(same.decoder.backbone.state_dict()[name], values)
    same.save_pretrained(tmp_path / "second")
    assert HierarchicalTextVAE.from_pretrained(tmp_path / "second").config.references["decoder"]["name"] == base
    ids = torch.tensor([[5, 6, 7]])
    merged = build_model(settings("document", name=run), make_processor()).eval()
    torch.testing.assert_close(merged.decoder.backbone(ids).logits, lent.decoder.backbone(ids).logits)
    frozen = replace(given, decoder=replace(given.decoder, lora=None, trainable=False))
    with pytest.raises(ValueError, match="save_frozen=true"):
        build_model(frozen, make_processor()).save_pretrained(tmp_path / "third")


@pytest.mark.parametrize("save_frozen", [True, False])
def test_merged_the_model_is_whole_and_scores_what_it_scored(
    base: str, settings: Settings, make_processor: Processors, tmp_path: Path, save_frozen: bool
) -> None:
    run, merged = tmp_path / "run", tmp_path / "merged"
    model = adapted(settings, make_processor(), base, save_frozen=save_frozen, trainable=False)
    model.save_pretrained(run)
    assert main(["merge", "--model", str(run), "--out", str(merged)]) == 0
    shutil.rmtree(base)
    loaded = HierarchicalTextVAE.from_pretrained(merged).eval()
    torch.testing.assert_close(nll(loaded), nll(model))
    assert not any(ADAPTER in name for name in loaded.state_dict())
    assert not loaded.config.references
    again = adapted(settings, make_processor(), str(merged), save_frozen=False)
    with pytest.raises(ValueError, match="save_frozen=true"):
        again.save_pretrained(tmp_path / "again")


def test_without_adapters_there_is_nothing_to_merge(
    settings: Settings, make_processor: Processors, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_model(settings("document"), make_processor()).save_pretrained(tmp_path / "run")
    assert main(["merge", "--model", str(tmp_path / "run"), "--out", str(tmp_path / "merged")]) == 2
    assert "there are no adapters to merge" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()
