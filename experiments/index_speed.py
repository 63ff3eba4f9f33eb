"""How long an index takes to be made, to be opened and asked for the first time, and to be changed.

Weights are random and the text is made up, word frequencies as Zipf's law has them: what is measured is not the model.

    OMP_NUM_THREADS=1 python experiments/index_speed.py --documents 2000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from hostile_documents import tiny_model

from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.runs import load_run
from textvae.search.delete import delete_documents
from textvae.search.embed import embed_corpus
from textvae.search.index import Index

SENTENCES, PARAGRAPHS, WORDS = 5, 2, 20_000
"""Of a paragraph, of a document, of the vocabulary."""


def made_up(documents: int, prefix: str, random: Random) -> list[SourceDocument]:
    syllables = ("ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "tu")
    words = ["".join(random.choices(syllables, k=random.randint(1, 3))) + str(n % 97) for n in range(WORDS)]
    weights = [1 / rank for rank in range(1, WORDS + 1)]

    def paragraph() -> str:
        sentences = (random.choices(words, weights, k=random.randint(3, 8)) for _ in range(SENTENCES))
        return " ".join(f"{' '.join(sentence).capitalize()}." for sentence in sentences)

    return [
        SourceDocument(f"{prefix}{number}", text="\n\n".join(paragraph() for _ in range(PARAGRAPHS)))
        for number in range(documents)
    ]


def timed(what: str, run: Callable[[], object]) -> None:
    started = time.perf_counter()
    run()
    print(f"{what:50} {time.perf_counter() - started:7.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2000, metavar="N", help="of ten sentences")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random = Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "index"
        run = tiny_model(Path(name))
        model = load_run(run, "cpu")
        documents = Documents.of(model.process(made_up(arguments.documents, "d", random)))
        timed(f"{len(documents)} documents embedded", lambda: embed_corpus(model, documents, folder, run))
        query = documents.read(1).sentences[0]
        Index(folder).search(model, query, by="encoder")  # so that the files are in memory, and the model is warm
        print({name: level.units for name, level in Index(folder).description.levels.items()})
        for level in model.level_names:
            for what in ("opened, and the first query", "opened again, the same"):
                timed(f"{what}, {level}s", lambda: Index(folder).search(model, query, level))  # noqa: B023
        more = Documents.of(model.process(made_up(10, "more", random)))
        timed("10 documents appended", lambda: embed_corpus(model, more, folder, run, append=True))
        timed("1 document deleted", lambda: delete_documents(folder, ["d0"]))
        every = [f"d{number}" for number in range(1, arguments.documents, 100)]
        timed(f"{len(every)} documents deleted, all over the index", lambda: delete_documents(folder, every))


if __name__ == "__main__":
    main()
