"""`textvae embed`: a corpus -> an index."""

from __future__ import annotations

import argparse
from pathlib import Path

from textvae.cli.common import add_model, add_ray, load_model, ray_workers
from textvae.cli.evaluation import evaluation_process, own_device
from textvae.cli.source_options import SOURCES, add_source_options, open_source
from textvae.search.embed import embed_corpus


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "embed",
        help="embed a corpus at every level",
        description="Embed a corpus at every level. Several processes share it: accelerate launch -m textvae.cli.main "
        "embed ..., or a Ray cluster: --ray. What was killed goes on where it stood when the same command is given "
        "again.",
    )
    parser.add_argument("source", help=f"prepared data set, or a source: {SOURCES}")
    parser.add_argument("--out", required=True, metavar="INDEX", help="folder to write")
    parser.add_argument("--split", default="train", help="split of the source (default: %(default)s)")
    parser.add_argument(
        "--shard-documents",
        type=int,
        metavar="N",
        help="documents of a shard, all that a kill costs (default: a sixteenth of them, at least 64, at most 8,192)",
    )
    parser.add_argument(
        "--append",
        action="store_true",
        help="add the documents to the index that is there, which the same model made and which has none of their ids",
    )
    parser.add_argument(
        "--start-over",
        action="store_true",
        help="forget what a killed embedding into this folder has done, of these data or others",
    )
    add_ray(parser)
    add_source_options(parser)
    add_model(parser, batch_tokens=True)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    if arguments.ray is not None and arguments.device is not None:
        raise ValueError("with --ray every worker takes a GPU of the cluster, or a processor: leave out --device")
    if arguments.ray is not None and arguments.dtype == "auto":
        raise ValueError("with --ray all workers have the same numbers, and --dtype auto asks one of them: name them")
    workers = ray_workers(arguments)
    process = evaluation_process(arguments.device)
    # With workers, this process does not run the model.
    model = load_model(arguments, device=own_device(arguments, process) if workers is None else "cpu")
    beside = Path(arguments.out).absolute().parent  # where the machines of a cluster see it
    beside.mkdir(parents=True, exist_ok=True)
    documents = open_source(arguments, arguments.source, model, arguments.split, beside)
    if process.is_main_process:
        print(documents)
    index = embed_corpus(
        model,
        documents,
        arguments.out,
        arguments.model,
        arguments.batch_tokens,
        process,
        workers=workers,
        shard_documents=arguments.shard_documents,
        append=arguments.append,
        start_over=arguments.start_over,
    )
    if process.is_main_process:
        counts = ", ".join(f"{level.units} {name}s" for name, level in index.levels.items())
        print(f"embedded into {arguments.out}: {counts}")
