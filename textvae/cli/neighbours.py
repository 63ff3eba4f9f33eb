"""`textvae neighbours`: an index that is searched without looking at all of it."""

from __future__ import annotations

import argparse
from typing import get_args

from textvae.search.neighbours import Kind, build_neighbours


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "neighbours",
        help="have an index searched without looking at all of it",
        description="Make approximate indexes of the encoder's states of all units, by faiss: searches by encoder and "
        "hybrid then look at what these propose, and score it as they would otherwise. To be made again once documents "
        "were added or deleted.",
    )
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument(
        "--kind",
        choices=get_args(Kind),
        default="hnsw",
        help="a graph (hnsw, the default), or lists around centroids, which are smaller and made sooner (ivf)",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    build_neighbours(arguments.index, arguments.kind)
    print(f"{arguments.index}: neighbours of all levels ({arguments.kind})")
