"""Small indexes: what they are made of, how they are compared, and what kills those who write them."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from kill_and_resume import changes
from run_scripts import SERVER

from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.runs import load_run
from textvae.text_vae import HierarchicalTextVAE

WORDS = ("boat", "wind", "light", "wall", "soup", "night", "sail")
SOURCES = [
    SourceDocument(
        id=f"d{number}", text=f"A {word} came at {number}. So.\n\nThe {word} rose.", label=WORDS[number % 2], title=word
    )
    for number, word in enumerate(WORDS)
]


def documents_of(model: HierarchicalTextVAE, sources: Sequence[SourceDocument] = SOURCES) -> Documents:
    return Documents.of(model.process(sources))


def interrupted(documents: Documents, at: int) -> Documents:
    """Those that cannot be read from row `at` on."""

    def read(row: int) -> EncodedDocument:
        if row >= at:
            raise KeyboardInterrupt
        return documents.read(row)

    return replace(documents, read=read)


def differing(one: Path, other: Path) -> list[str]:
    """Names of the files that differ, or that only one folder has.

    Numbers may differ in their last digits: where in memory a matrix begins decides in which order some processors sum.
    Checksums of files that hold such numbers are not compared then.
    """
    ours, theirs = (
        {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        for folder in (one, other)
    )
    same = {name for name in ours.keys() & theirs.keys() if _same(ours[name], theirs[name])}
    return sorted((ours.keys() | theirs.keys()) - same)


def _same(one: Path, other: Path) -> bool:
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix == ".json":
        return _alike(*(json.loads(path.read_text(encoding="utf-8")) for path in (one, other)))
    ours, theirs = (pyarrow.ipc.open_stream(path.read_bytes()).read_all() for path in (one, other))
    return ours.schema == theirs.schema and all(
        _alike(ours[c].to_pylist(), theirs[c].to_pylist()) for c in ours.column_names
    )


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(
            name == "sha256" or name.startswith("shard-") or _alike(one[name], other[name]) for name in one
        )
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        # Features are rounded to half precision.
        return bool(np.isclose(one, other, rtol=2e-3, atol=2e-5))
    return bool(one == other)


def trials(run: str, folder: str, report: str, begin: Callable[..., None], job: Callable[..., None]) -> None:
    """Kill `job` before its first change to a file, the second, and so on, each time with what `begin` made, and let it
    go on; writes to the file `report` a line for each: the change, and the files that are not those of a job that was
    not killed. In a process that nothing else runs in, for it forks."""
    torch.set_num_threads(1)
    logging.disable()
    model = load_run(run, "cpu")
    begin(model, run, Path(folder, "whole"))
    job(model, run, Path(folder, "whole"))
    for number in count(1):
        out = Path(folder, str(number))
        begin(model, run, out)
        child = os.fork()
        if not child:
            kill_before_change(number, folder, f"{report}.change")
            job(model, run, out)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            break
        job(model, run, out)
        others = differing(out, Path(folder, "whole"))
        beside = [path.name for path in Path(folder).iterdir() if path.name.startswith(f"{number}.")]
        with Path(report).open("a", encoding="utf-8") as file:
            file.write(f"{Path(report + '.change').read_text()}: {' '.join(others + beside)}\n")


def kill_before_change(number: int, folder: str, told: str) -> None:
    made = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal made
        if not any(changes(event, arguments, folder)):
            return
        made += 1
        if made == number:
            descriptor = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(descriptor, f"{event} {Path(str(arguments[0])).name}".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def killed_everywhere(run: str, folder: Path, begin: Callable[..., None], job: Callable[..., None]) -> list[str]:
    """The lines of `trials`."""
    (folder / "trials").mkdir()
    report = folder / "report"
    process = SERVER.Process(target=trials, args=(run, str(folder / "trials"), str(report), begin, job))
    process.start()
    process.join()
    assert process.exitcode == 0
    return report.read_text(encoding="utf-8").splitlines()
