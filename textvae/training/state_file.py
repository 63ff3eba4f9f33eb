"""Nested Python values with tensors in one safetensors file: what a checkpoint is made of, read without running code.

Tensors are stored as such; everything around them is JSON in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_TREE = "tree"


def write_state(path: Path, state: Any) -> None:
    """`state`: mappings, lists, tuples, numbers, text, None and tensors; tensors that are one are stored once."""
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, tensors, {})
    save_file(tensors, path, metadata={_TREE: json.dumps(tree)})


def read_state(path: Path) -> Any:
    """What `write_state` was given, its tensors on the CPU.

    Raises ValueError naming the file when it is damaged, or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return _unpack(json.loads((file.metadata() or {})[_TREE]), tensors)
    except (SafetensorError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no state that training wrote ({reason}); remove {path.parent}") from None


def _pack(value: Any, tensors: dict[str, Tensor], seen: dict[tuple[Any, ...], str]) -> Any:
    """`value` as JSON; its tensors go into `tensors` under the names that stand in their places."""
    if isinstance(value, Tensor):
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if key not in seen or not value.numel():
            seen[key] = str(len(tensors))
            whole = value.detach().cpu().contiguous()
            # safetensors takes no views.
            tensors[seen[key]] = whole if whole.untyped_storage().nbytes() == whole.nbytes else whole.clone()
        return {"tensor": seen[key]}
    if isinstance(value, Mapping):
        return {"mapping": [[key, _pack(member, tensors, seen)] for key, member in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(member, tensors, seen) for member in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold {value!r}")


def _unpack(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "mapping":
        return {key: _unpack(member, tensors) for key, member in content}
    members = [_unpack(member, tensors) for member in content]
    return tuple(members) if kind == "tuple" else members
