"""What `from_pretrained` reads and `save_pretrained` writes: wherever it lies, of any version, in any type."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import modeling_utils
from transformers.utils import hub

from textvae.text_vae import HierarchicalTextVAE
from textvae.writing.options import SamplingOptions

TEXT = "The harbour lay quiet. A single boat moved out.\n\nOld Marta watched it."
LEVELS = ("document", "paragraph", "sentence")


@pytest.fixture(scope="module")
def run(make_run: Callable[..., str]) -> Path:
    return Path(make_run(*LEVELS))


def theme(model: HierarchicalTextVAE) -> torch.Tensor:
    return model.encode(TEXT)["document"].mean


def test_one_text_is_one_document(run: Path) -> None:
    model = HierarchicalTextVAE.from_pretrained(run)
    assert torch.equal(theme(model), model.encode([TEXT])["document"].mean)
    assert theme(model).shape[0] == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_encodes_and_writes(run: Path, dtype: torch.dtype) -> None:
    whole, half = HierarchicalTextVAE.from_pretrained(run), HierarchicalTextVAE.from_pretrained(run, dtype=dtype)
    assert half.decoder.backbone.dtype == dtype
    latents = half.encode(TEXT)
    assert {level.mean.dtype for level in latents.values()} == {torch.float32}
    torch.testing.assert_close(latents["document"].mean, theme(whole), atol=0.1, rtol=0.1)
    options = SamplingOptions(max_sentence_tokens=5, max_children=2)
    assert half.generate(latents["document"].mean[0], options=options)[0].text


def test_runs_of_version_0_1_are_read(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / "checksums.json").unlink()  # they had none
    names = {"decoder.topic_head.unigram": "decoder.unigram", "decoder.topic_head.weight": "decoder.vocabulary.weight"}
    weights = load_file(run / "model.safetensors")
    assert names.keys() <= weights.keys()
    renamed = {names.get(name, name): value for name, value in weights.items()}
    save_file(renamed, old / "model.safetensors", {"format": "pt"})
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config |= {"encoder": config.pop("encoder_config"), "decoder": config.pop("decoder_config")}
    (old / "config.json").write_text(json.dumps(config), encoding="utf-8")
    before, after = (HierarchicalTextVAE.from_pretrained(folder).state_dict() for folder in (run, old))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_processor_comes_from_where_the_weights_come_from(run: Path, tmp_path: Path) -> None:
    """A revision of a Hub repository, in a folder of it, out of a cache of one's own, without a network."""
    repository = tmp_path / "models--some--model"
    shutil.copytree(run, repository / "snapshots" / "abc" / "inner")
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text("abc")
    place: dict[str, Any] = {
        "revision": "v2",
        "subfolder": "inner",
        "cache_dir": str(tmp_path),
        "local_files_only": True,
    }
    loaded = HierarchicalTextVAE.from_pretrained("some/model", **place)
    assert torch.equal(theme(loaded), theme(HierarchicalTextVAE.from_pretrained(run)))
    inside = HierarchicalTextVAE.from_pretrained(repository / "snapshots" / "abc", subfolder="inner")
    assert torch.equal(theme(inside), theme(loaded))


def test_what_is_pushed_is_whole(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is not there; what would be handed to it is."""
    pushed: list[str] = []

    class Hub:
        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Repository", (), {"repo_id": repo_id})

        def create_commit(self, repo_id: str, operations: Any, **_: Any) -> None:
            pushed.extend(f"{repo_id}/{operation.path_in_repo}" for operation in operations)

    class Card:
        def save(self, _: str) -> None: ...

    for module in (hub, modeling_utils):
        monkeypatch.setattr(module, "hf_api", Hub)
        monkeypatch.setattr(module, "create_and_tag_model_card", lambda *_, **__: Card())
    model = HierarchicalTextVAE.from_pretrained(run)
    model.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="me/mine", commit_message="Mine")
    assert (tmp_path / "mine" / "processor.json").is_file()
    files = {path.relative_to(tmp_path / "mine").as_posix() for path in (tmp_path / "mine").rglob("*.*")}
    assert {f"me/mine/{name}" for name in files} <= set(pushed)
    assert {"me/mine/processor.json", "me/mine/model.safetensors"} <= set(pushed)
