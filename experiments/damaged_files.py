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
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from random import Random
from typing import NoReturn

import torch
from damage_targets import Target, build
from damages import DAMAGES, HOSTILE, inflict

BAD = ("LOST", "UNNAMED", "TRACEBACK", "RAN CODE")
OUTCOMES = ("refused", "same", "changed", *BAD)
SECONDS = 60
MEMORY = 6 << 30


@dataclass(frozen=True)
class Case:
    target: str
    """What is opened."""
    file: str
    damage: str
    outcome: str
    message: str


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
