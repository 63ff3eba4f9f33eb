"""Gap of the likelihood estimators to the exact value, on linear-Gaussian hierarchies whose likelihood is known.

    python eval/linear_gaussian.py --out FILE.json

Takes three minutes on one core, and prints a Markdown table: nats between the truth and the estimate, mean
and standard error over documents and runs.
"""

import argparse
from dataclasses import asdict

import torch

from textvae.cli.evaluation import run_script, script_parser, write_result
from textvae.evaluation.likelihood.gaps import ESTIMATORS, SAMPLES, measure_gaps
from textvae.evaluation.likelihood.linear_gaussian import LinearGaussianHierarchy

COUPLINGS = {"weak": 0.08, "medium": 0.3, "strong": 0.6}


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument("--out", required=True, metavar="FILE.json")
    parser.add_argument("--dims", type=int, nargs="+", default=[4, 3, 2], help="latent size per level, top first")
    parser.add_argument("--sentences", type=int, nargs="+", default=[3, 10, 50, 200], help="per document")
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5, help="noise seeds per document")
    return parser


def run(arguments: argparse.Namespace) -> None:
    if arguments.documents * arguments.runs < 2:
        raise ValueError("a standard error needs --documents times --runs of two or more")
    torch.set_num_threads(1)
    rows = []
    print("| coupling | sentences | estimator |" + "".join(f" K = {samples} |" for samples in SAMPLES))
    print("|---|---|---|" + "---|" * len(SAMPLES))
    for coupling, strength in COUPLINGS.items():
        for sentences in arguments.sentences:
            model = LinearGaussianHierarchy(sentences, strength, tuple(arguments.dims), observed=max(arguments.dims))
            gaps = measure_gaps(model, arguments.documents, arguments.runs)
            rows += [{"coupling": coupling, "sentences": sentences, **asdict(gap)} for gap in gaps]
            for name in ESTIMATORS:
                cells = [f"{gap.gap:.2f} ± {gap.standard_error:.2f}" for gap in gaps if gap.estimator == name]
                print(f"| {coupling} | {sentences} | {name} | " + " | ".join(cells) + " |", flush=True)
    write_result(arguments.out, {"dims": arguments.dims, "rows": rows})


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
