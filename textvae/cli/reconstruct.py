"""`textvae reconstruct`: text -> latents -> text."""

from __future__ import annotations

import argparse

from textvae.cli.common import add_model, load_model, read


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("reconstruct", help="text -> latents -> text, greedily")
    add_model(parser)
    parser.add_argument("file", metavar="FILE")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    print(load_model(arguments).reconstruct(read(arguments.file)).text)
