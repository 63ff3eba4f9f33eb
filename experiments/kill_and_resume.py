"""Kill training without warning, resume it, and compare what it ends with to an uninterrupted run, bit for bit.

    python experiments/kill_and_resume.py [--random 20] [--seed 0]

A tiny model of two levels is trained on a corpus made here; a run takes seconds. It is killed (SIGKILL) at random
moments, and before each kind of change to its folder: every file that is opened for writing, renamed or removed, every
folder that is made or removed, where half a log line is written first. Prints a row for each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
"""Audit events (PEP 578) of changes to files; os.replace is an os.rename."""


@dataclass(frozen=True)
class Change:
    """The `count`-th time that a run changes a file in one way."""

    kind: str
    """Event and file, numbers of steps left out."""
    count: int


@dataclass(frozen=True)
class Trial:
    """One killed run."""

    moment: str
    logged: int
    """Last step that the killed run had logged."""
    resumed: int | None
    """Step from which it went on; None: it started over."""
    differences: list[str]
    """Between its end and the uninterrupted run's."""


class Context:
    """Processes that are forked from a clean one in which everything is imported already."""

    def __init__(self) -> None:
        self.processes: ForkServerContext = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["textvae.training.loop", "tensorboard"])

    def run(self, job: Callable[..., None], *arguments: Any, kill_after: float | None = None) -> int:
        """Exit code of the process; -9 when it was killed."""
        process = self.processes.Process(target=job, args=arguments)
        process.start()
        process.join(kill_after)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        return process.exitcode


def train_quietly(config: Any, started: str | None = None) -> None:
    """In a process of its own; touches the file `started` when training is about to begin."""
    import torch

    from textvae.training.loop import train

    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if started is not None:
        Path(started).touch()
    train(config)


def train_until(config: Any, last: Change) -> None:
    """Die before a change; half a line goes into the log before it is opened for the fatal time."""
    folder = os.path.abspath(config.train.output)
    counts: dict[str, int] = {}

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        for kind, path in changes(event, arguments, folder):
            counts[kind] = counts.get(kind, 0) + 1
            if Change(kind, counts[kind]) == last:
                if path.endswith("metrics.jsonl") and event == "open":
                    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                    os.write(log, b'{"step": 1, "split": "tra')
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    train_quietly(config)


def train_watched(config: Any, report: str) -> None:
    """Train to the end; writes how often each kind of change was made to the file `report`."""
    folder = os.path.abspath(config.train.output)
    counts: dict[str, int] = {}

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        for kind, _ in changes(event, arguments, folder):
            counts[kind] = counts.get(kind, 0) + 1

    sys.addaudithook(watch)
    train_quietly(config)
    Path(report).write_text(json.dumps(counts), encoding="utf-8")


def changes(event: str, arguments: tuple[Any, ...], folder: str) -> Iterator[tuple[str, str]]:
    """Kind and path of the change that an audit event tells of, if it is one inside `folder`."""
    if event in CHANGES and isinstance(arguments[0], str | os.PathLike):
        writes = event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        path = os.path.abspath(arguments[1] if event == "os.rename" else arguments[0])
        if writes and path.startswith(folder + os.sep):
            inside = re.sub(r"\d+(\.\d+)*", "N", path.removeprefix(folder + os.sep))
            yield f"{event.removeprefix('os.')} {re.sub('tfevents.*', 'tfevents', inside)}", path


def trial(context: Context, whole: Any, output: Path, moment: str, killed: Callable[[Any], int]) -> Trial:
    """Start the run of `whole` in `output`, have it killed, and resume it; RuntimeError when it does not end."""
    from textvae.runs import RunFolder

    config = replace(whole, train=replace(whole.train, output=str(output)))
    code = killed(config)
    folder = RunFolder(output)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{moment}: the run itself failed with status {code}")
    logged = max((record["step"] for record in folder.records()), default=0)
    resumed = folder.latest_step()
    resume = folder.config.is_file()
    code = context.run(train_quietly, replace(config, train=replace(config.train, resume=resume)))
    differences = differing(Path(whole.train.output), output) if code == 0 else [f"resuming failed, status {code}"]
    return Trial(moment, logged, resumed, differences)


def differing(one: Path, other: Path) -> list[str]:
    """What two finished runs do not share: last weights and states, best model, what was logged, what lies there."""
    import torch
    from safetensors.torch import load_file

    from textvae.runs import RunFolder
    from textvae.training.state_file import read_state

    folders = [RunFolder(path) for path in (one, other)]
    found = []
    for name in ("model", "training", "process-00000"):
        last = [f.step_folder(f.latest_step() or 0) / f"{name}.safetensors" for f in folders]
        if last[0].name != last[1].name or not same(read_state(last[0]), read_state(last[1])):
            found.append(f"last {name}")
    best = [load_file(path / "model.safetensors") for path in (one, other)]
    if best[0].keys() != best[1].keys() or not all(torch.equal(best[0][name], best[1][name]) for name in best[0]):
        found.append("best model")
    logs = [[{**record, "tokens_per_second": 0} for record in folder.records()] for folder in folders]
    if logs[0] != logs[1]:
        found.append("metrics.jsonl")
    files = [{str(p.relative_to(f)) for p in f.rglob("*") if "tfevents" not in p.name} for f in (one, other)]
    return found + sorted(files[0] ^ files[1])


