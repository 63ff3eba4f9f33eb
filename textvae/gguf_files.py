"""Quantised weights in the GGUF format as an ordinary Hugging Face folder of dense ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def dequantised(file: Path) -> Path:
    """The folder with what GGUF `file` holds, dense in float32: model, configuration and tokenizer.

    It is made once and kept in the cache (`HF_HOME`), under the name and the SHA-256 of the file; torch's random
    numbers go on as if it had been there. Raises OSError if the package `gguf` is not installed, ValueError for a
    file that is damaged, of an architecture that transformers cannot read, or not read as a whole.
    """
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    folder = Path(constants.HF_HOME) / "textvae" / f"{file.stem}-{digest[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as aside:
        whole = Path(aside) / folder.name
        _convert(file, whole)
        try:
            os.replace(whole, folder)
        except OSError:
            # Another process may have been faster; what it wrote is the same.
            if not folder.is_dir():
                raise
    return folder


def _convert(file: Path, folder: Path) -> None:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise OSError(f"{file} is a GGUF file, which the package gguf reads: pip install gguf") from None
    dense = GgufConfig(dequantize=True)  # without it the model bears a mark that forbids saving
    try:
        held = sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors)
        loaded = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=dense
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # whatever the bytes of a damaged file lead its readers to
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{file} cannot be read as a GGUF model ({reason}); is it whole?") from None
    read = sum(parameter.numel() for parameter in loaded.parameters())
    if held != read:
        raise ValueError(
            f"{file} holds {held:,} numbers but transformers makes a model of {read:,} of it, so not the one that was "
            "published; give the folder of its original weights"
        )
    loaded.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
