"""The plan of a document: its structure and its latents, unit by unit, each decided or left open.

Shapes: U units of a level, P of the level above, Z latent size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from textvae.model.structure import parents

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class DocumentPlan:
    """One document, as far as it is decided. Levels are given by depth (the root's is 0) or by name.

    A plan lists the units that are known: the root always, and the children of every unit whose number of children
    is decided. Raises ValueError when its parts are not of one document.
    """

    hierarchy: tuple[str, ...]
    children: tuple[Tensor, ...]
    """[U] int64 on the CPU, for every level but the lowest: children of each listed unit, 0 where that is open."""
    z: Mapping[str, Tensor] = field(default_factory=dict)
    """[U, Z] by latent level; a level that is missing is open."""
    given: Mapping[str, Tensor] = field(default_factory=dict)
    """[U] bool on the CPU by latent level in `z`: whether the unit's z is held; the others are drawn."""
    sentences: tuple[Tokens | None, ...] | None = None
    """For every listed unit of the lowest level the token ids that it is held to, or None. None: all are written."""

    def __post_init__(self) -> None:
        if len(self.children) != len(self.hierarchy) - 1:
            raise ValueError(
                f"a plan of levels {list(self.hierarchy)} needs {len(self.hierarchy) - 1} rows of children"
            )
        for depth, row in enumerate(self.children):
            if len(row) != self.num_units(depth):
                raise ValueError(
                    f"the plan lists {self.num_units(depth)} units at level '{self.hierarchy[depth]}', and numbers of "
                    f"children of {len(row)}"
                )
        for name, values in self.z.items():
            count = self.num_units(self.depth(name))
            if len(values) != count or self.given[name].shape != (count,):
                raise ValueError(f"the plan lists {count} units at level '{name}', and latents of {len(values)}")
        if self.sentences is not None and len(self.sentences) != self.num_units(len(self.hierarchy) - 1):
            raise ValueError(f"the plan holds {len(self.sentences)} sentences, which its structure does not list")

    def depth(self, level: str) -> int:
        """Raises ValueError for a level that the documents do not have."""
        if level not in self.hierarchy:
            raise ValueError(f"there is no level '{level}'; this model's are {list(self.hierarchy)}")
        return self.hierarchy.index(level)

    def num_units(self, depth: int) -> int:
        """Units that are listed at a depth."""
        return int(self.children[depth - 1].sum()) if depth else 1

    def ancestors(self, of: int, at: int) -> Tensor:
        """[U_of] index of the ancestor at depth `at` of every listed unit of depth `of`."""
        index = torch.arange(self.num_units(at))
        for depth in range(at, of):
            index = index[parents(self.children[depth])]
        return index

    @property
    def structure(self) -> list[list[int]]:
        """As `EncodedDocument.structure`."""
        return [row.tolist() for row in self.children]


def open_plan(hierarchy: Sequence[str]) -> DocumentPlan:
    """A document of which nothing is decided."""
    counts = [torch.zeros(1 if depth == 0 else 0, dtype=torch.long) for depth in range(len(hierarchy) - 1)]
    return DocumentPlan(tuple(hierarchy), tuple(counts))


def plan_of(
    latents: Mapping[str, Tensor],
    structure: Sequence[Sequence[int]],
    hierarchy: Sequence[str],
    sentences: Sequence[Sequence[int]] | None = None,
) -> DocumentPlan:
    """All of one document held: its latents by level, each [U, Z], its structure and, where given, its tokens."""
    return DocumentPlan(
        tuple(hierarchy),
        tuple(torch.as_tensor(row, dtype=torch.long) for row in structure),
        dict(latents),
        {name: torch.ones(len(values), dtype=torch.bool) for name, values in latents.items()},
        None if sentences is None else tuple(tuple(map(int, ids)) for ids in sentences),
    )
