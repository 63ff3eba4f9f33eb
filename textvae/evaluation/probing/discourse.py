"""DiscoEval's tasks on sentences beside each other: sentence position (SP), binary sentence ordering (BSO), discourse
coherence (DC); Chen, Chu & Gimpel 2019, "Evaluation Benchmarks and Learning Criteria for Discourse-Aware Sentence
Representations".

Items are read from the published files or made of a corpus, and become documents of one paragraph: sentences see each
other, as in any document. Shapes: S sentences of an item, D features.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.plan import spread
from textvae.data.text.processor import DocumentProcessor
from textvae.data.text.segmentation import normalise

TRAIN_FILE, TEST_FILE = "train.txt", "test.txt"
SENTENCES = "sentences"
"""Field of a document: those of its item."""

Answered = list[tuple[Sequence[str], str]]
"""Sentences and what is to be predicted of them."""


@dataclass(frozen=True)
class Item:
    sentences: tuple[str, ...]
    label: str
    source: str
    """Id of the source document, or the file and line, that it is of."""


@dataclass(frozen=True)
class DiscourseTask:
    said: str
    """What is predicted, in words."""
    num_sentences: int
    labels: tuple[str, ...]
    """With which the lines of published files begin; none where they hold the sentences alone."""
    make: Callable[[list[str], np.random.Generator, Callable[[], str]], Answered]
    """Sentences beside each other, random numbers, a sentence of another document -> items."""
    combine: Callable[[np.ndarray], np.ndarray]
    """[S, D] of the sentences -> what the probe is given, as published."""


def _moved(sentences: list[str], random: np.random.Generator, _: Callable[[], str]) -> Answered:
    place = int(random.integers(len(sentences)))
    return [([sentences[place], *sentences[:place], *sentences[place + 1 :]], str(place))]


def _both_orders(sentences: list[str], *_: Any) -> Answered:
    return [(sentences, "1"), (sentences[::-1], "0")]


def _replaced(sentences: list[str], random: np.random.Generator, borrow: Callable[[], str]) -> Answered:
    if random.random() < 0.5:
        return [(sentences, "1")]
    place = int(random.integers(1, len(sentences) - 1))
    return [([*sentences[:place], borrow(), *sentences[place + 1 :]], "0")]


DISCOURSE = {
    "SP": DiscourseTask(
        "where the first of five sentences stood before it was moved to the front, 0 to 4",
        5,
        ("0", "1", "2", "3", "4"),
        _moved,
        lambda rows: np.concatenate([rows[0], *(rows[0] - rows[1:])]),
    ),
    "BSO": DiscourseTask(
        "whether two neighbouring sentences are in order, 1, or swapped, 0",
        2,
        (),
        _both_orders,
        lambda rows: np.concatenate([rows[0], rows[1], rows[0] - rows[1]]),
    ),
    "DC": DiscourseTask(
        "whether six sentences belong together, 1, or the second, third, fourth or fifth is of another document, 0",
        6,
        ("0", "1"),
        _replaced,
        np.concatenate,
    ),
}


def task_folders(folder: str | os.PathLike[str]) -> tuple[dict[str, Path], list[str]]:
    """The folders in `folder`, or that itself, which hold one of the tasks with a training and a test part, by names
    such as SP/rocstory; and those with such files that are of no task, lack a part or have a name again.

    The published layout is TASK/CORPUS/train.txt, test.txt. Raises ValueError where there is none.
    """
    root = Path(folder).resolve()
    found, left = {}, []
    for path in [root, *sorted(path for path in root.rglob("*") if path.is_dir())]:
        present = [name for name in (TRAIN_FILE, TEST_FILE) if (path / name).is_file()]
        named = path.name if path.name in DISCOURSE else f"{path.parent.name}/{path.name}"
        if len(present) == 2 and named.split("/")[0] in DISCOURSE and named not in found:
            found[named] = path
        elif present:
            left.append(str(path.relative_to(root)))
    if not found:
        raise ValueError(
            f"'{folder}' holds no folder of DiscoEval's {', '.join(DISCOURSE)} with {TRAIN_FILE} and {TEST_FILE}: give "
            "its data folder, or one of it such as data/SP/rocstory"
        )
    return found, left


def read_items(path: Path, task: str, limit: int | None = None) -> list[Item]:
    """Items of a published file: one a line, the label and the sentences between tabs; of BSO two sentences in order,
    which make two items. At most `limit` lines, spread over the file.

    Raises ValueError naming a line that is of another form, and for a file that holds none.
    """
    asked = DISCOURSE[task]
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is no UTF-8 text ({error.reason}); get it again") from None
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise ValueError(f"'{path}' holds no line")
    items = []
    for number, line in numbered:
        fields = line.strip().split("\t")
        label, sentences = (fields[0], fields[1:]) if asked.labels else ("", fields)
        if len(sentences) != asked.num_sentences or not all(map(normalise, sentences)):
            raise ValueError(f"line {number} of '{path}' is not {_form(asked)}, between tabs")
        if asked.labels and label not in asked.labels:
            raise ValueError(f"the label of line {number} of '{path}' is '{label}', not {_form(asked)}")
        answered = [(sentences, label)] if asked.labels else _both_orders(sentences)
        items.append([Item(tuple(given), answer, f"{path}:{number}") for given, answer in answered])
    rows = range(len(items)) if limit is None else spread(limit, len(items))
    return [item for row in rows for item in items[row]]


def _form(task: DiscourseTask) -> str:
    label = f"a label ({', '.join(task.labels)}) and " if task.labels else ""
    return f"{label}{task.num_sentences} sentences"


def make_items(documents: Documents, task: str, seed: int) -> tuple[list[Item], int]:
    """Items of the documents that have enough sentences, each of sentences beside each other at a place that is drawn
    (of BSO two, both ways round), and how many documents have too few. A document's draw is its own whatever the
    others; what takes a sentence's place is drawn of those of other sources among `documents`.

    Raises ValueError where no document is of another source.
    """
    asked = DISCOURSE[task]
    _, source = np.unique(np.asarray(documents.source_ids), return_inverse=True)
    items, too_short = [], 0
    for row in range(len(documents)):
        sentences = [sentence.strip() for sentence in documents.read(row).sentences]
        if len(sentences) < asked.num_sentences:
            too_short += 1
            continue
        random = np.random.default_rng((seed, zlib.crc32(documents.ids[row].encode())))

        def borrow(row: int = row, random: np.random.Generator = random) -> str:
            others = np.flatnonzero(source != source[row])
            if not len(others):
                raise ValueError(f"{task} takes sentences of other documents: give it more than one")
            return str(random.choice(documents.read(int(random.choice(others))).sentences)).strip()

        start = int(random.integers(len(sentences) - asked.num_sentences + 1))
        beside = sentences[start : start + asked.num_sentences]
        made = asked.make(beside, random, borrow)
        items += [Item(tuple(given), answer, documents.source_ids[row]) for given, answer in made]
    return items, too_short


def unseen(items: Sequence[Item], known: Iterable[Item]) -> list[Item]:
    """Those of `items` without a sentence that one of `known` has."""
    sentences = {sentence for item in known for sentence in item.sentences}
    return [item for item in items if sentences.isdisjoint(item.sentences)]


def documents_of(items: Sequence[Item], processor: DocumentProcessor) -> Documents:
    """Every item as a document of one paragraph, its answer as the label. Raises ValueError for a hierarchy without
    sentences below its documents."""
    depth = len(processor.hierarchy) - 1
    if depth < 1:
        raise ValueError(f"the model has no sentences below its {processor.hierarchy[0]}: sentences cannot be probed")
    members = []
    for number, item in enumerate(items):
        units: list[Any] = list(item.sentences)
        for _ in range(depth - 1):
            units = [units]
        source = SourceDocument(f"item-{number}", units=units, label=item.label, extra={SENTENCES: [*item.sentences]})
        members.append(replace(processor(source), source_id=item.source))
    return Documents.of(members)


def of_sentences(rows: np.ndarray, document: EncodedDocument, sentences: Sequence[str]) -> np.ndarray:
    """[S, D] of an item's sentences out of the rows of its document, whose over-long sentences are in pieces: the
    mean of theirs."""

    def ends(texts: Iterable[str]) -> np.ndarray:
        return np.cumsum([len("".join(text.split())) for text in texts])

    of_piece = np.searchsorted(ends(map(normalise, sentences)), ends(document.sentences))
    return np.stack([rows[of_piece == number].mean(0) for number in range(len(sentences))])
