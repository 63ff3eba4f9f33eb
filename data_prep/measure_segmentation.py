"""Compare sentence segmentation libraries on hand-made gold paragraphs: quality of the borders and speed.

    python data_prep/measure_segmentation.py

Libraries that are not installed are skipped by name (`pip install nupunkt pysbd blingfire syntok` for the
rest). A border is the character position at which a new sentence begins; the paragraph's own begin and end do
not count.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from textvae.data.text.segmentation import segment_sentences

GOLD = Path(__file__).with_name("segmentation_gold.txt")


@dataclass(frozen=True)
class BorderScore:
    """Counts of sentence borders, summed over paragraphs and divided once."""

    correct: int
    predicted: int
    gold: int

    @property
    def precision(self) -> float:
        return self.correct / max(self.predicted, 1)

    @property
    def recall(self) -> float:
        return self.correct / max(self.gold, 1)

    @property
    def f1(self) -> float:
        return 2 * self.correct / max(self.predicted + self.gold, 1)


def gold_paragraphs(path: Path = GOLD) -> Iterator[list[str]]:
    """The sentences of each gold paragraph."""
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        sentences = [line for line in block.splitlines() if line and not line.startswith("#")]
        if sentences:
            yield sentences


def borders(text: str, sentences: list[str]) -> set[int]:
    """Positions in `text` at which all sentences but the first begin; ValueError if one is not in it."""
    found, position = set(), 0
    for sentence in sentences:
        position = text.index(sentence.strip(), position)
        found.add(position)
        position += len(sentence.strip())
    return found - {0}


def score(segment: Callable[[str], list[str]]) -> BorderScore:
    """Border counts of `segment` (paragraph -> sentences) over the gold paragraphs."""
    correct = predicted = gold = 0
    for sentences in gold_paragraphs():
        text = " ".join(sentences)
        expected, got = borders(text, sentences), borders(text, segment(text))
        correct, predicted, gold = (
            correct + len(expected & got),
            predicted + len(got),
            gold + len(expected),
        )
    return BorderScore(correct, predicted, gold)


def candidates() -> Iterator[tuple[str, Callable[[str], list[str]]]]:
    """Name and function of every installed candidate, textvae's own choice first."""
    yield "sentencex (as textvae uses it)", lambda text: segment_sentences(text, "en")
    if _installed("nupunkt"):
        import nupunkt

        yield "nupunkt", nupunkt.sent_tokenize
    if _installed("pysbd"):
        import pysbd

        yield "pysbd", pysbd.Segmenter(language="en", clean=False).segment
    if _installed("blingfire"):
        import blingfire

        yield "blingfire", lambda text: blingfire.text_to_sentences(text).split("\n")
    if _installed("syntok"):
        from syntok import segmenter

        def syntok_sentences(text: str) -> list[str]:
            spans = [sentence for paragraph in segmenter.analyze(text) for sentence in paragraph]
            return [text[s[0].offset : s[-1].offset + len(s[-1].value)] for s in spans]

        yield "syntok", syntok_sentences


def _installed(name: str) -> bool:
    present = importlib.util.find_spec(name) is not None
    if not present:
        print(f"{name}: not installed, skipped")
    return present


def main() -> None:
    text = " ".join(" ".join(sentences) for sentences in gold_paragraphs())
    print(f"{'library':30s} precision recall     F1   million characters/s")
    for name, segment in candidates():
        result = score(segment)
        start = time.perf_counter()
        for _ in range(10):
            segment(text)
        speed = 10 * len(text) / (time.perf_counter() - start) / 1e6
        print(f"{name:30s} {result.precision:9.3f} {result.recall:6.3f} {result.f1:6.3f} {speed:8.2f}")


if __name__ == "__main__":
    main()
