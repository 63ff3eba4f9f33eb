"""Questions to an index of the quickstart's corpus whose answer is a well-known module: is it among the first three?

    textvae embed data/quickstart --model runs/quickstart --out index/
    python experiments/questions.py index/

Each list of `questions.jsonl`, named by its day, was written before the index was asked any of it. The first two were
looked at when the weight of the encoder beside BM25 was chosen; the third was asked afterwards.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from textvae.runs import load_run
from textvae.search.index import By, Index

QUESTIONS = Path(__file__).with_name("questions.jsonl")
BY: tuple[By, ...] = ("hybrid", "encoder", "bm25", "latents", "both")
FIRST = 3


def rank_of(answers: Sequence[str], documents: Sequence[str]) -> int | None:
    """From 1, of the first document that is one of the modules or lies in it; None where there is none."""
    for rank, document in enumerate(documents, start=1):
        name = document.rpartition("/")[2]
        if any(name == answer or name.startswith(f"{answer}.") for answer in answers):
            return rank
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("--model", metavar="RUN", help="that made the index (default: where it was then)")
    arguments = parser.parse_args()
    index = Index(arguments.index)
    model = load_run(index.find_model(arguments.model), "cpu")
    questions = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    for day, asked in groupby(questions, key=itemgetter("written")):
        found = dict.fromkeys(BY, 0)
        print(f"{f'written on {day}: rank of the module, of 100':72}" + "".join(f"{name:>9}" for name in found))
        for question in asked:
            ranks = {}
            for name in found:
                results = index.search(model, question["query"], k=100, by=name)
                ranks[name] = rank_of(question["answers"], [result.document for result in results])
                found[name] += ranks[name] is not None and ranks[name] <= FIRST
            print(f"{question['query']:72}" + "".join(f"{ranks[name] or '-':>9}" for name in found), flush=True)
        print(f"{f'among the first {FIRST}':72}" + "".join(f"{count:>9}" for count in found.values()))


if __name__ == "__main__":
    main()
