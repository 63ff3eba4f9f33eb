"""Small indexes: what they are made of, how they are compared, and what kills those who write them."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow
import torch
from kill_and_resume import changes
from run_scripts import in_a_process

from textvae.cli.main import main
from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.runs import load_run
from textvae.search import embed, tasks
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


def killed_everywhere(
    model: HierarchicalTextVAE, run: str, folder: Path, begin: Callable[..., None], job: Callable[..., None]
) -> Iterator[str]:
    """Kill `job` before its first change to a file, the second, and so on, each time with what `begin` made, and let it
    go on: a line for each, of the change and of the files that are not those of a job that was not killed."""
    (folder / "trials").mkdir()
    begun, whole = folder / "begun", folder / "trials" / "whole"
    begin(model, run, begun)
    copy(begun, whole)
    job(model, run, whole)
    for number in count(1):
        out, told = folder / "trials" / str(number), folder / f"change-{number}"
        copy(begun, out)
        if in_a_process(killed, run, out, job, number, told) == 0:
            return
        job(model, run, out)
        beside = [path.name for path in out.parent.iterdir() if path.name.startswith(f"{number}.")]
        yield f"{told.read_text(encoding='utf-8')}: {' '.join(differing(out, whole) + beside)}"


def copy(index: Path, to: Path) -> None:
    """Nothing, where there is none."""
    if index.exists():
        shutil.copytree(index, to)


def killed(run: str, out: Path, job: Callable[..., None], number: int, told: Path) -> None:
    """By itself, before change `number` of `job`, which the file `told` then names."""
    torch.set_num_threads(1)
    model = load_run(run, "cpu")
    kill_before_change(number, str(out.parent), str(told))
    job(model, run, out)


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


def embed_on_a_cluster(address: str, commands: Sequence[Sequence[str]]) -> None:
    """One command after the other; a worker is killed."""
    with mock.patch.object(embed, "embed_shard", embed_or_die):
        for command in commands:
            assert main([*command, "--ray", address]) == 0


def embed_or_die(task: tasks.ShardTask, folder: Path, **given: Any) -> None:
    """Embeds the shard; the first process that is asked to is killed before it has done all of it."""
    with open("gpus", "a", encoding="utf-8") as file:
        print(os.environ.get("CUDA_VISIBLE_DEVICES") or "none", file=file)
    try:
        Path("killed").touch(exist_ok=False)
    except FileExistsError:
        tasks.embed_shard(task, folder=folder, **given)
        return
    (folder / f"{task.name}-lost.partial").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
