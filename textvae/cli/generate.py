"""`textvae generate`: write documents."""

from __future__ import annotations

import argparse

from textvae.cli.common import add_model, add_sampling, load_model, read, sampling, show
from textvae.text_vae import HierarchicalTextVAE


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("generate", help="write documents, with a fixed theme if wanted")
    add_model(parser)
    theme = parser.add_mutually_exclusive_group()
    theme.add_argument("--theme-from", metavar="FILE", help="text file whose latents are held")
    theme.add_argument("--theme-seed", type=int, metavar="N", help="draw one theme, and hold it")
    parser.add_argument("--resample", metavar="LEVEL", help="with --theme-from: first level that is drawn anew")
    parser.add_argument("--num", type=int, default=1, help="documents to write (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.jsonl", help="write JSON lines instead of printing")
    add_sampling(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.resample and not arguments.theme_from:
        raise ValueError("--resample needs a document to keep the rest of: give --theme-from FILE")
    model = load_model(arguments)
    options = sampling(arguments)
    if arguments.theme_from:
        level = arguments.resample or _below_top(model)
        written = model.resample(read(arguments.theme_from), level, arguments.num, seed=arguments.seed, options=options)
    else:
        theme = None
        if arguments.theme_seed is not None:
            theme = model.draw_theme(arguments.theme_seed)
        written = model.generate(theme, arguments.num, seed=arguments.seed, options=options)
    show(written, arguments.out, [f"document {number + 1}" for number in range(len(written))])


def _below_top(model: HierarchicalTextVAE) -> str:
    if model.level_names[:1] != tuple(model.config.hierarchy[:1]) or len(model.config.hierarchy) < 2:
        raise ValueError("this model has no latent for whole documents to hold; name a level with --resample")
    return model.config.hierarchy[1]
