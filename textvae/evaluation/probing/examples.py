"""What a probe predicts, and what it is given: examples of documents, of sentences, of two neighbouring sentences or of
DiscoEval's items.

A label comes with the data; the other tasks need none, and ask for what a document's own parts tell. Sentence stands
for a unit of the lowest level of the data, whatever its name. Shapes: N examples, S sentences, D features.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.data.loader import DocumentGroup, gather_in_order, walk
from textvae.evaluation.probing.discourse import DISCOURSE, SENTENCES, DiscourseTask, of_sentences
from textvae.model.unit_transformer import segment_mean
from textvae.text_vae import HierarchicalTextVAE

ENCODER = "encoder_mean"
LENGTHS = 6
"""Classes of the task `length`."""
PARTS = 5
"""Classes of the tasks `position` and `children`."""

Answers = list[str | float | None]
"""Of the examples of one document, in reading order; None is no example."""


@dataclass(frozen=True)
class Task:
    of: Literal["document", "sentence", "pair", "item"]
    """What an example is; a pair is a sentence and the next one of the same parent, given both ways round; an item is a
    document that `discourse.documents_of` made."""
    said: str
    """What is predicted, in words."""
    without: str
    """Documents that give no example, in words."""
    answer: Callable[[EncodedDocument, str], Answers]
    """The document and the name of the label's field -> what is to be predicted of its examples."""


def _label(document: EncodedDocument, name: str) -> Answers:
    value = document.label if name == "label" else json.loads(document.extra).get(name)
    # NaN is missing, too: records are read so.
    return [None if value is None or not str(value).strip() else str(value)]


def _children(document: EncodedDocument, _: str) -> Answers:
    count = document.structure[0][0] if len(document.structure) else 1
    return [f"{PARTS} or more" if count >= PARTS else str(count)]


def _length(document: EncodedDocument, _: str) -> Answers:
    return [float(length) for length in document.decoder_lengths]


