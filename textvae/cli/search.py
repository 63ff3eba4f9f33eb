"""`textvae search`: units of an index by meaning."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
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
        nargs="+",
        action="extend",
        default=[],
        metavar="FIELD=VALUE",
        help=f"only documents with this {', '.join(FIELDS[:-1])} or {FIELDS[-1]}; of several values of a field, any",
    )
    parser.add_argument("--json", action="store_true", help="results as lines of JSON, texts whole")
    add_model(parser, required=False, said="of the model that made the index (default: where it was then)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    index, only = Index(arguments.index), filters(arguments.filter)
    model = load_model(arguments, index.find_model(arguments.model))
    if arguments.query is not None:
        _answer(index, model, arguments, arguments.query, only)
        return
    for line in sys.stdin:
        if line.strip():
            _answer(index, model, arguments, line, only)
            print(flush=True)


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
    for rank, found in enumerate(results, start=1):
        if arguments.json:
            print(json.dumps({"query": query.strip(), "rank": rank} | asdict(found), ensure_ascii=False))
            continue
        title = f" ({found.title})" if found.title else ""
        text = shortened(found.text, 200)
        if found.passage is not None and found.passage.number > 1:
            text = f"[{index.levels[-1]} {found.passage.number}] {shortened(found.passage.text, 200)}"
        print(f"{rank:>3}. {found.score:.3f}  {found.document}{title}\n     {text}")
