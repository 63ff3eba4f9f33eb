"""`textvae generate`: write documents."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from textvae.cli.common import add_model, load_model
from textvae.cli.writing_options import add_sampling, sampling, show
from textvae.data.sources.files import read_document
from textvae.search.index import Index
from textvae.text_vae import HierarchicalTextVAE
from textvae.writing.complete import draw_theme
from textvae.writing.operations import Unit, keep, mean_theme, resample, structured, theme
from textvae.writing.options import check_range
from textvae.writing.plan import DocumentPlan, open_plan


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("generate", help="write documents, with a fixed theme if wanted")
    add_model(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--theme-from", metavar="FILE", nargs="+", help="text file whose latents are held; of several, the mean theme"
    )
    source.add_argument(
        "--theme-id",
        metavar=("INDEX", "ID"),
        nargs=2,
        help="the theme of a document of an index that textvae embed made with this model",
    )
    source.add_argument("--theme-seed", type=int, metavar="N", help="draw one theme, and hold it")
    rest = parser.add_mutually_exclusive_group()
    rest.add_argument("--resample", metavar="LEVEL", help="with --theme-from: first level that is drawn anew")
    rest.add_argument(
        "--keep",
        metavar="LEVEL:N",
        nargs="+",
        help="with --theme-from: units that stay to the letter, such as paragraph:2; the others are written anew",
    )
    rest.add_argument(
        "--units",
        metavar="LEVEL=N[,N]",
        nargs="+",
        help="how many units: a number, or one for each unit above, such as paragraph=3 sentence=4,5,3",
    )
    parser.add_argument("--num", type=int, default=1, help="documents to write (default: %(default)s)")
    parser.add_argument(
        "--out", metavar="FILE.jsonl", help="write JSON lines, or Markdown to a .md, in place of printing"
    )
    add_sampling(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    options = sampling(arguments)
    for option in ("resample", "keep"):
        if getattr(arguments, option) and not arguments.theme_from:
            raise ValueError(f"--{option} needs a document to keep the rest of: give --theme-from FILE")
    kept = units_of(arguments.keep or [])
    counts = counts_of(arguments.units or [])
    texts = [read_document(file) for file in arguments.theme_from or []]
    if len(texts) > 1 and (kept or arguments.resample):
        raise ValueError("--keep and --resample need one document to keep the rest of: give one file to --theme-from")
    if arguments.theme_seed is not None:
        check_range("seed", arguments.theme_seed, "--theme-seed")
    model = load_model(arguments)
    hierarchy = model.config.hierarchy
    if len(texts) == 1 and not counts:
        plan = _themed(model, model.plan(texts[0]), arguments.resample, kept)
    elif texts:
        plan = theme(mean_theme(list(model.encode(texts)[model.theme_level].mean)), hierarchy)
    elif arguments.theme_id:
        plan = theme(_theme_of_index(model, arguments.model, *arguments.theme_id), hierarchy)
    elif arguments.theme_seed is not None:
        _ = model.theme_level  # which a model without one refuses
        plan = theme(draw_theme(model, arguments.theme_seed), hierarchy)
    else:
        plan = open_plan(hierarchy)
    if counts:
        plan = structured(plan, counts)
    written = model.write([plan] * arguments.num, seed=arguments.seed, options=options)
    show(written, arguments.out, [f"document {number + 1}" for number in range(len(written))], arguments)


def _theme_of_index(model: HierarchicalTextVAE, run: str, folder: str, document: str) -> Tensor:
    index = Index(folder)
    index.find_model(run)  # which refuses another one
    return torch.from_numpy(index.embedding(document, model.theme_level)[0].copy())


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


def counts_of(given: Sequence[str]) -> dict[str, list[int]]:
    """'sentence=4,5,3' -> {'sentence': [4, 5, 3]}. Raises ValueError for what is not a level and numbers."""
    counts = {}
    for item in given:
        level, equals, numbers = item.partition("=")
        parts = numbers.split(",")
        if not level or not equals or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(f"--units is given '{item}'; it must be a level and numbers, such as sentence=4,5,3")
        counts[level] = list(map(int, parts))
    return counts
