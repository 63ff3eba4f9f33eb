"""Small corpora, prepared in parts of few documents, and what is done to preparations in processes of their own, which
import nothing but this."""

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from textvae.cluster import RayWorkers
from textvae.data.dataset import METADATA_FILE
from textvae.data.prepare import layout, parts, pipeline, tasks
from textvae.data.prepare.parts import RawPart
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.data.prepare.tasks import Places
from textvae.data.sources.records import FieldNames

PARAGRAPHS = [
    "The harbour lay quiet in the early light. A single boat moved out past the wall, and its wake spread slowly.",
    "Old Marta watched it from the window of her shop. She had sold rope and lamps there for forty years. Nobody had "
    "ever asked her to leave the town, and she had never wished to.",
    "In the afternoon the wind rose. It came from the north, cold and steady, and the boats turned back one by one.",
    'At midnight a light was seen. It was the boat, with a torn sail and two men in it. "We are late," they said.',
]
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


@contextmanager
def small_parts() -> Iterator[None]:
    """Several of everything."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(parts, TASK_BYTES=10, _BATCH_DOCUMENTS=2, PART_DOCUMENTS=6))
        stack.enter_context(mock.patch.object(layout, "SHARD_BYTES", 20_000))
        yield


def contents(out: Path) -> dict[str, Any]:
    """Of every file of a prepared data set, but the time that it took and where it was written."""
    found: dict[str, Any] = {
        path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }
    described = json.loads(found.pop(METADATA_FILE))
    del described["seconds"], described["options"]["out"], described["options"]["num_proc"]
    return found | {METADATA_FILE: described}


def prepare_and_die(options: PrepareOptions, renames: int) -> None:
    """Killed before it renames the file or folder after so many."""
    left = [renames]

    def counting(rename: Callable[..., None], *paths: Any) -> None:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        rename(*paths)

    renaming = {name: partial(counting, getattr(os, name)) for name in ("rename", "replace")}
    with small_parts(), mock.patch.multiple(os, **renaming):
        prepare(options)


def prepare_on_a_full_disk(options: PrepareOptions, limit: int, said: str) -> None:
    """No file may have more bytes than `limit`; the error is written to the file `said`."""
    with small_parts():
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


def die(part: RawPart, places: Places, **options: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def lose_every_worker(address: str, options: Mapping[str, Any]) -> None:
    with mock.patch.object(pipeline, "encode", die):
        try:
            prepare(
                PrepareOptions(**{**options, "fields": FieldNames(**options["fields"])}), workers=RayWorkers(address)
            )
        except OSError as error:
            print("lost:", error)


def prepare_on_a_cluster(address: str, options: Sequence[Mapping[str, Any]]) -> None:
    """One after the other; a worker is killed."""
    with mock.patch.object(pipeline, "encode", encode_or_die):
        for given in options:
            try:
                prepare(
                    PrepareOptions(**{**given, "fields": FieldNames(**given["fields"])}), workers=RayWorkers(address)
                )
            except ValueError as error:
                print("refused:", error)
