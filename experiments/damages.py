"""The damages of `damaged_files.py`: to one file, or two files that change places."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import yaml

DAMAGES = ("flip", "cut", "insert", "zero", "empty", "delete", "swap", "type", "code")
HOSTILE = "hostile.py"
VALUES: tuple[Any, ...] = (None, True, -1, 7, 1.5, "", "x", [], [1], {}, {"x": 1})


def inflict(damage: str, file: Path, other: Path, kept: Mapping[Path, bytes], marker: Path, random: Random) -> None:
    if damage == "delete":
        file.unlink()
    elif damage == "swap":
        file.write_bytes(kept[other])
        other.write_bytes(kept[file])
    else:
        file.write_bytes(damaged(kept[file], damage, file, marker, random))


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
