"""A fact in the last fifth of a long document: is the document found by it?

Articles are joined to documents of some 300 sentences, one made-up fact is put into the last fifth of each, and every
fact is asked for twice, in its own words and in others. Facts share parts: each has some that are the same person's,
and some in which somebody else did the same. Beside the index stand an encoder that cuts documents at 256 tokens, as
sentence-transformers does by default, and the same where the fact is the first sentence.

    python experiments/whole_documents.py ARTICLES.jsonl.xz --model runs/quickstart

Shapes: D documents, F size of the encoder's features.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from random import Random

import numpy as np
import torch

from textvae.build import FrozenEncoder
from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.data.sources.files import read_file
from textvae.data.sources.records import FieldNames
from textvae.runs import load_run
from textvae.search.embed import embed_corpus
from textvae.search.index import By, Index
from textvae.search.query import query_features
from textvae.text_vae import HierarchicalTextVAE

WHO = (
    ("a one-legged baker", "a maker of bread who had lost a limb"),
    ("the twin violinists", "two fiddlers born on the same day"),
    ("a retired submarine captain", "an old commander of an underwater vessel"),
    ("a blind clockmaker", "somebody who could not see and repaired watches"),
    ("the mayor's parrot", "the talking bird of a town's leader"),
    ("a travelling dentist", "a doctor for teeth on the road"),
    ("a left-handed archer", "a bowman who shot with the other hand"),
    ("an orphaned elephant", "a young animal with a trunk and without parents"),
    ("a chess-playing nun", "a sister of a convent, fond of a board game"),
    ("a bankrupt banker", "a financier who had no money left"),
)
WHAT = (
    ("won the regional pancake race", "came first in a contest of runners with frying pans"),
    ("hid a stolen painting in a beehive", "concealed a robbed picture among insects"),
    ("crossed the frozen bay on a bicycle", "pedalled over the ice of the sea"),
    ("planted four hundred lemon trees", "grew an orchard of citrus"),
    ("set fire to the old theatre by mistake", "burnt down a playhouse accidentally"),
    ("taught the village children to juggle", "gave boys and girls lessons in throwing balls"),
)
CUT = 256
FIRST = (1, 5)


@dataclass(frozen=True)
class Fact:
    sentence: str
    queries: dict[str, str]
    """By kind: in its own words, in others."""


def facts(random: Random) -> list[Fact]:
    found = []
    for (who, who_else), (what, what_else) in product(WHO, WHAT):
        sentence = f"In {random.randint(1820, 1990)}, {who} {what}."
        found.append(Fact(sentence, {"own words": f"{who} {what}", "other words": f"{who_else} {what_else}"}))
    random.shuffle(found)
    return found


def long_documents(source: Path, model: HierarchicalTextVAE, sentences: int) -> Iterator[list[str]]:
    """Paragraphs of articles that follow each other, joined until they have so many sentences."""
    paragraphs: list[str] = []
    count = 0
    for article in read_file(source, source.parent, FieldNames()):
        paragraphs += article.paragraphs or []
        count += len(model.process([article])[0].sentences)
        if count >= sentences:
            yield paragraphs
            paragraphs, count = [], 0


def with_fact(paragraphs: list[str], fact: str, random: Random) -> list[str]:
    """The fact behind a paragraph of the last fifth."""
    place = random.randrange(len(paragraphs) * 4 // 5, len(paragraphs))
    return [f"{text} {fact}" if number == place else text for number, text in enumerate(paragraphs)]


def cut_features(model: HierarchicalTextVAE, texts: list[str]) -> np.ndarray:
    """[D, F] of the first `CUT` tokens of each text, as one sentence."""
    assert model.encoder is not None
    read = model.processor.encoder_tokenizer(texts, truncation=True, max_length=CUT)["input_ids"]
    return FrozenEncoder(model.encoder, model.config.model_config.encoder.name, model.device, torch.float32)(read)


def rank_in(scores: np.ndarray, document: int) -> float:
    """From 0; in the middle of those that score the same."""
    return float((scores > scores[document]).sum() + ((scores == scores[document]).sum() - 1) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="ARTICLES", help="a file of articles")
    parser.add_argument("--model", required=True, metavar="RUN")
    parser.add_argument("--sentences", type=int, default=300, metavar="N", help="of a document, at least")
    parser.add_argument("--documents", type=int, default=len(WHO) * len(WHAT), metavar="N", help="at most")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    model, random = load_run(arguments.model, "cpu"), Random(arguments.seed)
    planted = facts(random)[: arguments.documents]
    plain = list(islice(long_documents(Path(arguments.source), model, arguments.sentences), len(planted)))
    planted = planted[: len(plain)]
    texts = [with_fact(text, fact.sentence, random) for text, fact in zip(plain, planted, strict=True)]
    documents = Documents.of(
        model.process([SourceDocument(str(number), paragraphs=text) for number, text in enumerate(texts)])
    )
    counts = [len(documents.read(row).sentences) for row in range(len(documents))]
    print(f"{len(documents)} documents of {min(counts)} to {max(counts)} sentences, median {np.median(counts):.0f}")
    first = [[f"{fact.sentence} {text[0]}", *text[1:]] for text, fact in zip(plain, planted, strict=True)]
    cut = {
        f"encoder, cut at {CUT} tokens": cut_features(model, [" ".join(text) for text in texts]),
        "the same, the fact at the beginning": cut_features(model, [" ".join(text) for text in first]),
    }
    with tempfile.TemporaryDirectory() as folder:
        embed_corpus(model, documents, Path(folder) / "index", arguments.model)
        report(model, Index(Path(folder) / "index"), planted, cut)


def report(model: HierarchicalTextVAE, index: Index, planted: list[Fact], cut: dict[str, np.ndarray]) -> None:
    """The share of facts whose document is first, and among the first five."""
    top, lowest = index.levels[0], index.levels[-1]
    searches: list[tuple[str, str, By]] = [
        (f"textvae search, {by}", top, by) for by in ("hybrid", "encoder", "bm25", "latents")
    ]
    searches += [(f"{lowest}s, {by}", lowest, by) for by in ("encoder", "bm25", "latents")]
    kinds = list(planted[0].queries)
    print(f"{'recall':42}" + "".join(f"{f'{kind}, @{k}':>18}" for kind in kinds for k in FIRST))
    ranks: dict[str, list[list[float]]] = {}
    for document, fact in enumerate(planted):
        for number, text in enumerate(fact.queries.values()):
            asked = query_features(model, text)
            scores = {
                name: _by_document(index, level, index.scores(model, text, level, by)) for name, level, by in searches
            }
            for name, features in cut.items():
                scores[name] = features @ asked / np.linalg.norm(features, axis=1)
            for name, found in scores.items():
                ranks.setdefault(name, [[] for _ in kinds])[number].append(rank_in(found, document))
    for name, of_kinds in ranks.items():
        shares = [np.mean([rank < k for rank in of_kind]) for of_kind in of_kinds for k in FIRST]
        print(f"{name:42}" + "".join(f"{share:>18.2f}" for share in shares))


def _by_document(index: Index, level: str, scores: np.ndarray) -> np.ndarray:
    """[D] of each document's best unit."""
    rows = index.rows(level)
    best = np.full(rows.max() + 1, -np.inf)
    np.maximum.at(best, rows, scores)
    return best


if __name__ == "__main__":
    main()
