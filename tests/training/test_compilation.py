"""Training with compiled blocks is training without them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from training_runs import Settings, assert_close_records, assert_close_weights, configured, final_weights, train_until

from textvae.build import build_model
from textvae.data.dataset import load_prepared
from textvae.training.compilation import compile_blocks
from textvae.training.loop import train, validate

# Of torch, about what it does itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]
LEVELS = ("document", "paragraph", "sentence")


def num_graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_a_compiled_run_is_the_run(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    """In two blocks, with rows of many shapes, documents computed twice for want of memory, and a kill after which it
    goes on uncompiled; a few graphs serve all of it, and names of weights stay what they are."""
    model = settings(*LEVELS, architecture={"n_layer": 2}, word_dropout=0.2, packing=False)
    options: dict[str, Any] = {"micro_batch_tokens": 60, "save_every": 6}
    before = num_graphs()
    usual = train(configured(prepared, tmp_path / "usual", model, **options))
    assert num_graphs() == before
    config = configured(prepared, tmp_path / "compiled", model, compile=True, **options)
    train_until(config, 7)
    assert 2 <= num_graphs() - before - 1 <= 6, "one is that of the check"
    went_on = replace(config.train, resume=True, compile=False)
    compiled = train(replace(config, train=went_on))
    assert_close_records(compiled, usual, tolerance=1e-3)
    assert_close_weights(compiled, usual)
    assert final_weights(compiled).keys() == final_weights(usual).keys()
    assert load_file(compiled / "model.safetensors").keys() == load_file(usual / "model.safetensors").keys()


def test_validation_runs_as_it_was_written(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    config = configured(prepared, tmp_path, settings(*LEVELS), compile=True)
    split, accelerator = load_prepared(prepared, "validation"), Accelerator(mixed_precision="no")
    model = build_model(config.model, split.processor)
    before, graphs = validate(model, split, config, accelerator).report(), num_graphs()
    compile_blocks(model)
    assert validate(model, split, config, accelerator).report() == before
    assert num_graphs() == graphs


def test_without_a_compiler_nothing_is_begun(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    torch.compiler.reset()
    message = (
        r"needs a C\+\+ compiler that torch can use \(.*/nowhere/g\+\+.*\): install g\+\+, name another one in .* CXX"
    )
    with inductor.patch({"cpp.cxx": ("/nowhere/g++",)}), pytest.raises(ValueError, match=message):
        train(configured(prepared, tmp_path / "run", settings(*LEVELS), compile=True))
    assert not (tmp_path / "run").exists()
