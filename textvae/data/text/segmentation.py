"""Text -> normalised text -> paragraphs -> sentences, all of it reversible once normalised.

sentencex was chosen by measurement (`data_prep/measure_segmentation.py`): F1 0.945, where nupunkt and syntok
reach 0.957, one border in eighty more, at a sixth and a thirtieth of its speed. It is maintained, knows some
300 languages, and keeps every character.
"""

from __future__ import annotations

import re
import unicodedata

import sentencex

from textvae.data.text.clean import clean

_LINE_BREAK = re.compile(r"\r\n?|\u2028")
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+|\u2029")
# sentencex is quadratic in the length of a text in a script of several bytes a character.
_WINDOW = 10_000
_ZERO_WIDTH_JOINER = "\u200d"


def normalise(text: str) -> str:
    """Clean, in Unicode NFC; whitespace runs as one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", clean(text)).split())


def split_paragraphs(text: str) -> list[str]:
    """The parts of raw `text` between blank lines, normalised, without empty ones."""
    parts = [normalise(part) for part in _BLANK_LINES.split(_LINE_BREAK.sub("\n", text))]
    return [part for part in parts if part]


def segment_sentences(text: str, language: str) -> list[str]:
    """Sentences of normalised `text`; each keeps the space before it, so that they concatenate to `text`.

    Where 10,000 characters hold no border, one is set, at a space if there is one.
    """
    sentences: list[str] = []
    separator = ""
    for sentence in _segment_windows(text, language):
        stripped = sentence.rstrip(" ")
        sentences.append(separator + stripped)
        separator = sentence[len(stripped) :]
    return sentences


def _segment_windows(text: str, language: str) -> list[str]:
    sentences: list[str] = []
    start = 0
    while start < len(text):
        window = text[start : start + _WINDOW]
        found = sentencex.segment(language, window)
        if start + len(window) < len(text):
            if len(found) > 1:
                found.pop()  # it may go on behind the window, and is read again with what follows it
            elif (space := window.rfind(" ")) > 0:
                found = [window[:space]]
        sentences.extend(found)
        start += sum(map(len, found))
    return sentences


def cut_evenly(text: str, pieces: int) -> list[str]:
    """Cut normalised `text` into at most `pieces` (two or more) parts of similar length that concatenate to
    it.

    Cuts lie before a space where there is one near, else not before a combining mark where that can be
    helped.
    """
    pieces = min(pieces, len(text))
    reach = len(text) // (2 * pieces)
    cuts = [0]
    for number in range(1, pieces):
        cut = _cut_near(text, round(number * len(text) / pieces), reach)
        if cuts[-1] < cut < len(text):
            cuts.append(cut)
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _cut_near(text: str, target: int, reach: int) -> int:
    before, after = text.rfind(" ", target - reach, target + 1), text.find(" ", target, target + reach)
    spaces = [space for space in (before, after) if space > 0]
    if spaces:
        return min(spaces, key=lambda space: abs(space - target))
    for cut in range(target, max(target - reach, 0), -1):
        mark = unicodedata.category(text[cut]) in ("Mn", "Me") or text[cut] == _ZERO_WIDTH_JOINER
        if not mark and text[cut - 1] != _ZERO_WIDTH_JOINER:
            return cut
    return target
