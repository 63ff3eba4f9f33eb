"""GGUF files as backbones: exactly their weights, made once and whole, or one line that says why not."""

import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from huggingface_hub import constants
from run_scripts import SECONDS, SERVER
from shared import STORY
from tiny_gguf import chat_tokenizer, gguf_tensors, tiny_llama, write_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

from textvae import gguf_files
from textvae.gguf_files import dequantised
from textvae.pretrained import resolve_backbone


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folders go, empty."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "textvae"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The content of the tiny Llama's file."""
    path = tmp_path_factory.mktemp("gguf") / "llama.gguf"
    write_llama(path, gguf_tensors(tiny_llama()))
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path, whole: bytes) -> Path:
    """The tiny Llama in float32, its name in capitals as some write it."""
    path = tmp_path / "tiny.GGUF"
    path.write_bytes(whole)
    return path


def held(cache: Path) -> list[str]:
    """What the cache holds, hidden entries too."""
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_a_file_gives_a_folder_with_exactly_its_model(file: Path) -> None:
    original = tiny_llama()
    folder = resolve_backbone(str(file))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.state_dict().keys() == original.state_dict().keys()
    for name, weight in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, original(ids).logits)


def test_a_file_gives_its_tokenizer(file: Path) -> None:
    original = chat_tokenizer()
    loaded = AutoTokenizer.from_pretrained(resolve_backbone(str(file)))
    text = STORY + "<|im_end|>Naïve 今 😀<|endoftext|>"
    assert loaded.get_vocab() == original.get_vocab()
    assert loaded(text)["input_ids"] == original(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (1, 2, 2)


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_1], ids=lambda kind: kind.name)
def test_quantised_tensors_are_what_the_package_gguf_makes_of_them(kind: Kind, tmp_path: Path) -> None:
    tensors = gguf_tensors(tiny_llama())
    names = ["token_embd.weight", "blk.0.ffn_down.weight", "blk.1.attn_v.weight"]
    packed = {name: gguf.quants.quantize(tensors[name], kind) for name in names}
    write_llama(tmp_path / "packed.gguf", {**tensors, **packed}, dict.fromkeys(names, kind))
    model = AutoModelForCausalLM.from_pretrained(dequantised(tmp_path / "packed.gguf"), dtype="auto")
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    loaded = gguf_tensors(model)
    for name, tensor in tensors.items():
        expected = gguf.quants.dequantize(packed[name], kind) if name in packed else tensor
        assert np.array_equal(loaded[name], expected), name
        assert (name in packed) == (not np.array_equal(loaded[name], tensor)), name


def test_a_second_call_finds_the_folder(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dequantised(file)
    before = (folder / "model.safetensors").stat()
    monkeypatch.setitem(sys.modules, "gguf", None)  # which importing then fails
    assert dequantised(file) == folder
    after = (folder / "model.safetensors").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert held(cache) == [folder.name]


def test_another_file_under_the_same_name_is_another_folder(file: Path, cache: Path) -> None:
    first = dequantised(file)
    other = tiny_llama()
    torch.nn.init.ones_(other.model.norm.weight)
    write_llama(file, gguf_tensors(other))
    second = dequantised(file)
    assert held(cache) == sorted([first.name, second.name])
    assert (AutoModelForCausalLM.from_pretrained(second).model.norm.weight == 1).all()


def test_random_numbers_do_not_depend_on_what_the_cache_holds(file: Path) -> None:
    state = torch.random.get_rng_state()
    dequantised(file)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_one_process_may_overtake_another(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = gguf_files._convert
    faster: list[int] = []

    def overtaken(source: Path, folder: Path) -> None:
        monkeypatch.setattr(gguf_files, "_convert", convert)
        convert(source, folder)
        assert all(name.startswith(".") for name in held(cache)), "seen before it is whole"
        faster.append((dequantised(source) / "model.safetensors").stat().st_ino)

    monkeypatch.setattr(gguf_files, "_convert", overtaken)
    folder = dequantised(file)
    assert held(cache) == [folder.name]
    assert (folder / "model.safetensors").stat().st_ino == faster[0]


def convert(file: Path, home: str, told: Path, together: Barrier) -> None:
    """Alone in its process."""
    constants.HF_HOME = home
    together.wait(SECONDS)
    told.write_text(str(dequantised(file)), encoding="utf-8")


def test_processes_at_once_leave_one_whole_folder(file: Path, cache: Path, tmp_path: Path) -> None:
    told = [tmp_path / "one.txt", tmp_path / "two.txt"]
    together = SERVER.Barrier(len(told))
    both = [SERVER.Process(target=convert, args=(file, str(cache.parent), path, together)) for path in told]
    for process in both:
        process.start()
    for process in both:
        process.join(SECONDS)
    assert [process.exitcode for process in both] == [0, 0]
    folders = {path.read_text(encoding="utf-8") for path in told}
    assert held(cache) == [Path(folder).name for folder in folders]
    model = AutoModelForCausalLM.from_pretrained(folders.pop())
    assert torch.equal(model.lm_head.weight, tiny_llama().lm_head.weight)


def refusal(file: Path, cache: Path, kind: type[Exception] = ValueError) -> str:
    """The one line that says why `file` is of no use; nothing of it stays in the cache."""
    with pytest.raises(kind) as caught:
        resolve_backbone(str(file))
    message = str(caught.value)
    assert held(cache) == []
    assert message.startswith(str(file))
    assert len(message.splitlines()) == 1
    return message


def test_without_the_package_gguf_it_is_asked_for(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)  # which importing then fails
    assert "pip install gguf" in refusal(file, cache, OSError)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [("hopfield", "architecture hopfield is not supported"), ("t5encoder", "for this kind of AutoModel")],
)
def test_what_is_no_language_model_that_transformers_reads_is_refused(
    architecture: str, reason: str, file: Path, cache: Path
) -> None:
    write_llama(file, gguf_tensors(tiny_llama()), architecture=architecture)
    assert reason in refusal(file, cache)


@pytest.mark.parametrize("share", [0, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.5, 0.9999])
def test_a_truncated_file_is_refused(share: float, file: Path, whole: bytes, cache: Path) -> None:
    file.write_bytes(whole[: int(share * len(whole))])
    assert "cannot be read as a GGUF model" in refusal(file, cache)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GGUF", b"GGML"),
        (b"llama.block_count", b"llama.block_c\xffunt"),
        (b"llama.embedding_length", b"llama.embedding_width_"),
        (b"general.architecture", b"general.xrchitecture"),
        (b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"),
        (b"tokenizer.ggml.merges", b"tokenizer.ggml.mergez"),
    ],
    ids=lambda part: part.decode("latin-1"),
)
def test_a_damaged_file_is_refused(old: bytes, new: bytes, file: Path, whole: bytes, cache: Path) -> None:
    file.write_bytes(whole.replace(old, new))
    assert file.read_bytes() != whole
    assert "cannot be read as a GGUF model" in refusal(file, cache)


def test_weights_that_are_missing_are_not_made_up(file: Path, cache: Path) -> None:
    tensors = gguf_tensors(tiny_llama())
    del tensors["blk.1.ffn_up.weight"]
    write_llama(file, tensors)
    assert "holds" in refusal(file, cache)


def test_weights_that_would_not_be_read_are_not_passed_over(file: Path, cache: Path) -> None:
    # So llama.cpp writes how Llama 3 scales its rotary embedding.
    write_llama(file, {**gguf_tensors(tiny_llama()), "rope_freqs.weight": np.ones(4, np.float32)})
    assert "holds" in refusal(file, cache)
