"""A record of any table or JSON file -> `SourceDocument`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from textvae.data.document import SourceDocument
from textvae.data.text.clean import clean

_LISTS = ("units", "paragraphs")
_TEXT = "text"


@dataclass(frozen=True)
class FieldNames:
    """Where a record keeps what."""

    text: str | None = None
    """A name: that field and no other, text or nested lists. None: `units`, `paragraphs` or `text`, by the rule of
    `parse_record`."""
    id: str = "id"
    title: str = "title"
    label: str = "label"


def parse_record(record: Mapping[str, Any], default_id: str, place: str, fields: FieldNames) -> SourceDocument:
    """A record as a document; one whose text is null (or NaN) has none.

    If no field is named, `units`, else `paragraphs`, are read if they are lists of lists of text. A plain list of
    strings may be something else: beside a text it is read if it holds the same words, else the text is. What is
    not read is kept in `extra`, and named in `unread`, unless it says the same. An `_id` (BEIR) stands in for a
    missing id. Raises ValueError naming `place` if no text is there or its type is wrong.
    """
    rest = {str(key): value for key, value in record.items() if not _is_missing(value)}
    name = _name(rest.pop(fields.id, None)) or _name(rest.pop("_id", None)) or default_id
    title, label = rest.pop(fields.title, None), rest.pop(fields.label, None)
    asked = (*_LISTS, _TEXT) if fields.text is None else (fields.text,)
    if not any(key in record for key in asked):
        known = f"'{fields.text}'" if fields.text else "'text', 'paragraphs' or 'units'"
        raise ValueError(
            f"{place}: no field {known} among {sorted(map(str, record))}; name the field that holds the text "
            "(--text-field)"
        )
    found = {key: rest.pop(key) for key in asked if key in rest}
    try:
        chosen = _choose(found, fields.text, place)
        value = None if chosen is None else found.pop(chosen)
        unread = {key: other for key, other in found.items() if _says_else(other, value)}
        return SourceDocument(
            id=name,
            title=None if title is None else str(title),
            label=None if label is None else str(label),
            extra=rest | unread,
            unread=tuple(unread),
            place=place,
            **({} if chosen is None else {_content_kind(chosen, value): _without_nulls(value)}),
        )
    except RecursionError:
        raise ValueError(f"{place}: its lists are nested too deep to be read") from None


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _name(value: Any) -> str | None:
    return None if value is None else clean(str(value)) or None


def _choose(found: Mapping[str, Any], named: str | None, place: str) -> str | None:
    """The field that is the text; None if all are null."""
    takes_text = (_TEXT, named)
    usable = [k for k, value in found.items() if _is_nesting(value) or (isinstance(value, str) and k in takes_text)]
    if found and not usable:
        key, value = next(iter(found.items()))
        wanted = "list" if key in _LISTS else "str"
        kind = "list with more than text in it" if isinstance(value, list) else type(value).__name__
        raise ValueError(f"{place}: field '{key}' is of type {kind}, not {wanted}")
    words = {key: _words(found[key]) for key in usable} if len(usable) > 1 else {}
    for number, key in enumerate(usable[:-1]):
        others = [words[other] for other in usable[number + 1 :] if words[other]]
        is_nested = any(isinstance(child, list) for child in found[key])
        if words[key] and (is_nested or not others or words[key] in others):
            return key
    return usable[-1] if usable else None


def _is_nesting(value: Any) -> bool:
    """Whether it is a list of strings (or nulls), or of such lists."""
    return isinstance(value, list) and all(
        _is_missing(child) or isinstance(child, str) or _is_nesting(child) for child in value
    )


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for child in value:
            yield from _leaves(child)
    elif isinstance(value, str):
        yield value


def _words(value: Any) -> str:
    """All that is written in it, without whitespace."""
    return "".join("".join(_leaves(value)).split())


def _says_else(other: Any, value: Any) -> bool:
    return not (isinstance(other, str) or _is_nesting(other)) or _words(other) not in ("", _words(value))


def _content_kind(key: str, value: Any) -> str:
    if isinstance(value, str):
        return "text"
    return "units" if key == "units" or _depth(value) > 2 else "paragraphs"


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(child) for child in value]
    return "" if _is_missing(value) else value
