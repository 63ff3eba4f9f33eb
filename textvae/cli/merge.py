"""`textvae merge`: a model without its adapters, which computes the same."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from textvae.atomic import partial
from textvae.cli.common import add_model, load_model


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("merge", help="add a model's adapters (LoRA) to its weights")
    add_model(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where the whole model goes: a new folder")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    if out.exists():
        raise ValueError(f"--out {out} exists; name a new folder")
    model = load_model(arguments)
    model.merge_adapters()
    aside = partial(out)
    shutil.rmtree(aside, ignore_errors=True)  # of a merge that was killed
    model.save_pretrained(aside)
    aside.rename(out)
    print(f"{out}: {model.num_parameters():,} parameters, no adapters")
