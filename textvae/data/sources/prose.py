"""Prose paragraphs out of docstrings: what reads as sentences, without markup, code, tables or parameters."""

from __future__ import annotations

import re
from itertools import groupby

_MIN_WORDS = 6
_MIN_LETTERS = 0.72
_FIRST = re.compile(r"[A-Z\"'“(]|\w+[._]\w")
_LAST = re.compile(r"[.!?][)\"'\u201d\u2019]*$")
# What opens something that is not prose: prompts, fields, directives, tables, list items, headings, grammar.
_NOT_PROSE = re.compile(
    r">>>|\.\. |:\w+[^:`]*:(?!`)|[-*+•#|=~^$@\\{\[<]|\d+[.)]\s|"
    r"[\w.]+\s*(\(.*\))?\s*(->|=|::=)|[\w., ]+ :( |$)|r?\"\"\""
)
_UNDERLINE = re.compile(r"[=\-~^\"'`#*+.]{3,}$")
_ADMONITION = re.compile(r"\.\. (note|warning|tip|important|caution|seealso)::")
_CODE_OR_TABLE = re.compile(r"::=|\s\|\s|\+--|--\+|[{}\\]|;\s*$|==|\w+\(.*\)\s*->|\s{3,}|<[a-z/][^>]*>|https?://", re.M)
_LEGAL = re.compile(r"copyright|licen[cs]e|all rights reserved|warrant(y|ies)\b|\(c\)", re.I)
_MARKUP = [
    (re.compile(r":[\w:.+-]+:`([^`<]+?)\s*<[^`>]*>`"), r"\1"),
    (re.compile(r":[\w:.+-]+:`~[\w.]*?(\w+)`"), r"\1"),
    (re.compile(r":[\w:.+-]+:`([^`]*)`"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{1,2}"), r"\1"),
    (re.compile(r"!?\[([^\]]*)\]\([^)]*\)"), r"\1"),
    (re.compile(r"\[`~?([^`\]]*)`\]"), r"\1"),
    (re.compile(r"`{1,2}~?([^`]*)`{1,2}_{0,2}"), r"\1"),
    (re.compile(r"\*\*([^*\n]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^*\s][^*\n]*)\*(?![\w*])"), r"\1"),
    (re.compile(r"\s*\[(\d+\]|[\w.-]+\]_)_?"), ""),
]


def prose_paragraphs(docstring: str) -> list[str]:
    """Paragraphs of cleaned, one-line text; none if the docstring holds no prose or is about its licence."""
    if _LEGAL.search(docstring):
        return []
    return [text for block in _blocks(docstring) if (text := _clean(block))]


def _blocks(docstring: str) -> list[list[str]]:
    """Runs of non-blank lines with one indentation; those with several are code, parameters or list items."""
    lines = _without_headings(_open_admonitions([line.rstrip() for line in docstring.expandtabs().splitlines()]))
    runs = (list(group) for filled, group in groupby(lines, key=bool) if filled)
    return [
        [line.strip() for line in run] for run in runs if len({len(line) - len(line.lstrip()) for line in run}) == 1
    ]


def _open_admonitions(lines: list[str]) -> list[str]:
    """Notes and the like, which directives indent, moved to the margin."""
    result: list[str] = []
    inside = False
    for line in lines:
        inside = bool(_ADMONITION.match(line)) or (inside and (not line or line.startswith(" ")))
        result.append(_ADMONITION.sub("", line).strip() if inside else line)
    return result


def _without_headings(lines: list[str]) -> list[str]:
    """Underlined headings blanked, which would otherwise count among the lines below them."""
    rules = [number for number, line in enumerate(lines) if _UNDERLINE.match(line)]
    headings = {number for rule in rules for number in (rule - 1, rule)}
    return ["" if number in headings else line for number, line in enumerate(lines)]


def _clean(block: list[str]) -> str | None:
    if any(_NOT_PROSE.match(line) for line in block):
        return None
    text = " ".join(block)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    text = " ".join(text.split())
    letters = sum(character.isalpha() or character == " " for character in text)
    prose = (
        _FIRST.match(text)
        and _LAST.search(text)
        and not _CODE_OR_TABLE.search(text)
        and "`" not in text
        and len(text.split()) >= _MIN_WORDS
        and letters >= _MIN_LETTERS * len(text)
    )
    return text if prose else None
