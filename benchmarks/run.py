"""How fast everything is, beside the backbone alone on the same rows, and how much of it is padding and memory.

OMP_NUM_THREADS=2 python benchmarks/run.py --out benchmarks.json
python benchmarks/run.py --against sentence-transformers --against langvae=LANGVAE/bin/python
python benchmarks/run.py --decoder HuggingFaceTB/SmolLM2-135M-Instruct 'model.decoder.lora={rank: 16}'
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from against import PEERS, parse, run_peer
from against import table as table_of_peers
from measures import MEASURES, WARM_UP, Job, Measured, facts

from textvae.atomic import write_json
from textvae.cli.common import exit_status
from textvae.config import Config, to_dict
from textvae.config_file import load_config

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")
"""Room for a processor's kernels of all shapes, in place of 1,024: none is compiled again while it is timed."""
ALONE = multiprocessing.get_context("forkserver")
"""Every measure has a process of its own, forked where nothing but the imports has happened."""
ALONE.set_forkserver_preload(["measures", "textvae.cli.main"])


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=Path(__file__).with_name("model.yaml"), type=Path, metavar="FILE")
    parser.add_argument("--decoder", metavar="NAME", help="pretrained, in place of the configuration's architecture")
    parser.add_argument("--source", default="python-docs", help="of the documents (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=200, metavar="N", help="documents (default: %(default)s)")
    parser.add_argument("--vocabulary-size", type=int, default=8192, metavar="N", help="without --decoder")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help=f"of training, without {WARM_UP} first ones")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="NAME[=PYTHON]",
        help=f"another library on the same text, and the interpreter that has it (default: this one): "
        f"{', '.join(PEERS)}",
    )
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="as of train.py")
    return parser


def configured(arguments: argparse.Namespace, folder: Path) -> Config:
    """The configuration, its data and its run in `folder`."""
    config = load_config(arguments.config, arguments.overrides)
    steps = arguments.steps + WARM_UP
    end = {"steps": steps, "validate_every": steps, "save_every": steps, "log_every": 1, "validation_documents": 1}
    model = config.model
    if arguments.decoder:
        model = replace(model, decoder=replace(model.decoder, name=arguments.decoder, architecture={}))
    return replace(
        config,
        data=replace(config.data, path=str(folder / "data")),
        model=model,
        train=replace(config.train, output=str(folder / "run"), tracker="none", **end),
    )


def measured(job: Job) -> dict[str, Measured]:
    found = {}
    for name, measure in MEASURES.items():
        with ProcessPoolExecutor(1, mp_context=ALONE) as alone:
            found[name] = alone.submit(measure, job).result()
    return found


def described(one: Measured) -> dict[str, Any]:
    """What was measured, and what follows from it."""
    speed = {"tokens_per_second": one.tokens / one.seconds}
    if one.floor_seconds is not None:
        speed["times_the_floor"] = one.seconds / one.floor_seconds
    return {**asdict(one), **speed}


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = ["| | tokens/s | times the floor | padding | peak, MiB |", "|---|---|---|---|---|"]
    for name, one in found.items():
        ratio = f"{one['times_the_floor']:.2f}" if "times_the_floor" in one else ""
        padding = "" if one["padding"] is None else f"{100 * one['padding']:.0f} %"
        peak = one["peak_bytes"] / 2**20
        lines.append(f"| {name} | {one['tokens_per_second']:,.0f} | {ratio} | {padding} | {peak:,.0f} |")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    asked = dict(map(parse, arguments.against))
    with tempfile.TemporaryDirectory() as folder:
        config = configured(arguments, Path(folder))
        job = Job(config, arguments.source, arguments.limit, arguments.vocabulary_size, Path(folder))
        found = measured(job)
        peers = {name: run_peer(name, python, job) for name, python in asked.items()}
    result = {name: described(one) for name, one in found.items()}
    print(table(result))
    if peers:
        print(table_of_peers(found, peers))
    if arguments.out:
        given = {"source": arguments.source, "limit": arguments.limit, "config": to_dict(config)}
        write_json(arguments.out, {**facts(), **given, "measures": result, "against": peers})


if __name__ == "__main__":
    arguments = build_parser().parse_args()
    raise SystemExit(exit_status(lambda: run(arguments)))
