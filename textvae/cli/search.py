"""`textvae search`: units of an index by meaning."""

from __future__ import annotations

import argparse

from textvae.cli.common import shortened
from textvae.runs import load_run
from textvae.search.index import Index


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("search", help="find units of an embedded corpus by meaning")
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("query")
    parser.add_argument("-k", type=int, default=10, help="results (default: %(default)s)")
    parser.add_argument("--level", help="level to search (default: the top)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    index = Index(arguments.index)
    for rank, found in enumerate(
        index.search(load_run(index.run), arguments.query, arguments.level, arguments.k), start=1
    ):
        title = f" ({found.title})" if found.title else ""
        print(f"{rank:>3}. {found.score:.3f}  {found.document}{title}\n     {shortened(found.text, 200)}")
