"""A preparation that was killed goes on where it stood: what was begun, and which of it still holds.

`preparation.json` says what must be the same for that, `source.json` what the raw parts were read from. Raw parts of
files that have changed since are read again, and what was made of all of them together is made again.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from textvae.atomic import PARTIAL, remove_partial, write_json, write_text
from textvae.damage import read_json_object
from textvae.data.prepare.parts import RawPart, Reading, is_read
from textvae.data.prepare.tasks import Places

logger = logging.getLogger("textvae")
_BEGUN_FILE, _SOURCE_FILE = "preparation.json", "source.json"


def begin(places: Places, described: Mapping[str, Any], start_over: bool) -> None:
    """Begin in `places` what `described` says, or go on with it.

    Raises ValueError where something else was begun, unless it is to be forgotten (`start_over`).
    """
    path = places.root / _BEGUN_FILE
    if start_over or not path.is_file():
        _clear(places.root)
        write_json(path, described)
        return
    remedy = "leave it with --start-over"
    begun, now = read_json_object(path, remedy), json.loads(json.dumps(described))
    if changed := sorted(name for name in begun.keys() | now.keys() if begun.get(name) != now.get(name)):
        then = ", ".join(f"{name} (then {json.dumps(begun.get(name))})" for name in changed)
        raise ValueError(
            f"'{places.root}' holds the beginning of a preparation that differs in {then}: go on as it was begun, or "
            f"{remedy}"
        )
    for folder in (places.root, places.raw, places.encoded, places.featured, places.done, *places.done.glob("*/")):
        remove_partial(folder)


def to_read(found: Sequence[Reading], places: Places) -> list[Reading]:
    """Those that are not read yet, or of other files than there are now."""
    missing = [reading for reading in found if not is_read(reading, places.raw)]
    kept = {reading.name for reading in found} - {reading.name for reading in missing}
    for path in places.raw.glob("*"):
        if path.name not in kept:
            shutil.rmtree(path)
    return missing


def forget_what_followed(found: Iterable[Reading], places: Places) -> None:
    """Delete what was made of other raw parts than there are now."""
    path = places.root / _SOURCE_FILE
    source = {"files": [[reading.name, reading.stamp] for reading in found]}
    said = json.dumps(source, ensure_ascii=False) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == said:
        return
    for folder in (places.division, places.processor, places.encoded, places.featured, places.done):
        shutil.rmtree(folder, ignore_errors=True)
    write_text(path, said)


def missing_in(folder: Path, parts: Sequence[RawPart], purpose: str) -> list[RawPart]:
    """Of which `folder` holds nothing yet."""
    left = [part for part in parts if not (folder / part.name).is_dir()]
    if len(left) < len(parts):
        logger.warning("%s: going on after %s of %s parts", purpose, f"{len(parts) - len(left):,}", f"{len(parts):,}")
    return left


def forget(places: Places, *, but_raw: bool) -> None:
    """After an error: keep the raw parts if they may be used again and there are any, else nothing at all."""
    if not but_raw or not any(path for path in places.raw.glob("*") if PARTIAL not in path.name):
        shutil.rmtree(places.root)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