def _position(document: EncodedDocument, _: str) -> Answers:
    count = len(document.sentences)
    return [str(1 + PARTS * number // count) if count >= PARTS else None for number in range(count)]


def _order(document: EncodedDocument, _: str) -> Answers:
    return ["as written", "swapped"] * (len(_pairs(document)) // 2)


def _pairs(document: EncodedDocument) -> np.ndarray:
    """[P, 2] numbers of sentences and of the next ones of the same parents, each pair followed by its reverse."""
    counts = document.structure[-1] if len(document.structure) else [len(document.sentences)]
    last = np.cumsum(counts) - 1
    first = np.setdiff1d(np.arange(len(document.sentences)), last)
    return np.stack([first, first + 1, first + 1, first], axis=1).reshape(-1, 2)


TASKS = {
    "label": Task("document", "the field --label of every document", "without a label", _label),
    "children": Task("document", f"how many parts the document has, 1 to {PARTS} or more", "without parts", _children),
    "length": Task(
        "sentence",
        f"how many of the decoder's tokens the sentence has, in {LENGTHS} classes of about equal size (Conneau et al. "
        "2018)",
        "without a sentence",
        _length,
    ),
    "position": Task(
        "sentence",
        f"in which of {PARTS} equal parts of its document the sentence stands (after Chen et al. 2019)",
        f"of fewer than {PARTS} sentences",
        _position,
    ),
    "order": Task(
        "pair",
        "whether two neighbouring sentences are given in the order of the text (Chen et al. 2019)",
        "without two sentences beside each other",
        _order,
    ),
} | {
    name: Task("item", f"{task.said} (Chen et al. 2019)", f"of fewer than {task.num_sentences} sentences", _label)
    for name, task in DISCOURSE.items()
}


@dataclass(frozen=True)
class Ranges:
    """At most `LENGTHS` ranges of numbers, about equally many in each."""

    bounds: np.ndarray
    """Largest numbers of all but the last."""
    names: list[str]

    @classmethod
    def of(cls, values: np.ndarray) -> Ranges:
        bounds = np.unique(np.quantile(values, np.linspace(0, 1, LENGTHS + 1)[1:-1], method="lower"))
        of_each = np.searchsorted(bounds, values)
        members = [values[of_each == number] for number in np.unique(of_each)]
        return cls(bounds, [f"{some.min():.0f} to {some.max():.0f}" for some in members])

    def named(self, values: np.ndarray) -> np.ndarray:
        """[N] names of the ranges that hold `values`; the outer ones hold what is beyond them, too."""
        last = len(self.names) - 1
        return np.asarray(self.names)[np.minimum(np.searchsorted(self.bounds, values), last)]


@dataclass(frozen=True)
class Examples:
    features: dict[str, np.ndarray]
    """[N, D] by latent level and for `encoder_mean`; of items, for all levels together as well."""
    texts: np.ndarray
    """[N] of strings."""
    labels: np.ndarray
    """[N] of strings."""
    sources: np.ndarray
    """[N] ids of the source documents that they are of."""
    num_left_out: int
    """Documents that give no example."""
    ranges: Ranges | None = None
    """Classes of the task `length`."""

    def select(self, kept: np.ndarray) -> Examples:
        features = {name: values[kept] for name, values in self.features.items()}
        return replace(
            self,
            features=features,
            texts=self.texts[kept],
            labels=self.labels[kept],
            sources=self.sources[kept],
        )

    def followed_by(self, others: Examples) -> Examples:
        """These and then `others`, of the same task."""
        features = {name: np.concatenate([values, others.features[name]]) for name, values in self.features.items()}
        return replace(
            self,
            features=features,
            texts=np.concatenate([self.texts, others.texts]),
            labels=np.concatenate([self.labels, others.labels]),
            sources=np.concatenate([self.sources, others.sources]),
            num_left_out=self.num_left_out + others.num_left_out,
        )


@dataclass(frozen=True)
class _OfDocument:
    """Its examples, those without an answer left out."""

    answers: list[str | float]
    texts: list[str]
    features: dict[str, np.ndarray]


@torch.no_grad()
def collect(
    model: HierarchicalTextVAE,
    documents: Documents,
    task: str = "label",
    label: str = "label",
    batch_tokens: int = 8192,
    process: PartialState | None = None,
    trained: Examples | None = None,
) -> Examples:
    """Examples of one of `TASKS` from all documents; of several processes each takes a share. `trained`: those that a
    probe is fitted on, whose classes these have, where these are to test it.

    Of a document, a level's features are the mean over its units, and `encoder_mean` is that of the pretrained
    sentence features. Of a sentence, they are those of the unit that it is in, or is; of a pair, of both, one after the
    other. Of an item, a level's features are its unit's, those of the sentences' level are combined as published, and
    all levels' are given one after the other as well. The field `label` is no label where it is null, NaN, empty or
    missing. Raises ValueError where no document gives an example.
    """
    asked = TASKS[task]
    found: list[tuple[int, _OfDocument]] = []
    for group in walk(
        documents, model.layout, model.device, batch_tokens=batch_tokens, process=process, purpose="features"
    ):
        features = _features(model, group, of_documents=asked.of == "document")
        if asked.of == "item":
            of_items = zip(group.members, features, strict=True)
            features = [_of_item(DISCOURSE[task], model, document, values) for document, values in of_items]
        found += [
            (row, _of_document(asked, document, label, values))
            for row, document, values in zip(group.rows, group.members, features, strict=True)
        ]
    gathered = gather_in_order(found)
    with_examples = [(row, each) for row, each in enumerate(gathered) if each.answers]
    if not with_examples:
        said = f"has a field '{label}' to predict; name another with --label" if task == "label" else "gives an example"
        raise ValueError(f"no document {said}" + ("" if task == "label" else f": all are {asked.without}"))
    answers = np.asarray([answer for _, each in with_examples for answer in each.answers])
    ranges = None
    if task == "length":
        ranges = Ranges.of(answers) if trained is None or trained.ranges is None else trained.ranges
    return Examples(
        {
            name: np.concatenate([each.features[name] for _, each in with_examples])
            for name in with_examples[0][1].features
        },
        np.asarray([text for _, each in with_examples for text in each.texts], dtype=object),
        answers if ranges is None else ranges.named(answers),
        np.asarray([documents.source_ids[row] for row, each in with_examples for _ in each.answers]),
        len(gathered) - len(with_examples),
        ranges,
    )


def _features(model: HierarchicalTextVAE, group: DocumentGroup, of_documents: bool) -> list[dict[str, np.ndarray]]:
    """Of every document of the group: [1, D] of itself, or [S, D] of its sentences."""
    batch, lowest = group.batch, len(group.batch.levels) - 1
    sentence_document = batch.levels[lowest].document
    levels = {
        name: (latents.mean, latents.document, batch.level_number(name))
        for name, latents in model.latents(batch).items()
    }
    levels[ENCODER] = (model.sentence_features(batch), sentence_document, lowest)
    count = len(group.rows)
    sizes = [1] * count if of_documents else sentence_document.bincount(minlength=count).tolist()

    def rows(values: Tensor, document: Tensor, level: int) -> Tensor:
        return segment_mean(values, document, count) if of_documents else values[batch.ancestor(lowest, level)]

    parts = {name: rows(*of_level).float().cpu().split(sizes) for name, of_level in levels.items()}
    return [{name: of[number].numpy() for name, of in parts.items()} for number in range(count)]


def _of_document(task: Task, document: EncodedDocument, label: str, features: dict[str, np.ndarray]) -> _OfDocument:
    answers = task.answer(document, label)
    sentences = [sentence.strip() for sentence in document.sentences]
    texts = sentences if task.of in ("sentence", "pair") else [document.text()]
    if task.of == "pair":
        pairs = _pairs(document)
        features = {
            name: np.concatenate([rows[pairs[:, 0]], rows[pairs[:, 1]]], axis=1) for name, rows in features.items()
        }
        texts = [f"{sentences[first]} {sentences[second]}" for first, second in pairs]
    kept = [number for number, answer in enumerate(answers) if answer is not None]
    return _OfDocument(
        [answer for answer in answers if answer is not None],
        [texts[number] for number in kept],
        {name: rows[kept] for name, rows in features.items()},
    )


def _of_item(
    task: DiscourseTask, model: HierarchicalTextVAE, document: EncodedDocument, features: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """[1, D] of the item by what its sentences have, [S, D]: above them, it is one unit."""
    sentences = json.loads(document.extra)[SENTENCES]
    found = {
        name: task.combine(of_sentences(rows, document, sentences))
        if name in (ENCODER, model.config.hierarchy[-1])
        else rows[0]
        for name, rows in features.items()
    }
    states, levels = found.pop(ENCODER), list(found)
    if len(levels) > 1:
        found["+".join(levels)] = np.concatenate([found[name] for name in levels])
    return {name: row[None] for name, row in {**found, ENCODER: states}.items()}
