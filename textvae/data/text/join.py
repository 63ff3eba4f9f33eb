"""Sentences -> the text that they were, as their language separates them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

_UNSPACED = {"bo", "dz", "ja", "km", "lo", "my", "th", "yue", "zh"}
_SENTENCE_END = re.compile(r"[.!?…][\"'\u201d\u2019»)\]]*$")
_OPENING = re.compile(r"[\"'\u201c\u2018«(\[]*[^\W\d_]")


def separator_of(language: str) -> str:
    """What `language` (a code such as `en` or `zh-Hant`) writes between two sentences."""
    return "" if re.split("[-_]", language.lower())[0] in _UNSPACED else " "


def join_tokens(sentences: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, language: str) -> str:
    """The text of one parent out of its sentences' decoder tokens, which hold the separators.

    A separator that a model left out is put back where it cannot have been meant: between the end of a sentence and
    a capital letter, in a language that writes one. A word that was cut by length is joined as it was.
    """
    pieces = [_decode(sentences[0], tokenizer)] if sentences else []
    pieces += [_continuation(before, after, tokenizer) for before, after in pairwise(sentences)]
    text = ""
    for piece in pieces:
        opening = _OPENING.match(piece)
        is_missing = opening is not None and opening[0][-1].isupper() and _SENTENCE_END.search(text) is not None
        text += (separator_of(language) if is_missing else "") + piece
    return text.strip()


def _continuation(before: Sequence[int], after: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of `after` where it follows `before`: some tokenizers drop the first space of what they decode."""
    alone, both = _decode(before, tokenizer), _decode([*before, *after], tokenizer)
    return both.removeprefix(alone) if both.startswith(alone) else _decode(after, tokenizer)


def _decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))
