"""Training from a stream of shards: stopped and taken up it ends the same, on the same stream alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from run_scripts import forked
from training_runs import Settings, assert_same_run, configured, records, train_until

from textvae.build import FrozenEncoder
from textvae.config import Config, ModelConfig, to_dict
from textvae.data.dataset import load_prepared
from textvae.data.prepare.options import PrepareOptions
from textvae.data.prepare.pipeline import prepare
from textvae.runs import RunFolder
from textvae.training.loop import train

SHARDS = 4
DEALT = """
import json
import sys
from accelerate import Accelerator
from textvae.build import build_model
from textvae.config_file import load_config
from textvae.data.dataset import load_prepared
from textvae.data.sources.shards import open_shards
from textvae.data.stream import open_stream

accelerator = Accelerator(cpu=True)
config = load_config(sys.argv[1])
training = load_prepared(config.data.path, "train")
layout = build_model(config.model, training.processor).layout
source = open_shards(config.data.stream, training.source_options.fields)
stream = open_stream(config.data, source, training, layout, accelerator, steps=10, seed=0)
for part in stream.batches(0, 0):
    print(json.dumps({
        "process": accelerator.process_index,
        "ids": [name for batch in part.batches for name in batch.ids],
        "tokens": sum(batch.num_tokens for batch in part.batches),
        "global": part.global_tokens,
    }))
"""


@pytest.fixture(scope="module")
def shards(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prepared` was made of, as Parquet files."""
    folder = tmp_path_factory.mktemp("shards")
    lines = [json.loads(line) for line in (prepared.parent / "corpus.jsonl").read_text("utf-8").splitlines()]
    for number in range(SHARDS):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines[number::SHARDS]), folder / f"{number}.parquet")
    return folder


@pytest.fixture(scope="module")
def model(settings: Settings) -> ModelConfig:
    """With dropout, so that a resume must restore the random generators."""
    return settings("document", "sentence", architecture={"resid_pdrop": 0.1})


def streaming(prepared: Path, shards: Path, output: Path, model: ModelConfig, **options: Any) -> Config:
    """More than an epoch, stopped within one."""
    usual = {"steps": 7, "save_every": 2, "validate_every": 3, "micro_batch_tokens": 150}
    config = configured(prepared, output, model, **{**usual, **options})
    return replace(config, data=replace(config.data, stream=str(shards), stream_buffer=6))


def resuming(config: Config) -> Config:
    return replace(config, train=replace(config.train, resume=True))


