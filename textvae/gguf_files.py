"""Quantised weights in the GGUF format as an ordinary Hugging Face folder of dense ones."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
from functools import cache
from pathlib import Path

import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel


@cache
def dequantised(file: Path) -> Path:
    """The folder with what GGUF `file` holds, dense in float32: model, configuration and tokenizer.

    It is made once and kept in the cache (`HF_HOME`), under the name and the SHA-256 of the file. Raises OSError if the
    package `gguf` is not installed, ValueError for a file that is damaged or of an architecture that transformers
    cannot read.
    """
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    folder = Path(constants.HF_HOME) / "textvae" / f"{file.stem}-{digest[:16]}"
    if folder.is_dir():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise OSError(f"{file.name} is a GGUF file, which the package gguf reads: pip install gguf")
    partial = folder.parent / f".{folder.name}.{os.getpid()}"
    partial.mkdir(parents=True, exist_ok=True)
    try:
        _convert(file, partial)
        # Another process may have been faster; what it wrote is the same.
        if not folder.is_dir():
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _convert(file: Path, folder: Path) -> None:
    try:
        loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise ValueError(f"{file} cannot be read as a GGUF model: {error}") from None
    _unquantised(loaded).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _unquantised(loaded: PreTrainedModel) -> PreTrainedModel:
    """The same model without the mark of quantisation, which forbids saving."""
    config = loaded.config
    del config.quantization_config
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    return model
