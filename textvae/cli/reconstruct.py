"""`textvae reconstruct`: text -> latents -> text."""

from __future__ import annotations

import argparse

from textvae.cli.common import add_model, load_model
from textvae.data.sources.files import read_document
from textvae.writing.operations import written_anew, zoom
from textvae.writing.options import SamplingOptions


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("reconstruct", help="text -> latents -> text, greedily")
    add_model(parser)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--down-to", metavar="LEVEL", help="last level whose latents and structure are the text's; below, prior means"
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    text = read_document(arguments.file)
    model = load_model(arguments)
    plan = model.plan(text)
    plan = written_anew(plan) if arguments.down_to is None else zoom(plan, arguments.down_to)
    options = SamplingOptions(temperature=0, latent_temperature=0)
    print(model.write([plan], options=options, progress=None)[0].text)
