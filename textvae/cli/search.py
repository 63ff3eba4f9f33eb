"""`textvae search`: units of an index by meaning."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import get_args

from textvae.cli.common import add_model, load_model, shortened
from textvae.search.filters import FIELDS, Only
from textvae.search.index import By, Index
from textvae.text_vae import HierarchicalTextVAE


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("search", help="find units of an embedded corpus by meaning")
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("query", nargs="?", help="without one, queries are read line by line from standard input")
    parser.add_argument("-k", type=int, default=10, help="results (default: %(default)s)")
    parser.add_argument("--level", help="level to search (default: the top)")
    parser.add_argument(
        "--by",
        choices=get_args(By),
        default="hybrid",
        help="the encoder's states of a text's sentences and of their mean, with BM25 (hybrid, the default) or without "
        "(encoder), or BM25 alone; cosine of the latents; probability of the query's words under the latents' topics; "
        "both of these",
    )
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"only documents with this {', '.join(FIELDS[:-1])} or {FIELDS[-1]}; may be given again, and of several "
        "values of a field, any counts",
    )
    parser.add_argument("--exact", action="store_true", help="look at everything, whatever neighbours there are")
    parser.add_argument("--json", action="store_true", help="results as lines of JSON, texts whole")
    add_model(parser, required=False, said="of the model that made the index (default: where it was then)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    index, only = Index(arguments.index, arguments.exact), filters(arguments.filter)
    index.check(arguments.level, arguments.k, only)
    model = load_model(arguments, index.find_model(arguments.model))
    if arguments.query is not None:
        _answer(index, model, arguments, arguments.query, only)
        return
    refused = 0
    for line in _lines():
        if line.strip():
            try:
                _answer(index, model, arguments, line, only)
            except ValueError as error:
                refused += 1
                print(f"error: {error}", file=sys.stderr)
            print(flush=True)
    if refused:
        raise ValueError(f"{refused} queries could not be answered")


def _lines() -> Iterator[str]:
    """Of standard input; a person is asked for each."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    while True:
        try:
            yield input("query: " if sys.stdout.isatty() else "")
        except EOFError:
            return


def filters(given: Sequence[str]) -> dict[str, list[str]]:
    """By field the values of `FIELD=VALUE`. Raises ValueError for what is none."""
    only: dict[str, list[str]] = {}
    for condition in given:
        field, separator, value = condition.partition("=")
        if not separator:
            raise ValueError(f"--filter {condition!r} is no condition: give FIELD=VALUE, such as label=news")
        only.setdefault(field, []).append(value)
    return only


def _answer(index: Index, model: HierarchicalTextVAE, arguments: argparse.Namespace, query: str, only: Only) -> None:
    results = index.search(model, query, arguments.level, arguments.k, arguments.by, only)
    if not results:
        print(f"nothing has a word of '{query.strip()}'", file=sys.stderr)
    for rank, found in enumerate(results, start=1):
        if arguments.json:
            print(json.dumps({"query": query.strip(), "rank": rank} | asdict(found), ensure_ascii=False))
            continue
        title = f" ({found.title})" if found.title else ""
        place, text = found.place, found.text
        if found.passage is not None and found.passage.number > 1:
            place, text = found.passage.place, found.passage.text
        named = ", ".join(f"{level} {number}" for level, number in place.items())
        shown = f"[{named}] {shortened(text, 200)}" if named else shortened(text, 200)
        print(f"{rank:>3}. {found.score:.3f}  {found.document}{title}\n     {shown}")
