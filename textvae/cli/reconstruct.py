"""`textvae reconstruct`: text -> latents -> text."""

from __future__ import annotations

import argparse

from textvae.cli.common import read
from textvae.runs import load_run


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("reconstruct", help="text -> latents -> text, greedily")
    parser.add_argument("--model", required=True, metavar="RUN")
    parser.add_argument("file", metavar="FILE")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    print(load_run(arguments.model).reconstruct(read(arguments.file)).text)
