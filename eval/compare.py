"""Runs beside one another, as a Markdown table: what eval/perplexity.py and eval/latents.py found.

    python eval/compare.py runs/lm runs/vae [--perplexity perplexity.json] [--latents latents.json]

The first run is what the others are compared with; every RUN folder must hold the perplexity file, and may hold
the latents file. Runs that were not scored on the same tokens by the same estimator are refused.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from run_arguments import exit_code

SAME = ("documents", "tokens", "estimator", "samples")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path)
    parser.add_argument("--perplexity", default="perplexity.json", help="file in every RUN (default: %(default)s)")
    parser.add_argument("--latents", default="latents.json", help="file in every RUN (default: %(default)s)")
    arguments = parser.parse_args()
    scores = [_read(run / arguments.perplexity, "eval/perplexity.py") for run in arguments.runs]
    first = scores[0]
    for run, score in zip(arguments.runs, scores, strict=True):
        for key in SAME:
            if score[key] != first[key]:
                raise ValueError(
                    f"{run} was scored with {key} {score[key]}, {arguments.runs[0]} with {first[key]}; score both alike"
                )
    print(f"{first['documents']} documents, {first['tokens']} tokens, {first['estimator']}, K = {first['samples']}; "
          "distortion and rates in nats per document\n")  # fmt: skip
    print("| run | per token | ratio | bits/byte | distortion | rates | active | shuffle | payoff (mean) |")
    print("|---|---|---|---|---|---|---|---|---|")
    for run, score in zip(arguments.runs, scores, strict=True):
        path = run / arguments.latents
        levels = json.loads(path.read_text(encoding="utf-8"))["levels"] if path.is_file() else {}
        print(f"| {run.name} | {' | '.join(_cells(score, first, levels))} |")


def _cells(score: dict[str, Any], first: dict[str, Any], levels: dict[str, Any]) -> list[str]:
    distortion = score["distortion_tokens"] + score["distortion_structure"]
    return [
        f"{score['perplexity_per_token']:.2f}",
        f"{score['perplexity_per_token'] / first['perplexity_per_token']:.3f}",
        f"{score['bits_per_byte']:.3f}",
        f"{distortion:.1f}",
        ", ".join(f"{name} {rate:.1f}" for name, rate in score["rate"].items()),
        ", ".join(f"{level['active_units']}/{level['dims']}" for level in levels.values()),
        ", ".join(f"{level['nll_increase_when_shuffled']:+.2f}" for level in levels.values()),
        ", ".join(f"{level['payoff_over_prior_mean']:.2f}" for level in levels.values()),
    ]


def _read(path: Path, script: str) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; write it with {script} --out {path}")
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
