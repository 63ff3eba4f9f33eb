"""`textvae interpolate`: documents on the way between two."""

from __future__ import annotations

import argparse

import torch

from textvae.cli.common import add_model, load_model
from textvae.cli.writing_options import add_sampling, check_out, sampling, show
from textvae.data.sources.files import read_document
from textvae.writing.operations import interpolate


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("interpolate", help="write documents on the way from one latent to another")
    add_model(parser)
    parser.add_argument("--from", dest="start", required=True, metavar="FILE")
    parser.add_argument("--to", dest="end", required=True, metavar="FILE")
    parser.add_argument("--steps", type=int, default=5, help="documents, both ends included (default: %(default)s)")
    parser.add_argument("--level", help="level whose latents move (default: the top); needs the same number of units")
    parser.add_argument(
        "--out", metavar="FILE.jsonl", help="write JSON lines, or Markdown to a .md, in place of printing"
    )
    add_sampling(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    options = sampling(arguments)
    check_out(arguments.out)
    texts = [read_document(file) for file in (arguments.start, arguments.end)]
    model = load_model(arguments)
    level = arguments.level or model.theme_level
    start, end = (model.plan(text) for text in texts)
    shares = torch.linspace(0, 1, arguments.steps).tolist()
    plans = [interpolate(start, end, share, level) for share in shares]
    # Of one draw: what lies below changes only as the latents do.
    written = model.write(plans, seed=arguments.seed, options=options, draws=[0] * len(plans), progress=None)
    show(written, arguments.out, [f"{share:.2f} of the way" for share in shares], arguments)
