"""What a token of training takes in short and in long documents: the same sentences, joined to documents of several
lengths, three levels beside the decoder alone on the same rows.

    textvae prepare SOURCE --out DATA --cache-features
    OMP_NUM_THREADS=1 python benchmarks/document_length.py DATA --sentences 10 100 400
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from math import lcm
from pathlib import Path
from statistics import median

import numpy as np
import torch
from measures import decoder_loss, facts, in_training, timed

from textvae.atomic import write_json
from textvae.config_file import load_config
from textvae.data.batch import DocumentBatch
from textvae.data.dataset import PreparedSplit, load_prepared
from textvae.data.document import EncodedDocument
from textvae.data.loader import micro_batches
from textvae.devices import best_precision
from textvae.model.noise import KeyedNoise
from textvae.text_vae import HierarchicalTextVAE
from textvae.training.objective import Objective

PARAGRAPH = 5
"""Sentences."""


@dataclass(frozen=True)
class Sentence:
    text: str
    encoder_ids: np.ndarray
    decoder_ids: np.ndarray
    features: np.ndarray
    """[D]"""


@dataclass(frozen=True)
class Measured:
    documents: int
    tokens: int
    microseconds: float
    """For a token: forward and backward pass."""
    floor_microseconds: float
    """The same of the decoder alone."""
    times_the_floor: float
    times_the_first: float
    """How much longer a token takes than in documents of the first length; the median of the repetitions."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="prepared, with cached features")
    parser.add_argument("--config", default=Path(__file__).with_name("model.yaml"), type=Path, metavar="FILE")
    parser.add_argument("--sentences", type=int, nargs="+", default=[10, 50, 100, 200, 400], help="of a document")
    parser.add_argument(
        "--total", type=int, default=800, help="sentences of all documents at most (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=int, default=3, help="times, every length in each (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="as of train.py")
    return parser


def sentences_of(split: PreparedSplit) -> Iterator[Sentence]:
    for row in range(len(split)):
        document = split.read(row)
        assert document.features is not None
        features = document.features.reshape(len(document.sentences), -1)
        yield from map(
            Sentence, document.sentences, document.encoder_sentences(), document.decoder_sentences(), features
        )


def joined(number: int, sentences: Sequence[Sentence]) -> EncodedDocument:
    """A document of the data's three levels."""
    paragraphs = [len(sentences[start : start + PARAGRAPH]) for start in range(0, len(sentences), PARAGRAPH)]
    lengths = [len(sentence.decoder_ids) for sentence in sentences]
    return EncodedDocument(
        id=str(number),
        source_id=str(number),
        title=None,
        label=None,
        extra="{}",
        sentences=[sentence.text for sentence in sentences],
        structure=[[len(paragraphs)], paragraphs],
        encoder_ids=np.concatenate([sentence.encoder_ids for sentence in sentences]),
        encoder_lengths=[len(sentence.encoder_ids) for sentence in sentences],
        decoder_ids=np.concatenate([sentence.decoder_ids for sentence in sentences]),
        decoder_lengths=lengths,
        num_tokens=sum(lengths) + len(sentences),
        num_words=0,
        num_bytes=0,
        features=np.concatenate([sentence.features for sentence in sentences]),
    )


def batches_of(
    model: HierarchicalTextVAE, sentences: Sequence[Sentence], length: int, batch_tokens: int
) -> list[DocumentBatch]:
    starts = range(0, len(sentences), length)
    documents = [joined(number, sentences[start : start + length]) for number, start in enumerate(starts)]
    return [batch.to(model.device) for batch in micro_batches(documents, model.layout, batch_tokens)]


def step(model: HierarchicalTextVAE, objective: Objective, bfloat16: bool, batch: DocumentBatch) -> None:
    with torch.autocast(model.device.type, torch.bfloat16, enabled=bfloat16):
        output = model(batch, KeyedNoise(0), **objective.asks)
    objective.loss(objective.terms(output, batch), objective.weights(0)).backward()


def alone(model: HierarchicalTextVAE, batch: DocumentBatch) -> None:
    for chunk in batch.decoder_chunks:
        decoder_loss(model.decoder.backbone, chunk, batch.tokens).backward()


@dataclass(frozen=True)
class Work:
    """Forward and backward passes of the same sentences, each of whose shapes has been met once."""

    model: HierarchicalTextVAE
    trained: Callable[[DocumentBatch], None]
    """By the whole model."""
    floor: Callable[[DocumentBatch], None]
    """By the decoder alone."""
    by_length: dict[int, list[DocumentBatch]]
    """Sentences of a document -> micro-batches."""


def work_of(data: str, config_file: Path, overrides: Sequence[str], lengths: Sequence[int], total: int) -> Work:
    """At most `total` sentences of `data`, joined to documents of each of `lengths`. Ends the program where the data
    are too few, or of other levels or without features."""
    config = load_config(config_file, [f"data.path={data}", *overrides])
    split = load_prepared(data, "train")
    if not split.has_features or len(split.processor.hierarchy) != 3:
        raise SystemExit(f"'{data}' must be prepared in three levels, with --cache-features")
    sentences = list(islice(sentences_of(split), total))
    multiple = lcm(*lengths)
    if multiple > len(sentences):
        raise SystemExit(f"{len(sentences)} sentences are too few: documents of every length need {multiple}")
    sentences = sentences[: len(sentences) // multiple * multiple]
    model = in_training(config, split.processor)
    objective = Objective(config.objective, model.level_names, 1)
    trained = partial(step, model, objective, best_precision(model.device) == "bf16")
    floor = partial(alone, model)
    by_length = {length: batches_of(model, sentences, length, config.data.micro_batch_tokens) for length in lengths}
    for batches in by_length.values():
        for do in (trained, floor):
            timed(do, batches)
    model.zero_grad()
    return Work(model, trained, floor, by_length)


def measure(arguments: argparse.Namespace) -> dict[int, Measured]:
    work = work_of(arguments.data, arguments.config, arguments.overrides, arguments.sentences, arguments.total)
    rounds: list[dict[int, tuple[float, float]]] = []
    for _ in range(arguments.repeat):
        rounds.append({})
        for length, batches in work.by_length.items():
            rounds[-1][length] = (timed(work.trained, batches), timed(work.floor, batches))
            work.model.zero_grad()
    tokens = {length: sum(len(batch.tokens) for batch in batches) for length, batches in work.by_length.items()}
    first = arguments.sentences[0]
    return {
        length: Measured(
            documents=sum(len(batch) for batch in batches),
            tokens=tokens[length],
            microseconds=1e6 * median(one[length][0] for one in rounds) / tokens[length],
            floor_microseconds=1e6 * median(one[length][1] for one in rounds) / tokens[length],
            times_the_floor=median(one[length][0] / one[length][1] for one in rounds),
            times_the_first=median(one[length][0] / tokens[length] / (one[first][0] / tokens[first]) for one in rounds),
        )
        for length, batches in work.by_length.items()
    }


def table(found: dict[int, Measured]) -> str:
    lines = ["| sentences | microseconds a token | the decoder alone | times the floor | times the first |"]
    lines.append("|---|---|---|---|---|")
    for length, one in found.items():
        ratios = f"{one.times_the_floor:.2f} | {one.times_the_first:.2f}"
        lines.append(f"| {length} | {one.microseconds:,.0f} | {one.floor_microseconds:,.0f} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    arguments = build_parser().parse_intermixed_args()
    found = measure(arguments)
    print(table(found))
    if arguments.out:
        write_json(arguments.out, {**facts(), "lengths": {length: asdict(one) for length, one in found.items()}})


if __name__ == "__main__":
    main()
