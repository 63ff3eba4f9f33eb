"""`textvae describe`: what the latents of a document say, in words."""

from __future__ import annotations

import argparse

from textvae.cli.common import add_model, load_model, shortened
from textvae.data.sources.files import read_document
from textvae.search.rows import unit_texts
from textvae.writing.describe import describe


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("describe", help="what every unit's latent says, in words")
    add_model(parser)
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--words", type=int, default=8, metavar="N", help="words a unit (default: %(default)s)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.words < 1:
        raise ValueError(f"--words is {arguments.words}; it must be 1 or more")
    text = read_document(arguments.file)
    model = load_model(arguments)
    documents = model.process([text])
    batch = model.batch(documents)
    texts = {name: unit_texts(documents, batch, batch.level_number(name)) for name in model.level_names}
    for unit in describe(model, batch, model.processor.decoder_tokenizer, arguments.words):
        depth = batch.level_number(unit.level)
        print(f"{'  ' * depth}{unit.level} {unit.number + 1}  {unit.rate:.1f} nats  {', '.join(unit.words) or '-'}")
        if depth:
            print(f"{'  ' * depth}    {shortened(texts[unit.level][unit.number], 100)}")