def same(one: Any, other: Any) -> bool:
    """Whether two states hold the same numbers, bit for bit."""
    import torch

    if isinstance(one, torch.Tensor):
        return one.dtype is other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def trials(whole: Any, folder: Path, num_random: int, seed: int, kinds: str = "") -> Iterator[Trial]:
    """Kills at `num_random` random moments, then before one change of each kind that matches the expression `kinds`.

    whole: configuration of the uninterrupted run, which is trained first; folder: where the others go.
    """
    context, draw = Context(), random.Random(seed)
    report = folder / "changes.json"
    if context.run(train_watched, whole, str(report)):
        raise RuntimeError("the uninterrupted run failed")
    seconds = _duration(context, whole, folder) if num_random else 0.0
    for number in range(num_random):
        after = draw.uniform(0.0, seconds)
        yield trial(
            context,
            whole,
            folder / f"random-{number}",
            f"after {after:.2f} s",
            lambda config, after=after: _killed_after(context, config, folder / "started", after),
        )
    counts = json.loads(report.read_text(encoding="utf-8"))
    for number, (kind, count) in enumerate(sorted(counts.items())):
        if re.search(kinds, kind):
            last = Change(kind, draw.randint(1, count))
            yield trial(
                context,
                whole,
                folder / f"change-{number}",
                f"before {kind}, {last.count} of {count}",
                lambda config, last=last: context.run(train_until, config, last),
            )


def _duration(context: Context, whole: Any, folder: Path) -> float:
    """Seconds that a run takes in a process that has imported everything."""
    start = time.monotonic()
    context.run(train_quietly, replace(whole, train=replace(whole.train, output=str(folder / "timed"))))
    return time.monotonic() - start


def _killed_after(context: Context, config: Any, started: Path, seconds: float) -> int:
    """The clock runs from when the process is there."""
    started.unlink(missing_ok=True)
    process = context.processes.Process(target=train_quietly, args=(config, str(started)))
    process.start()
    while not started.exists() and process.is_alive():
        time.sleep(0.001)
    process.join(seconds)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode


def tiny_run(folder: Path) -> Any:
    """A corpus of random sentences, an encoder with random weights, and the configuration of a run on them."""
    from textvae.config import (
        Config,
        DataConfig,
        DecoderConfig,
        EncoderConfig,
        LevelConfig,
        ModelConfig,
        TrainConfig,
        UnitConfig,
    )
    from textvae.data.prepare.pipeline import PrepareOptions, prepare

    draw = random.Random(0)
    syllables = [vowel + consonant for vowel in "aeiou" for consonant in "bdklmnrst"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(80)]
    documents = [
        {"id": str(number), "paragraphs": [[_sentence(draw, words) for _ in range(draw.randint(1, 3))]]}
        for number in range(40)
    ]
    corpus = folder / "corpus.jsonl"
    corpus.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    encoder = str(folder / "encoder")
    _tiny_encoder(encoder, words)
    options = PrepareOptions(
        str(corpus), str(folder / "data"), encoder=encoder, vocabulary_size=330, validation_fraction=0.2
    )
    prepare(options)
    gpt2 = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 256}
    return Config(
        DataConfig(str(folder / "data"), batch_tokens=100, micro_batch_tokens=100),
        ModelConfig(
            levels=(LevelConfig("document", 4), LevelConfig("sentence", 2)),
            units=UnitConfig(width=16, layers=1, heads=2),
            encoder=EncoderConfig(encoder),
            decoder=DecoderConfig(architecture=gpt2, conditioning_width=16, logit_rank=8, word_dropout=0.1),
        ),
        train=TrainConfig(
            output=str(folder / "whole"),
            steps=60,
            warmup_steps=5,
            log_every=1,
            validate_every=20,
            save_every=10,
            mixed_precision="no",
        ),
    )


def _sentence(draw: random.Random, words: list[str]) -> str:
    return " ".join(draw.choices(words, k=draw.randint(3, 8))).capitalize() + "."


def _tiny_encoder(folder: str, words: list[str]) -> None:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, ".", *sorted(set(words))])}
    BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(vocabulary), **size)).save_pretrained(folder)


def row(found: Trial) -> str:
    resumed = "start" if found.resumed is None else f"step {found.resumed}"
    same = "identical" if not found.differences else "DIFFERENT: " + ", ".join(found.differences)
    return f"{found.moment:64}{found.logged:>12}{resumed:>14}   {same}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random", type=int, default=20, metavar="N", help="random moments (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = []
        print(f"{'killed':64}{'logged step':>12}{'resumed from':>14}   end, beside the uninterrupted run's")
        for each in trials(tiny_run(folder), folder, arguments.random, arguments.seed):
            found.append(each)
            print(row(each), flush=True)
    wrong = sum(bool(each.differences) for each in found)
    print(f"{len(found)} kills, {wrong} ends that differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    raise SystemExit(main())
