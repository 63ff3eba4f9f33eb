"""Documents as trees: nested lists, one list per unit above the lowest level, sentences at the leaves.

A hierarchy of L levels makes L - 1 levels of lists; with one level the tree is a bare sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from textvae.data.document import SourceDocument
from textvae.data.text.join import separator_of
from textvae.data.text.segmentation import normalise, segment_sentences, split_paragraphs

Tree = Any
"""A leaf, or a list of trees."""


@dataclass(frozen=True)
class TreeBuilder:
    """Source documents -> trees of normalised sentences."""

    hierarchy: tuple[str, ...]
    language: str

    def __call__(self, document: SourceDocument) -> tuple[Tree, int]:
        """The tree without its empty units, and how many of those were removed.

        A document without any sentence is an empty string or list. Raises ValueError if the document's
        nesting does not fit the hierarchy.
        """
        depth = len(self.hierarchy) - 1
        try:
            if document.units is not None:
                tree = self._nest(document.units, depth, "units")
            elif depth > 2:
                raise ValueError(f"'text' and 'paragraphs' make 3 levels at most; give 'units', {depth} lists deep")
            elif document.paragraphs is not None:
                tree = self._from_paragraphs(document.paragraphs, depth)
            else:
                tree = self._from_paragraphs(split_paragraphs(document.text or ""), depth)
        except ValueError as error:
            levels = " > ".join(self.hierarchy)
            raise ValueError(f"{document.described} does not fit the hierarchy {levels}: {error}") from None
        return _prune(tree)

    def _from_paragraphs(self, paragraphs: list[Any], depth: int) -> Tree:
        tree = self._nest(paragraphs, 2, "paragraphs")
        if depth == 2:
            return tree
        merged: list[str] = []
        for sentences in tree:
            first = next((number for number, sentence in enumerate(sentences) if sentence), None)
            if first is not None and any(merged):
                sentences[first] = self._space + sentences[first]
            merged.extend(sentences)
        return merged if depth == 1 else "".join(merged)

    def _nest(self, value: Any, depth: int, where: str) -> Tree:
        """`value` with `depth` levels of lists, or one less: strings are then segmented."""
        if isinstance(value, str):
            if depth == 0:
                return normalise(value)
            if depth == 1:
                return segment_sentences(normalise(value), self.language)
            raise ValueError(f"{where} is a string, but a list of {self.hierarchy[-depth]} units is needed there")
        if not isinstance(value, list):
            raise ValueError(f"{where} is of type {type(value).__name__}; only lists and strings can be read")
        if depth == 0:
            raise ValueError(f"{where} is a list, but a {self.hierarchy[-1]}, a string, is needed there")
        children = [self._nest(child, depth - 1, f"{where}[{number}]") for number, child in enumerate(value)]
        return self._separate(children) if depth == 1 else children

    def _separate(self, sentences: list[str]) -> list[str]:
        """Sentences that came one by one, with the separators that their language writes between them."""
        first = next((number for number, sentence in enumerate(sentences) if sentence), 0)
        return [self._space + text if text and number > first else text for number, text in enumerate(sentences)]

    @property
    def _space(self) -> str:
        return separator_of(self.language)


def _prune(tree: Tree) -> tuple[Tree, int]:
    if isinstance(tree, str):
        return tree, 0
    pruned = [_prune(child) for child in tree]
    kept = [child for child, _ in pruned if child]
    return kept, len(tree) - len(kept) + sum(removed for _, removed in pruned)


def paragraphs_of(document: SourceDocument, build_tree: TreeBuilder) -> Iterator[str]:
    """Normalised text of every unit above the lowest level (of the only unit, if there is one level)."""
    tree, _ = build_tree(document)
    if isinstance(tree, str):
        yield tree
    else:
        parents = lowest_parents(tree, len(build_tree.hierarchy) - 1)
        yield from ("".join(parent) for parent in parents)


def lowest_parents(tree: Tree, depth: int) -> Iterator[list[Any]]:
    """The lists that hold the leaves of a tree of `depth` (one or more) levels of lists, in reading order."""
    if depth == 1:
        yield tree
    else:
        for child in tree:
            yield from lowest_parents(child, depth - 1)


def structure_of(tree: Tree, depth: int) -> list[list[int]]:
    """Number of children of every unit, level by level from the top; the lowest level is left out."""
    structure, units = [], [tree]
    for _ in range(depth):
        structure.append([len(unit) for unit in units])
        units = [child for unit in units for child in unit]
    return structure


def cut_sections(tree: Tree, depth: int, limit: int) -> list[Tree]:
    """Cut a tree into trees of at most `limit` leaves and similar size, at borders as high up as possible."""
    if depth == 0 or _num_leaves(tree, depth) <= limit:
        return [tree]
    parts = [part for child in tree for part in cut_sections(child, depth - 1, limit)]
    return _group(parts, [_num_leaves(part, depth - 1) for part in parts], limit)


def _group(parts: Sequence[Tree], sizes: Sequence[int], limit: int) -> list[list[Tree]]:
    """Consecutive `parts` in groups of at most `limit` in size, close to equal shares of the whole."""
    share = sum(sizes) / math.ceil(sum(sizes) / limit)
    groups: list[list[Tree]] = [[]]
    filled = 0
    for part, size in zip(parts, sizes, strict=True):
        if filled and (filled + size > limit or filled + size - share > share - filled):
            groups.append([])
            filled = 0
        groups[-1].append(part)
        filled += size
    return groups


def _num_leaves(tree: Tree, depth: int) -> int:
    return 1 if depth == 0 else sum(len(parent) for parent in lowest_parents(tree, depth))
