"""Configurations, data sets, run folders, checkpoints and indexes, damaged in all sorts of ways and opened.

    python experiments/damaged_files.py --count 1000 --seed 0

A tiny model with random weights is trained for a few steps, and everything that textvae writes around it is kept. Each
case damages one file (or swaps two), opens what it belongs to in a process of its own, and is one of:

    refused     ValueError or OSError that names the file, or the folder it is in
    same        what is read is what was read before the damage
    changed     something else is read, and nothing says what was written: a value may have been edited
    LOST        something else is read, in spite of a checksum
    UNNAMED     refused, but the message does not say where the damage is
    TRACEBACK   another exception, a crash or a process that does not end
    RAN CODE    code that the file carried was run

Exit status 1 if there is a case in capitals. `--out` writes every case as a line of JSON. Hypothesis is needed for the
model of `hostile_documents.py`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, replace
from io import StringIO
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, NoReturn

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

BAD = ("LOST", "UNNAMED", "TRACEBACK", "RAN CODE")
OUTCOMES = ("refused", "same", "changed", *BAD)
DAMAGES = ("flip", "cut", "insert", "zero", "empty", "delete", "swap", "type", "code")
HOSTILE = "hostile.py"
TEXT = "The wind rose. The boat moved out.\n\nIs there soup?"
SECONDS = 60
MEMORY = 6 << 30
VALUES: tuple[Any, ...] = (None, True, -1, 7, 1.5, "", "x", [], [1], {}, {"x": 1})


@dataclass(frozen=True)
class Case:
    target: str
    """What is opened."""
    file: str
    damage: str
    outcome: str
    message: str


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


def damaged(content: bytes, damage: str, file: Path, marker: Path, random: Random) -> bytes:
    """`content` after a damage to one file."""
    place = random.randrange(len(content))
    if damage == "flip":
        return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]
    if damage == "cut":
        return content[:place]
    if damage == "insert":
        return content[:place] + random.randbytes(1) + content[place:]
    if damage == "zero":
        length = min(random.choice((1, 8, 64, 512)), len(content) - place)
        return content[:place] + bytes(length) + content[place + length :]
    if damage == "type":
        return retyped(content, file, random)
    return code(content, file, marker) if damage == "code" else b""


def retyped(content: bytes, file: Path, random: Random) -> bytes:
    """With one value of a JSON or YAML file of another type."""
    lines = content.decode().splitlines() if file.suffix == ".jsonl" else [content.decode()]
    number = random.randrange(len(lines))
    root = [yaml.safe_load(lines[number]) if file.suffix == ".yaml" else json.loads(lines[number])]
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        members = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        # Of a long list, such as a vocabulary, a few entries stand for all.
        for key, value in islice(members, 50):
            places.append((node, key))
            visit(value)

    visit(root)
    node, key = random.choice(places)
    node[key] = random.choice([value for value in VALUES if type(value) is not type(node[key])])
    dump = yaml.safe_dump if file.suffix == ".yaml" else json.dumps
    return "\n".join([*lines[:number], dump(root[0]), *lines[number + 1 :]]).encode()


def code(content: bytes, file: Path, marker: Path) -> bytes:
    """What would make `marker`, if anything ran it."""
    if file.suffix == ".yaml":
        path = f"!!python/object/apply:pathlib.Path [{marker}]"
        return f"train: !!python/object/apply:pathlib.Path.touch [{path}]\n".encode()
    if file.suffix == ".json":
        (file.parent / HOSTILE).write_text(f"open({str(marker)!r}, 'w')\nclass Hostile: ...\n", encoding="utf-8")
        values = json.loads(content)
        names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
        if isinstance(values, dict):
            values["auto_map"] = dict.fromkeys(names, "hostile.Hostile")
        return json.dumps(values).encode()
    return pickle.dumps(Payload(str(marker)))


@dataclass(frozen=True)
class Payload:
    marker: str

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.marker, "w"))


def attempt(target: Target, file: Path) -> tuple[str, str]:
    """Open it in a process of its own: outcome and message, or \"read\" and the digest of what was read."""
    out, into = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside idle threads
        child = os.fork()
    if not child:
        _report(target, file, into)
    os.close(into)
    with os.fdopen(out, "rb") as stream:
        told = stream.read()
    _, status = os.waitpid(child, 0)
    if not told:
        return "TRACEBACK", f"ended by {signal.Signals(status).name if 0 < status < 65 else f'status {status}'}"
    outcome, message = json.loads(told)
    return outcome, message


