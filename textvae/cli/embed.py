"""`textvae embed`: a corpus -> an index."""

from __future__ import annotations

import argparse
from pathlib import Path

from textvae.data.dataset import open_documents
from textvae.runs import load_run
from textvae.search.embed import embed_corpus


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("embed", help="embed a corpus at every level")
    parser.add_argument("source", help="prepared data set, or any source of `textvae prepare`")
    parser.add_argument("--model", required=True, metavar="RUN")
    parser.add_argument("--out", required=True, metavar="INDEX", help="folder to write")
    parser.add_argument("--split", default="train", help="split of the source (default: %(default)s)")
    parser.add_argument("--limit", type=int)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    model = load_run(arguments.model)
    documents = open_documents(arguments.source, model.processor, arguments.split, arguments.limit)
    counts = embed_corpus(model, documents, arguments.out, str(Path(arguments.model)))
    print(f"embedded into {arguments.out}: " + ", ".join(f"{count} {name}s" for name, count in counts.items()))
