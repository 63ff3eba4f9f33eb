"""`textvae delete`: documents taken out of an index."""

from __future__ import annotations

import argparse
import sys

from textvae.search.delete import delete_documents


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "delete",
        help="take documents out of an index",
        description="Take documents out of an index: nothing of them stays in its files.",
    )
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument(
        "ids",
        nargs="*",
        metavar="ID",
        help="of a document, or of a source whose sections were embedded; without any, ids are read line by line from "
        "standard input",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    ids = arguments.ids or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not ids:
        raise ValueError("no id was given: name the documents to delete")
    print(f"deleted from {arguments.index}: {delete_documents(arguments.index, ids)} documents")
