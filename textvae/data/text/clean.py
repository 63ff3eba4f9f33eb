"""Text as it enters: without what UTF-8 cannot hold or a reader cannot see."""

from __future__ import annotations

import re
from typing import Any

# Control characters that are not whitespace, lone surrogates, and the byte order mark, wherever files were joined.
_UNWRITABLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff]")
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def clean(text: str) -> str:
    """No control characters but whitespace, no byte order marks; surrogates in pairs joined, lone ones dropped."""
    joined = _SURROGATE_PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return _UNWRITABLE.sub("", joined)


def clean_value(value: Any) -> Any:
    """Every string in a value of lists and mappings cleaned, keys too; anything else as it is."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list | tuple):
        return [clean_value(child) for child in value]
    if isinstance(value, dict):
        return {clean_value(key): clean_value(child) for key, child in value.items()}
    return value
