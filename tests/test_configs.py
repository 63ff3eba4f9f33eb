"""Every configuration of the repository builds a model and takes a step, shrunk, with what it starts from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from textvae.build import build_model
from textvae.config import Config, ModelConfig, parse, to_dict
from textvae.config_file import load_config
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.data.text.processor import DocumentProcessor
from textvae.runs import RunFolder, load_run
from textvae.training.loop import train

CONFIGS = {path.stem: path for path in sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))}
SMALL = (
    "data.batch_tokens=100",
    "data.micro_batch_tokens=100",
    "data.num_workers=0",
    "model.units.width=16",
    "model.units.layers=1",
    "model.units.heads=2",
    "model.decoder.conditioning_width=16",
    "train.steps=1",
    "train.validation_documents=2",
    "train.tracker=none",
)
SMALL_GPT2 = ("n_layer=1", "n_embd=16", "n_head=2")


@pytest.fixture(scope="module")
def sentences(prepared: Path, encoder_folder: str, decoder_folder: str, tmp_path_factory: Any) -> Path:
    """The documents of `prepared` one level deep, as Penn Treebank's configurations want them."""
    out = tmp_path_factory.mktemp("sentences") / "prepared"
    prepare(
        PrepareOptions(
            str(prepared.parent / "corpus.jsonl"),
            str(out),
            hierarchy=("sentence",),
            encoder=encoder_folder,
            decoder=decoder_folder,
            max_sentence_tokens=256,
            validation_fraction=0.2,
        )
    )
    return out


@pytest.fixture(scope="module")
def pretrained(
    settings: Callable[..., ModelConfig],
    make_processor: Callable[[], DocumentProcessor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A decoder of a family that adapters know, as deep as what conditions some of its blocks needs."""
    folder = tmp_path_factory.mktemp("pretrained")
    deep = settings(model_type="llama", architecture={"num_hidden_layers": 4})
    build_model(deep, make_processor()).decoder.backbone.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def trained(
    prepared: Path,
    sentences: Path,
    encoder_backbone: str,
    pretrained: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:
    """Name of a configuration -> its run, after one step; what it starts from is trained first, in the same way."""
    runs: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("runs")

    def run(name: str) -> Path:
        if name not in runs:
            full = load_config(CONFIGS[name])
            decoder, start = full.model.decoder.name, full.train.start_from
            # What is no run is a pretrained decoder.
            own_run = decoder is not None and Path(decoder).name in CONFIGS
            changes = [f"model.decoder.name={run(Path(decoder).name) if own_run else pretrained}"] if decoder else []
            changes += [f"train.start_from={run(Path(start).name)}"] if start else []
            if full.model.decoder.architecture:
                changes += [f"model.decoder.architecture.{size}" for size in SMALL_GPT2]
            data = sentences if name.startswith("ptb") else prepared
            places = [f"data.path={data}", f"model.encoder.name={encoder_backbone}", f"train.output={folder / name}"]
            runs[name] = train(load_config(CONFIGS[name], [*SMALL, *places, *changes]))
        return runs[name]

    return run


def test_there_are_configurations() -> None:
    assert CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_takes_a_step(name: str, trained: Callable[[str], Path]) -> None:
    config = load_config(CONFIGS[name])
    assert parse(Config, to_dict(config), "itself") == config
    assert config.train.output == f"runs/{name}"
    run = trained(name)
    assert [(record["step"], record["split"]) for record in RunFolder(run).records()] == [
        (1, "train"),
        (1, "validation"),
    ]
    assert load_run(run).level_names == tuple(level.name for level in config.model.levels)
