"""Small corpora, prepared in parts of few documents, and what is done to preparations in processes of their own."""

import json
import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import STORY
from run_scripts import SERVER

from textvae.data.dataset import METADATA_FILE
from textvae.data.prepare import layout, parts, tasks
from textvae.data.prepare.parts import RawPart
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.data.prepare.tasks import Places

PARAGRAPHS = [" ".join(part.split()) for part in STORY.split("\n\n")]
FILES = 3


def write_corpus(folder: Path, documents: int = 30) -> Path:
    """`FILES` files of documents of different lengths; one id stands twice."""
    folder.mkdir(parents=True)
    for number in range(FILES):
        lines = [
            {"id": f"{number}-{n}" if n else "twice", "paragraphs": [PARAGRAPHS[(n + k) % 4] for k in range(1 + n % 3)]}
            for n in range(documents // FILES)
        ]
        said = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"part{number}.jsonl").write_text(said, encoding="utf-8")
    return folder


def small_parts(patch: pytest.MonkeyPatch) -> None:
    """Several of everything."""
    patch.setattr(parts, "TASK_BYTES", 10)
    patch.setattr(parts, "_BATCH_DOCUMENTS", 2)
    patch.setattr(parts, "PART_DOCUMENTS", 6)
    patch.setattr(layout, "SHARD_BYTES", 20_000)


def contents(out: Path) -> dict[str, Any]:
    """Of every file of a prepared data set, but the time that it took and where it was written."""
    found: dict[str, Any] = {
        path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }
    described = json.loads(found.pop(METADATA_FILE))
    del described["seconds"], described["options"]["out"], described["options"]["num_proc"]
    return found | {METADATA_FILE: described}


def in_a_process(do: Callable[..., None], *arguments: Any) -> int:
    """Its exit status, negative for the signal that killed it."""
    process = SERVER.Process(target=do, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def prepare_and_die(options: PrepareOptions, renames: int) -> None:
    """Killed before it renames the file or folder after so many."""
    left = [renames]

    def counting(rename: Callable[..., None], *paths: Any) -> None:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        rename(*paths)

    with pytest.MonkeyPatch.context() as patch:
        small_parts(patch)
        for name in ("rename", "replace"):
            patch.setattr(os, name, partial(counting, getattr(os, name)))
        prepare(options)


def prepare_on_a_full_disk(options: PrepareOptions, limit: int, said: str) -> None:
    """No file may have more bytes than `limit`; the error is written to the file `said`."""
    with pytest.MonkeyPatch.context() as patch:
        small_parts(patch)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            prepare(options)
        except OSError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            Path(said).write_text(str(error), encoding="utf-8")


def encode_or_die(part: RawPart, places: Places, **options: Any) -> None:
    """Encodes the part; the first process that is asked to is killed before it has done all of it."""
    try:
        (places.root.parent / "killed").touch(exist_ok=False)
    except FileExistsError:
        tasks.encode(part, places, **options)
        return
    (places.encoded / f"{part.name}-lost.partial").mkdir(parents=True)
    os.kill(os.getpid(), signal.SIGKILL)
