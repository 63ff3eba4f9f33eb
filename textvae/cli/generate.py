"""`textvae generate`: write documents."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from textvae.cli.common import add_model, load_model
from textvae.cli.writing_options import add_sampling, sampling, show
from textvae.data.sources.files import read_document
from textvae.text_vae import HierarchicalTextVAE
from textvae.writing.complete import draw_theme
from textvae.writing.operations import Unit, keep, resample, theme
from textvae.writing.options import check_range
from textvae.writing.plan import DocumentPlan, open_plan


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("generate", help="write documents, with a fixed theme if wanted")
    add_model(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--theme-from", metavar="FILE", help="text file whose latents are held")
    source.add_argument("--theme-seed", type=int, metavar="N", help="draw one theme, and hold it")
    rest = parser.add_mutually_exclusive_group()
    rest.add_argument("--resample", metavar="LEVEL", help="with --theme-from: first level that is drawn anew")
    rest.add_argument(
        "--keep",
        metavar="LEVEL:N",
        nargs="+",
        help="with --theme-from: units that stay to the letter, such as paragraph:2; the others are written anew",
    )
    parser.add_argument("--num", type=int, default=1, help="documents to write (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.jsonl", help="write JSON lines instead of printing")
    add_sampling(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    options = sampling(arguments)
    for option in ("resample", "keep"):
        if getattr(arguments, option) and not arguments.theme_from:
            raise ValueError(f"--{option} needs a document to keep the rest of: give --theme-from FILE")
    kept = units_of(arguments.keep or [])
    text = read_document(arguments.theme_from) if arguments.theme_from else None
    if arguments.theme_seed is not None:
        check_range("seed", arguments.theme_seed, "--theme-seed")
    model = load_model(arguments)
    if text is not None:
        plan = _themed(model, model.plan(text), arguments.resample, kept)
    elif arguments.theme_seed is not None:
        _ = model.theme_level  # which a model without one refuses
        plan = theme(draw_theme(model, arguments.theme_seed), model.config.hierarchy)
    else:
        plan = open_plan(model.config.hierarchy)
    written = model.write([plan] * arguments.num, seed=arguments.seed, options=options)
    show(written, arguments.out, [f"document {number + 1}" for number in range(len(written))])


def _themed(model: HierarchicalTextVAE, plan: DocumentPlan, level: str | None, kept: Sequence[Unit]) -> DocumentPlan:
    if kept:
        return keep(plan, kept)
    if level is None:
        hierarchy = model.config.hierarchy
        if model.level_names[:1] != tuple(hierarchy[:1]) or len(hierarchy) < 2:
            raise ValueError("this model has no latent for whole documents to hold; name a level with --resample")
        level = hierarchy[1]
    return resample(plan, level)


def units_of(names: Sequence[str]) -> list[Unit]:
    """'paragraph:2' -> ('paragraph', 1). Raises ValueError for what is not a level and a number from 1."""
    units = []
    for name in names:
        level, _, number = name.rpartition(":")
        if not level or not number.isascii() or not number.isdigit() or int(number) < 1:
            raise ValueError(f"--keep is given '{name}'; it must be a level and a number from 1, such as paragraph:2")
        units.append((level, int(number) - 1))
    return units
