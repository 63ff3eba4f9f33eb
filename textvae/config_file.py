"""Configurations from YAML files, on top of each other, and `section.key=value` overrides.

Defaults, then the file that `base` names (which may have a base of its own), then the file, then the overrides.
Sections are merged key by key; what a key holds replaces what it held before. Only `model.levels` is merged by name:
the list says which levels there are, and each takes what it does not state from the level of its name below.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from textvae.config import Config, LevelConfig, ModelConfig, parse, to_dict

BASE = "base"
NOT_INHERITED = ("output", "resume")
"""Of `train`: two configurations do not write into one run folder."""


class _Loader(yaml.SafeLoader):
    """Of YAML 1.2: `no`, `off`, `yes` and `on` are words, not truth values (`train.mixed_precision: no`)."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _load(text: str) -> Any:
    return yaml.load(text, _Loader)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The YAML file at `path`, with its bases, on top of the defaults, `overrides` on top of it.

    An entry of `model.levels` is addressed by its name: `model.levels.document.latent_size=16`.
    Raises ValueError for an unreadable file, bases in a circle, an unknown key or a value of the wrong type.
    """
    path = Path(path)
    values = read_values(path)
    if overrides:
        parse(Config, values, str(path))
        for override in overrides:
            _apply(values, override)
    origin = f"{path} {' '.join(overrides)}".strip()
    if parse(Config, values, origin).objective.levels:
        values["objective"]["levels"] = _policies(**values["objective"])
    config = parse(Config, values, origin)
    if not config.train.output:
        values.setdefault("train", {})["output"] = str(Path("runs") / path.stem)
        config = parse(Config, values, str(path))
    return config


def read_values(path: Path, inside: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What the file and its bases say; `inside`: the files, resolved, whose base this one is."""
    here = (*inside, path.resolve())
    if path.resolve() in inside:
        circle = " -> ".join(file.name for file in here[inside.index(path.resolve()) :])
        raise ValueError(f"configuration file {inside[-1]}: its bases run in a circle, {circle}")
    values = _read_yaml(path, inside)
    base = values.pop(BASE, None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ValueError(f"configuration file {path}: base must name a file, got {base!r}")
    below = read_values(path.parent / base, here)
    if isinstance(below.get("train"), dict):
        below["train"] = {key: value for key, value in below["train"].items() if key not in NOT_INHERITED}
    return _merge(Config, below, values)


def _read_yaml(path: Path, inside: tuple[Path, ...]) -> dict[str, Any]:
    try:
        values = _load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        wanted = f", the base of {inside[-1]}," if inside else ""
        raise ValueError(f"configuration file {path}{wanted} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"configuration file {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"configuration file {path} must hold a mapping of sections, got {type(values).__name__}")
    return values


def _merge(kind: Any, below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` over `below`, the values of a configuration of class `kind`."""
    sections = {name: hint for name, hint in get_type_hints(kind).items() if is_dataclass(hint)}
    merged = dict(below)
    for key, value in above.items():
        before = below.get(key)
        if key in sections and isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _merge(sections[key], before, value)
        elif kind is ModelConfig and key == "levels":
            merged[key] = _merge_levels(before, value)
        else:
            merged[key] = value
    return merged


def _merge_levels(before: Any, value: Any) -> Any:
    """The levels that `value` lists, each on top of the one of its name in `before`."""
    if not isinstance(before, list) or not isinstance(value, list):
        return value
    named = {entry.get("name"): entry for entry in before if isinstance(entry, dict)}
    return [{**named.get(entry.get("name"), {}), **entry} if isinstance(entry, dict) else entry for entry in value]


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"override '{override}' is not of the form section.key=value")
    try:
        value = _load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"override '{override}' is not valid YAML: {' '.join(str(error).split())}") from None
    *parents, last = key.split(".")
    node: Any = values
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = next((entry for entry in node if entry.get("name") == part), None)
        else:
            node = node.setdefault(part, _default_levels() if parents[: depth + 1] == ["model", "levels"] else {})
        if not isinstance(node, dict | list):
            raise ValueError(f"override '{override}': there is no '{'.'.join(parents[: depth + 1])}'")
    if isinstance(node, list):
        raise ValueError(f"override '{override}': name an entry's key, as in model.levels.NAME.latent_size")
    node[last] = _merge_levels(node.get(last, _default_levels()), value) if key == "model.levels" else value


def _policies(levels: dict[str, Any], default: dict[str, Any] | None = None, **_: Any) -> dict[str, Any]:
    """Every level's policy with what it does not state taken from `default`."""
    return {name: {**(default or {}), **policy} for name, policy in levels.items()}


def _default_levels() -> list[dict[str, Any]]:
    return [asdict(level) for level in ModelConfig().levels]


def list_settings() -> str:
    """Every setting as `section.key=default`, a line each; those of single levels once, for NAME."""
    shown = to_dict(Config()) | {"model": {**to_dict(ModelConfig()), "levels": {"NAME": to_dict(LevelConfig("NAME"))}}}
    shown["objective"]["levels"] = {"NAME": shown["objective"]["default"]}

    def lines(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for key, value in values.items():
            if isinstance(value, dict) and value:
                yield from lines(value, f"{prefix}{key}.")
            else:
                yield f"  {prefix}{key}={json.dumps(value)}"

    return "\n".join(lines(shown, ""))
