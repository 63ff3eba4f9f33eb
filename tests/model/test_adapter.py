"""Adapters and partial unfreezing: what is trained, what a merge leaves, what cannot be."""

from copy import deepcopy

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertModel, GPT2Config, LlamaConfig, PreTrainedModel

from textvae.config import LoraConfig
from textvae.model.adapter import ADAPTER, base_name, frozen_weights, has_adapters, merge_adapters, set_trainable

IDS = torch.tensor([[3, 1, 4, 1, 5, 9]])


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=3, n_embd=16, n_head=2, vocab_size=13, bos_token_id=None, eos_token_id=None)
    return AutoModelForCausalLM.from_config(config).eval()


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=3,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        vocab_size=13,
        tie_word_embeddings=True,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def trained(backbone: PreTrainedModel) -> set[str]:
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def move_adapters(backbone: PreTrainedModel) -> None:
    for name, parameter in backbone.named_parameters():
        if ADAPTER in name:
            parameter.normal_(std=0.3)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_adapters_start_as_nothing_and_are_all_that_is_trained(make) -> None:
    plain, backbone = make(), make()
    set_trainable(backbone, False, LoraConfig(rank=2))
    torch.testing.assert_close(backbone(IDS).logits, plain(IDS).logits)
    assert trained(backbone)
    assert all(ADAPTER in name for name in trained(backbone))
    blocks = {part for name in trained(backbone) for part in name.split(".") if part.isdigit()}
    assert blocks == {"0", "1", "2"}
    assert not any("lm_head" in name for name in trained(backbone))


@pytest.mark.parametrize("make", [gpt2, llama])
def test_merged_adapters_compute_the_same(make) -> None:
    backbone = make()
    names = set(backbone.state_dict())
    set_trainable(backbone, False, LoraConfig(rank=2, alpha=3.0))
    move_adapters(backbone)
    expected = backbone(IDS).logits
    assert not torch.allclose(expected, make()(IDS).logits, atol=1e-2), "the adapters must matter"
    merge_adapters(backbone)
    torch.testing.assert_close(backbone(IDS).logits, expected)
    assert set(backbone.state_dict()) == names
    assert not has_adapters(backbone)


def test_targets_choose_the_layers() -> None:
    backbone = llama()
    set_trainable(backbone, False, LoraConfig(targets=("q_proj", "model.layers.1.mlp.up_proj")))
    layers = {name.partition(f".{ADAPTER}")[0] for name in trained(backbone)}
    assert layers == {f"model.layers.{n}.self_attn.q_proj" for n in range(3)} | {"model.layers.1.mlp.up_proj"}


def test_the_last_blocks_and_the_final_norm_alone() -> None:
    backbone = gpt2()
    set_trainable(backbone, "last 2", None)
    assert {name.split(".")[1] for name in trained(backbone)} == {"h", "ln_f"}
    assert {name.split(".")[2] for name in trained(backbone) if ".h." in name} == {"1", "2"}
    encoder = BertModel(BertConfig(num_hidden_layers=3, hidden_size=16, num_attention_heads=2, intermediate_size=24))
    set_trainable(encoder, "last 1", None)
    assert all(name.startswith("encoder.layer.2.") for name in trained(encoder))


def test_what_is_frozen_is_named_as_without_adapters() -> None:
    backbone = llama()
    plain = deepcopy(backbone.state_dict())
    set_trainable(backbone, "last 1", LoraConfig())
    frozen = frozen_weights(backbone)
    assert frozen.keys() == {n for n in plain if not n.startswith(("model.layers.2.", "model.norm"))}
    assert all(torch.equal(values, plain[name]) for name, values in frozen.items())
    assert base_name("model.layers.0.mlp.up_proj.base_layer.weight") == "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("trainable", "lora", "said"),
    [
        (False, LoraConfig(targets=("query",)), "'query' matches no layer; this backbone's are .*down_proj.*q_proj"),
        (False, LoraConfig(targets=("lm_head",)), "'lm_head' is the output layer, which is tied"),
        ("last 4", None, "last 4, but LlamaForCausalLM has 3 blocks"),
    ],
)
def test_what_cannot_be_is_said(trainable: bool | str, lora: LoraConfig | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        set_trainable(llama(), trainable, lora)
