"""Runs beside one another, as a Markdown table: what eval/perplexity.py and eval/latents.py found.

    python eval/compare.py runs/lm runs/vae [--perplexity perplexity.json] [--latents latents.json]

The first run is what the others are compared with; every RUN folder must hold the perplexity file, and may hold
the latents file. Runs that were not scored on the same documents by the same estimator are refused; the likelihood of
a plain language model is exact, and stands beside any estimator. Standard errors are clustered by source document.
"""

import argparse
from pathlib import Path

from textvae.cli.evaluation import run_script, script_parser
from textvae.evaluation.comparison import ScoredRun, comparison


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path)
    parser.add_argument("--perplexity", default="perplexity.json", help="file in every RUN (default: %(default)s)")
    parser.add_argument("--latents", default="latents.json", help="file in every RUN (default: %(default)s)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    runs = [ScoredRun.read(path, arguments.perplexity, arguments.latents) for path in arguments.runs]
    print(*comparison(runs), sep="\n")


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