def _report(target: Target, file: Path, into: int) -> NoReturn:
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    try:
        outcome, message = "read", hashlib.sha256(repr(target.read()).encode()).hexdigest()
    except (ValueError, OSError) as error:
        message = str(error)
        names = (str(file), str(file.parent), str(target.folder))
        outcome = "refused" if any(name in message for name in names) else "UNNAMED"
        message = f"{type(error).__name__}: {message}"
    except BaseException:
        outcome, message = "TRACEBACK", traceback.format_exc()
    os.write(into, json.dumps([outcome, message[-3000:]]).encode())
    os._exit(0)


@contextmanager
def restored(target: Target, kept: Mapping[Path, bytes], aside: Path) -> Iterator[None]:
    """Whatever happens to the files of `target`, and to its folder where opening writes into it."""
    if target.writes:
        shutil.copytree(target.folder, aside)
    yield
    if target.writes:
        shutil.rmtree(target.folder)
        aside.rename(target.folder)
    for path in target.files:
        if not path.is_file() or path.stat().st_mtime_ns != 0:
            path.write_bytes(kept[path])
            os.utime(path, ns=(0, 0))
        (path.parent / HOSTILE).unlink(missing_ok=True)


def trials(count: int, seed: int) -> Iterator[Case]:
    """Build everything, then so many cases, the same for the same `seed`."""
    random = Random(seed)
    with tempfile.TemporaryDirectory() as name:
        root, marker = Path(name).resolve(), Path(name) / "marker"
        with redirect_stdout(StringIO()):
            targets = build(root)
        kept = {path: path.read_bytes() for target in targets.values() for path in target.files}
        intact = {}
        for what, target in targets.items():
            with restored(target, kept, root / "aside"):
                outcome, intact[what] = attempt(target, target.files[0])
            if outcome != "read":
                raise RuntimeError(f"{what} cannot be opened without damage: {intact[what]}")
        for number in range(count):
            what = list(targets)[number % len(targets)]
            target = targets[what]
            file = random.choice(target.files)
            damage = random.choice([d for d in DAMAGES if d != "type" or file.suffix in (".json", ".jsonl", ".yaml")])
            with restored(target, kept, root / "aside"):
                inflict(damage, file, random.choice(target.files), kept, marker, random)
                outcome, message = attempt(target, file)
            if marker.exists():
                marker.unlink()
                outcome = "RAN CODE"
            elif outcome == "read":
                lost = "LOST" if target.noticed(file) else "changed"
                outcome, message = "same" if message == intact[what] else lost, ""
            yield Case(what, str(file.relative_to(root)), damage, outcome, message.replace(str(root), "."))


def inflict(damage: str, file: Path, other: Path, kept: Mapping[Path, bytes], marker: Path, random: Random) -> None:
    if damage == "delete":
        file.unlink()
    elif damage == "swap":
        file.write_bytes(kept[other])
        other.write_bytes(kept[file])
    else:
        file.write_bytes(damaged(kept[file], damage, file, marker, random))


def table(cases: Sequence[Case]) -> str:
    """Targets and damages by outcome."""
    lines = [f"{'':24}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES)]
    for kinds in (
        Counter((case.target, case.outcome) for case in cases),
        Counter((c.damage, c.outcome) for c in cases),
    ):
        for kind in dict.fromkeys(kind for kind, _ in kinds):
            lines.append(f"{kind:24}" + "".join(f"{kinds[kind, outcome] or '.':>11}" for outcome in OUTCOMES))
        lines.append("")
    totals = Counter(case.outcome for case in cases)
    return "\n".join([*lines, f"{len(cases):<24,}" + "".join(f"{totals[outcome]:>11}" for outcome in OUTCOMES)])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="FILE", help="every case as a line of JSON")
    arguments = parser.parse_args()
    # A forked process has none of the threads that its parent would share work with, and waits for them forever.
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    started = time.monotonic()
    cases = []
    for case in trials(arguments.count, arguments.seed):
        cases.append(case)
        if arguments.out is not None:
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(case)) + "\n")
    bad = [case for case in cases if case.outcome in BAD]
    print(table(cases), f"{len(bad)} bad cases, {time.monotonic() - started:.0f} s", sep="\n\n")
    for case in bad:
        print(f"{case.outcome}  {case.file}  {case.damage}  {' '.join(case.message.split())[-300:]}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