@pytest.fixture(scope="module")
def whole(prepared: Path, shards: Path, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An uninterrupted run."""
    config = streaming(prepared, shards, tmp_path_factory.mktemp("runs") / "whole", model)
    train(config)
    return config


@pytest.fixture(scope="module")
def killed(whole: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The same run killed in its sixth step, saved after its fourth."""
    output = tmp_path_factory.mktemp("runs") / "killed"
    config = replace(whole, train=replace(whole.train, output=str(output)))
    train_until(config, 6)
    return config


@pytest.fixture
def stopped(killed: Config, tmp_path: Path) -> Config:
    """A copy of it, to be resumed."""
    shutil.copytree(killed.train.output, tmp_path / "run")
    return replace(killed, train=replace(killed.train, output=str(tmp_path / "run")))


def test_a_run_tells_what_it_reads_and_sets_aside(
    prepared: Path, shards: Path, model: ModelConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = streaming(prepared, shards, tmp_path / "run", model, steps=1)
    train(replace(config, data=replace(config.data, stream_buffer=64)))
    told = capfd.readouterr().out
    split = load_prepared(prepared, "train")
    assert f"the stream of {SHARDS} shards of '{shards}'; steps 0 to 1" in told
    assert f"'{shards}': 32 documents read, {len(split)} documents kept" in told
    assert ": its text is held out, in validation or test" in told


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_run_ends_as_if_it_had_not_been(whole: Config, stopped: Config, num_workers: int) -> None:
    """Bit for bit, with any number of workers, wherever the shards lie now."""
    moved = Path(stopped.train.output).with_name("moved")
    shutil.copytree(stopped.data.stream, moved)
    data = replace(stopped.data, stream=str(moved), num_workers=num_workers)
    assert_same_run(train(resuming(replace(stopped, data=data))), Path(whole.train.output))


def test_another_stream_is_refused(stopped: Config, tmp_path: Path) -> None:
    def refusal(stream: str) -> str:
        config = replace(stopped, data=replace(stopped.data, stream=stream))
        with pytest.raises(ValueError, match="was trained on other data") as found:
            train(resuming(config))
        return str(found.value)

    fewer = tmp_path / "fewer"
    shutil.copytree(stopped.data.stream, fewer)
    (fewer / "3.parquet").unlink()
    assert f"its stream had {SHARDS} shards," in refusal(str(fewer))
    assert "this one has 3 shards," in refusal(str(fewer))
    assert "this one has none; give the data that it started with as data.stream" in refusal("")
    for changed in ({"stream_buffer": 7}, {"batch_tokens": 401}):
        config = replace(stopped, data=replace(stopped.data, **changed))
        with pytest.raises(ValueError, match=f"other settings of data.{next(iter(changed))}"):
            train(resuming(config))
    with pytest.raises(ValueError, match=r"other settings of train\.seed"):
        train(resuming(replace(stopped, train=replace(stopped.train, seed=1))))


def test_a_run_on_prepared_data_does_not_go_on_with_a_stream(
    prepared: Path, shards: Path, model: ModelConfig, tmp_path: Path
) -> None:
    config = streaming(prepared, shards, tmp_path / "run", model, steps=1)
    train(replace(config, data=replace(config.data, stream="", stream_buffer=6)))
    with pytest.raises(ValueError, match=r"its stream had none, this one has 4 shards, \d+ bytes"):
        train(resuming(config))


def test_cached_features_of_the_sample_are_no_hindrance(
    prepared: Path,
    shards: Path,
    model: ModelConfig,
    encoder_backbone: str,
    decoder_folder: str,
    tmp_path: Path,
) -> None:
    """The frozen encoder reads what is streamed, in every step: the same numbers as without a cache."""
    features = FrozenEncoder.pretrained(encoder_backbone)
    options = PrepareOptions(
        str(prepared.parent / "corpus.jsonl"),
        str(tmp_path / "cached"),
        encoder=encoder_backbone,
        decoder=decoder_folder,
        max_sentence_tokens=48,
        validation_fraction=0.2,
        test_fraction=0.1,
        cache_features=True,
    )
    prepare(options, features, features.fingerprint)
    assert load_prepared(tmp_path / "cached", "train").has_features
    cached = train(streaming(tmp_path / "cached", shards, tmp_path / "with", model, steps=1))
    plain = train(streaming(prepared, shards, tmp_path / "without", model, steps=1))
    for ours, theirs in zip(records(cached), records(plain), strict=True):
        assert ours["nll_per_token"] == pytest.approx(theirs["nll_per_token"], rel=1e-3)


def test_a_source_that_is_not_there_is_named_before_anything_is_written(
    prepared: Path, model: ModelConfig, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"no-such\.parquet': there is no such file or folder"):
        train(streaming(prepared, tmp_path / "no-such.parquet", tmp_path / "run", model))
    assert not (tmp_path / "run").exists()


def command(config: Config, output: Path, *overrides: str) -> list[str]:
    path = output.with_suffix(".yaml")
    there = replace(config, train=replace(config.train, output=str(output)))
    path.write_text(yaml.safe_dump(to_dict(there)), encoding="utf-8")
    return ["train.py", "--config", str(path), *overrides]


def test_two_processes_read_shards_of_their_own_and_count_tokens_together(whole: Config, tmp_path: Path) -> None:
    script = tmp_path / "dealt.py"
    script.write_text(DEALT, encoding="utf-8")
    printed = forked(2, [str(script), command(whole, tmp_path / "run")[2]])
    found = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    steps = [[part for part in found if part["process"] == process] for process in range(2)]
    for mine, theirs in zip(*steps, strict=True):
        assert mine["global"] == theirs["global"] == mine["tokens"] + theirs["tokens"]
    train_ids = set(load_prepared(whole.data.path, "train").column("id"))
    corpus = Path(whole.data.path).parent / "corpus.jsonl"
    lines = [json.loads(line)["id"] for line in corpus.read_text("utf-8").splitlines()]
    shard_of = {name: place % SHARDS for place, name in enumerate(lines)}
    one, other = ([name for part in parts for name in part["ids"]] for parts in steps)
    total = len(train_ids)
    epochs = [(set(one[:count]), set(other[: total - count])) for count in range(total + 1)]
    epoch = next(pair for pair in epochs if pair[0] | pair[1] == train_ids)
    read = [{shard_of[name] for name in names} for names in epoch]
    assert [len(numbers) for numbers in read] == [SHARDS // 2] * 2
    assert not read[0] & read[1]


@pytest.mark.slow
def test_two_processes_resume_as_two_and_as_no_other_number(whole: Config, tmp_path: Path) -> None:
    paths = [tmp_path / "whole", tmp_path / "broken"]
    for path in paths:
        forked(2, command(whole, path))
    folder = RunFolder(paths[1])
    shutil.rmtree(folder.step_folder(7))
    alone = replace(whole, train=replace(whole.train, output=str(paths[1]), resume=True))
    with pytest.raises(ValueError, match=r"was written by 2 processes, .* there are 1 now; resume it with 2"):
        train(alone)
    forked(2, command(whole, paths[1], "train.resume=true"))
    assert_same_run(*paths)
