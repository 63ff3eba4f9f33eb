"""`textvae export-encoder`: latents for what was written for sentence-transformers."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from textvae.atomic import partial
from textvae.cli.common import add_model, load_model
from textvae.search.embedder import TextEmbedder
from textvae.search.export import export_encoder
from textvae.search.index import Index


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export-encoder",
        help="a model's encoder half as a model of sentence-transformers",
        description="The half of a model that encodes, as a folder for sentence-transformers (6 or newer): "
        "SentenceTransformer(FOLDER, trust_remote_code=True) gives a document's latent, MultiVectorEncoder those of "
        "its units where --level is a lower one. What tells latents apart in a corpus is what they are compared by: "
        "name its index.",
    )
    add_model(parser, required=False, said="(default: the one that made the index)")
    parser.add_argument("--index", metavar="INDEX", help="whose mean and deviation latents are standardised by")
    parser.add_argument("--level", help="level to embed (default: the top)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="where it goes: a new folder")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    out = Path(arguments.out)
    if out.exists():
        raise ValueError(f"--out {out} exists; name a new folder")
    if arguments.index is None and arguments.model is None:
        raise ValueError("give --index, or --model alone for latents that are not standardised")
    if arguments.index is None:
        embedder = TextEmbedder(load_model(arguments), arguments.level)
    else:
        index = Index(arguments.index)
        embedder = index.embedder(load_model(arguments, index.find_model(arguments.model)), arguments.level)
    aside = partial(out)
    shutil.rmtree(aside, ignore_errors=True)  # of an export that was killed
    export_encoder(embedder, aside)
    aside.rename(out)
    print(f"{out}: latents of level '{embedder.level}', {embedder.size} dimensions")
