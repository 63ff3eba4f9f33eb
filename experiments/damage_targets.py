"""What `damaged_files.py` damages: everything that textvae reads, made by training a tiny model, and how it is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from hostile_documents import tiny_model

from textvae.config import (
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    LevelConfig,
    ModelConfig,
    TrainConfig,
    UnitConfig,
    to_dict,
)
from textvae.config_file import load_config
from textvae.damage import CHECKSUMS_FILE
from textvae.data.dataset import METADATA_FILE, load_prepared, open_documents
from textvae.data.document import SourceDocument
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.model.noise import KeyedNoise
from textvae.runs import RunFolder, load_run
from textvae.search.embed import embed_corpus
from textvae.search.index import Index
from textvae.training.loop import train
from textvae.training.state_file import read_state

TEXT = "The wind rose. The boat moved out.\n\nIs there soup?"


@dataclass(frozen=True)
class Target:
    """Files that are opened together."""

    folder: Path
    files: tuple[Path, ...]
    """Those that are damaged."""
    read: Callable[[], Any]
    """Opens them; what it returns can be compared."""
    noticed: Callable[[Path], bool]
    """Whether there is a checksum of a file, so that it must not read as something else."""
    writes: bool = False
    """Whether opening them writes into the folder."""


def build(folder: Path) -> dict[str, Target]:
    """By name, everything that textvae reads."""
    base = tiny_model(folder)
    words = ("boat", "wind", "light", "wall", "soup", "night")
    texts = [f"A {word} came at {n}. It was late.\n\nThe {word} rose. So." for n, word in enumerate(words * 4)]
    lines = [json.dumps({"id": f"d{n}", "text": text}) for n, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data, run, index, configs = (folder / name for name in ("data", "trained", "index", "configs"))
    prepare(
        PrepareOptions(str(folder / "corpus.jsonl"), str(data), str(folder / "encoder"), base, max_sentence_tokens=48)
    )
    config = configured(data, run, folder / "encoder")
    train(config)
    trained = RunFolder(run)
    # As if it had been killed then: a step is left to do.
    shutil.rmtree(trained.step_folder(config.train.steps))
    (trained.checkpoints / "latest").write_text("step-000003\n", encoding="utf-8")
    model = load_run(run, "cpu")
    embed_corpus(model, open_documents(str(data), model.processor, "train"), index, str(run))
    configs.mkdir()
    (configs / "below.yaml").write_text(yaml.safe_dump(to_dict(config)), encoding="utf-8")
    (configs / "above.yaml").write_text(
        "base: below.yaml\ntrain: {steps: 7, learning_rate: 1.0e-4}\n", encoding="utf-8"
    )
    resumed = replace(config, train=replace(config.train, resume=True))

    def of(root: Path) -> tuple[Path, ...]:
        return tuple(sorted(path for path in root.rglob("*") if path.is_file()))

    of_training = ("config.yaml", "metrics.jsonl", "versions.json")
    of_run = [
        path for path in of(run) if path.parent != trained.checkpoints and trained.checkpoints not in path.parents
    ]
    return {
        "configuration": Target(
            configs, of(configs), lambda: to_dict(load_config(configs / "above.yaml")), lambda file: False
        ),
        "log": Target(run, (trained.metrics,), trained.records, lambda file: False),
        "model": Target(
            run,
            tuple(path for path in of_run if path.name not in of_training),
            lambda: read_model(run),
            lambda file: file.name != CHECKSUMS_FILE,
        ),
        "data set": Target(data, of(data), lambda: read_data(data), lambda file: file.name != METADATA_FILE),
        "index": Target(index, of(index), lambda: read_index(index), lambda file: file.parent != index),
        "resume": Target(
            run,
            (trained.config, trained.metrics, *of(trained.checkpoints)),
            lambda: resume(resumed),
            lambda file: trained.checkpoints in file.parents,
            writes=True,
        ),
    }


def configured(data: Path, run: Path, encoder: Path) -> Config:
    decoder = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 512}
    return Config(
        DataConfig(str(data), 200, 200),
        ModelConfig(
            levels=(LevelConfig("document", 4), LevelConfig("sentence", 4)),
            units=UnitConfig(width=16, layers=1, heads=2),
            encoder=EncoderConfig(name=str(encoder)),
            decoder=DecoderConfig(architecture=decoder, conditioning_width=8, logit_rank=4),
        ),
        train=TrainConfig(str(run), 4, log_every=1, save_every=1, validate_every=2, keep_checkpoints=3, tracker="none"),
    )


def read_model(run: Path) -> Any:
    model = load_run(run, "cpu")
    batch = model.batch(model.process(TEXT))
    latents = [level.mean.tolist() for level in model.latents(batch).values()]
    with torch.no_grad():
        scores = model(batch, KeyedNoise(0)).text.token_log_prob.tolist()
    return model.processor.join([batch.tokens.tolist()]), latents, scores


def read_data(data: Path) -> Any:
    split = load_prepared(data, "train")
    rows = [repr(split.read(row)) for row in range(len(split))]
    own = split.processor.process(SourceDocument("own", TEXT))
    return rows, split.word_counts.tolist(), asdict(split.fingerprint), repr(own)


def read_index(index: Path) -> Any:
    opened = Index(index)
    model = load_run(opened.find_model(), "cpu")
    return [opened.search(model, "The wind rose.", level, 5) for level in opened.levels]


def resume(config: Config) -> Any:
    files = RunFolder(train(config))
    weights = read_state(files.step_folder(config.train.steps) / "model.safetensors")
    logged = [{k: v for k, v in record.items() if k != "tokens_per_second"} for record in files.records()]
    return {name: value.tolist() for name, value in weights.items()}, logged
