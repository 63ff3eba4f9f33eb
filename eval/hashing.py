"""Semantic hashing: how many of the 100 documents that are nearest by the bits of their latents have a query's label.

Documents of --split are searched, those of --queries ask. Beside the latents of the highest level, the mean of the
pretrained encoder's states; beside bits, the cosine of the features themselves. Nothing is fitted to the labels. Under
`accelerate launch`, the documents are shared out over the processes.
"""

import argparse
from dataclasses import asdict

from textvae.cli.evaluation import evaluation_parser, open_evaluation, run_script, write_result
from textvae.cli.source_options import open_source
from textvae.evaluation.hashing import NEAREST, hashing
from textvae.evaluation.probing.examples import collect


def build_parser() -> argparse.ArgumentParser:
    parser = evaluation_parser(__doc__)
    parser.set_defaults(split="train")
    parser.add_argument("--queries", default="test", metavar="SPLIT", help="split that asks (default: %(default)s)")
    parser.add_argument("--label", default="label", metavar="FIELD", help="what is to be equal (default: %(default)s)")
    parser.add_argument(
        "--bits", type=int, nargs="+", default=[32, 64], metavar="N", help="of a document (default: 32 64)"
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    for count in arguments.bits:
        if count < 1:
            raise ValueError(f"--bits is {count}; it must be 1 or more")
    process, model, documents = open_evaluation(arguments)
    asking = open_source(arguments, arguments.data, model, arguments.queries)
    database, queries = (
        collect(model, each, "label", arguments.label, arguments.batch_tokens, process) for each in (documents, asking)
    )
    if not process.is_main_process:
        return
    report = hashing(database, queries, arguments.bits, arguments.seed)
    write_result(arguments.out, {"label": arguments.label, "seed": arguments.seed, **asdict(report)})
    print(f"{report.queries} queries, {report.documents} documents of {report.classes} labels")
    print(f"{'precision at ' + str(NEAREST):<28}{report.chance:6.3f}  by chance")
    for name, score in report.systems.items():
        error = "" if score.precision_error is None else f" ±{score.precision_error:.3f}"
        print(f"{name:<28}{score.precision:6.3f}{error}")
    without = database.num_left_out + queries.num_left_out
    if without:
        print(f"left out: {without} documents without a label")


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
