"""`textvae generate`: write documents."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from textvae.cli.common import add_model, load_model
from textvae.cli.writing_options import add_sampling, check_out, sampling, show
from textvae.data.sources.files import read_document
from textvae.search.index import Index
from textvae.text_vae import HierarchicalTextVAE
from textvae.writing.complete import draw_theme
from textvae.writing.operations import Unit, keep, mix, resample, structured, theme, zoom
from textvae.writing.options import check_range
from textvae.writing.plan import DocumentPlan, open_plan


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("generate", help="write documents, with a fixed theme if wanted")
    add_model(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--theme-from", metavar="FILE", nargs="+", help="text file whose theme is held; of several, their mean"
    )
    source.add_argument(
        "--theme-id",
        metavar=("INDEX", "ID"),
        nargs=2,
        help="the theme of a document of an index that textvae embed made with this model",
    )
    source.add_argument("--theme-seed", type=int, metavar="N", help="draw one theme, and hold it")
    parser.add_argument(
        "--theme-weights",
        metavar="W",
        type=float,
        nargs="+",
        help="with --theme-from: the theme is the sum of the files' themes, each times its weight, such as 0.3 0.7, or "
        "1 -1 1; they are taken as they are: the smaller their sum, the nearer the theme is to the prior's mean",
    )
    rest = parser.add_mutually_exclusive_group()
    rest.add_argument("--resample", metavar="LEVEL", help="with --theme-from: first level that is drawn anew")
    rest.add_argument(
        "--keep",
        metavar="LEVEL:N",
        nargs="+",
        help="with --theme-from: units that stay to the letter, such as paragraph:2; the others are written anew",
    )
    rest.add_argument(
        "--level-from",
        metavar="LEVEL=FILE",
        nargs="+",
        help="with a theme: latents and structure down to this level are those of another file, as it is read under "
        "the theme, such as paragraph=b.txt; what lies below is drawn",
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
    check_out(arguments.out)
    weights = arguments.theme_weights
    for option in ("resample", "keep"):
        if getattr(arguments, option) and (len(arguments.theme_from or []) != 1 or weights):
            raise ValueError(
                f"--{option} needs one document to keep the rest of: give --theme-from FILE, and no --theme-weights"
            )
    kept = units_of(arguments.keep or [])
    counts = counts_of(arguments.units or [])
    texts = [read_document(file) for file in arguments.theme_from or []]
    parts = {level: read_document(file) for level, file in files_of(arguments.level_from or []).items()}
    if weights and len(weights) != len(texts):
        raise ValueError(f"--theme-weights needs one number for each of --theme-from's {len(texts)} files")
    if arguments.theme_seed is not None:
        check_range("seed", arguments.theme_seed, "--theme-seed")
    model = load_model(arguments)
    if kept:
        plan = keep(model.plan(texts[0]), kept)
    elif arguments.resample:
        plan = resample(model.plan(texts[0]), arguments.resample)
    elif texts:
        weights = weights or [1 / len(texts)] * len(texts)
        plan = mix([model.plan(text) for text in texts], weights, model.theme_level)
    else:
        plan = _plan_without_text(model, arguments)
    if counts:
        plan = structured(plan, counts)
    for level in sorted(parts, key=plan.depth):
        if level in plan.z:
            raise ValueError(f"--level-from names level '{level}', which is the theme's: name one below it")
        plan = zoom(model.plan(parts[level], under=plan), level)
    written = model.write([plan] * arguments.num, seed=arguments.seed, options=options, progress=None)
    show(written, arguments.out, [f"document {number + 1}" for number in range(len(written))], arguments)


def _plan_without_text(model: HierarchicalTextVAE, arguments: argparse.Namespace) -> DocumentPlan:
    """A plan where no text lends its theme: an index does, or a seed, or nothing is held."""
    hierarchy = model.config.hierarchy
    if arguments.theme_id:
        return theme(_theme_of_index(model, arguments.model, *arguments.theme_id), hierarchy)
    if arguments.theme_seed is not None:
        _ = model.theme_level  # which a model without one refuses
        return theme(draw_theme(model, arguments.theme_seed), hierarchy)
    return open_plan(hierarchy)


def _theme_of_index(model: HierarchicalTextVAE, run: str, folder: str, document: str) -> Tensor:
    index = Index(folder)
    index.find_model(run)  # which refuses another one
    return torch.from_numpy(index.embedding(document, model.theme_level)[0].copy())


def units_of(names: Sequence[str]) -> list[Unit]:
    """'paragraph:2' -> ('paragraph', 1). Raises ValueError for what is not a level and a number from 1."""
    units = []
    for name in names:
        level, _, number = name.rpartition(":")
        if not level or not number.isascii() or not number.isdigit() or int(number) < 1:
            raise ValueError(f"--keep is given '{name}'; it must be a level and a number from 1, such as paragraph:2")
        units.append((level, int(number) - 1))
    return units


def files_of(given: Sequence[str]) -> dict[str, str]:
    """'paragraph=b.txt' -> {'paragraph': 'b.txt'}. Raises ValueError for what is not a level and a file, and for one
    that is named twice."""
    files: dict[str, str] = {}
    for item in given:
        level, _, file = item.partition("=")
        if not level or not file or level in files:
            raise ValueError(f"--level-from is given '{item}'; it must be a level, once, and a file: paragraph=b.txt")
        files[level] = file
    return files


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
