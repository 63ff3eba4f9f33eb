"""`textvae interpolate`: documents on the way between two."""

from __future__ import annotations

import argparse

from textvae.cli.common import add_model, add_sampling, load_model, read, sampling, show


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("interpolate", help="write documents on the way from one latent to another")
    add_model(parser)
    parser.add_argument("--from", dest="start", required=True, metavar="FILE")
    parser.add_argument("--to", dest="end", required=True, metavar="FILE")
    parser.add_argument("--steps", type=int, default=5, help="documents, both ends included (default: %(default)s)")
    parser.add_argument("--level", help="level whose latents move (default: the top); needs the same number of units")
    parser.add_argument("--out", metavar="FILE.jsonl")
    add_sampling(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    model = load_model(arguments)
    written = model.interpolate(
        read(arguments.start),
        read(arguments.end),
        arguments.steps,
        arguments.level,
        seed=arguments.seed,
        options=sampling(arguments),
    )
    last = max(1, arguments.steps - 1)
    show(written, arguments.out, [f"{number / last:.2f} of the way" for number in range(arguments.steps)])
