"""`textvae search`: units of an index by meaning."""

from __future__ import annotations

import argparse

from textvae.cli.common import add_model, load_model, shortened
from textvae.search.index import Index


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("search", help="find units of an embedded corpus by meaning")
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("query")
    parser.add_argument("-k", type=int, default=10, help="results (default: %(default)s)")
    parser.add_argument("--level", help="level to search (default: the top)")
    add_model(parser, required=False, said="of the model that made the index (default: where it was then)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    index = Index(arguments.index)
    model = load_model(arguments, index.find_model(arguments.model))
    for rank, found in enumerate(index.search(model, arguments.query, arguments.level, arguments.k), start=1):
        title = f" ({found.title})" if found.title else ""
        print(f"{rank:>3}. {found.score:.3f}  {found.document}{title}\n     {shortened(found.text, 200)}")
