"""Files and folders that are whole or not there, whenever the writer is killed.

What is being written carries `PARTIAL` in its name until it is whole; what carries it otherwise was left by a killed
writer and is nobody's.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
_NO_ROOM = {
    errno.ENOSPC: "there is no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "files may not become as large as they must here",
}


def partial(path: Path) -> Path:
    """Where `path` is written before it is whole: beside it, so that one rename makes it visible."""
    return path.with_name(path.name + PARTIAL)


def write_text(path: Path, text: str) -> None:
    """Replace the file `path`."""
    aside = partial(path)
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    rename(aside, path)


def write_json(path: Path, value: Any) -> None:
    """Replace the file `path` by the value as JSON, for people to read, too."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write files into; it is seen as `folder` once all of them are on the disk.

    Two writers of the same content do not disturb one another: the first to end is the one whose folder stays.
    """
    aside = partial(folder.with_name(f"{folder.name}-{uuid.uuid4().hex[:8]}"))
    aside.mkdir(parents=True)
    try:
        yield aside
        for path in (aside, *aside.rglob("*")):
            sync(path)
        try:
            rename(aside, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def needing_room(path: Path, remedy: str) -> Iterator[None]:
    """A disk without room for what is written inside is an OSError that names `path` and says what to do."""
    try:
        yield
    except Exception as error:
        # Writers that are not Python's say the number in words.
        said = re.search(r"os error (\d+)", str(error))
        number = error.errno if isinstance(error, OSError) else int(said[1]) if said else None
        if number not in _NO_ROOM:
            raise
        raise OSError(f"{_NO_ROOM[number]} ('{path}'): make room, and {remedy}") from error


def publish(folder: Path, into: Path, last: str) -> None:
    """Move the files below `folder` to their places below `into`, each by one replacement, `last` after all others:
    where only that file differs from what `into` held, a kill leaves the old whole or the new."""
    files = sorted((path.relative_to(folder) for path in folder.rglob("*") if path.is_file()), key=str)
    for file in sorted(files, key=lambda file: file == Path(last)):
        sync(folder / file)
        (into / file).parent.mkdir(parents=True, exist_ok=True)
        rename(folder / file, into / file)
    shutil.rmtree(folder)


def remove(folder: Path) -> None:
    """Delete a folder, which is not seen half deleted."""
    if folder.exists():
        aside = partial(folder)
        shutil.rmtree(aside, ignore_errors=True)
        rename(folder, aside)
        shutil.rmtree(aside)


def remove_partial(folder: Path) -> None:
    """Delete what killed writers left in `folder`."""
    for path in folder.glob(f"*{PARTIAL}"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def rename(source: Path, target: Path) -> None:
    """Rename `source`, which is on the disk, to `target` in the same file system; the new name is then on it, too."""
    os.replace(source, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Have the file, or the names in a folder, on the disk: a machine that loses power keeps its promise, too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems of networks keep folders on the disk by themselves, and refuse to be asked.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
