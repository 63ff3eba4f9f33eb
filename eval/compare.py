"""Runs beside one another, as a Markdown table: what eval/perplexity.py and eval/latents.py found.

    python eval/compare.py runs/lm runs/vae [--perplexity perplexity.json] [--latents latents.json]

The first run is what the others are compared with; every RUN folder must hold the perplexity file, and may hold
the latents file. Runs that were not scored on the same tokens by the same estimator are refused; the likelihood of a
plain language model is exact, and stands beside any estimator.
"""

import argparse
from pathlib import Path
from typing import Any

from run_arguments import exit_code

from textvae.evaluation.likelihood.perplexity import mean_difference
from textvae.evaluation.report.inputs import read_latents, read_perplexity

TEXT = ("documents", "tokens")
BOUND = ("estimator", "samples")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=Path)
    parser.add_argument("--perplexity", default="perplexity.json", help="file in every RUN (default: %(default)s)")
    parser.add_argument("--latents", default="latents.json", help="file in every RUN (default: %(default)s)")
    arguments = parser.parse_args()
    scored = [(run, read_perplexity(str(run / arguments.perplexity))) for run in arguments.runs]
    bounded = [(run, score) for run, score in scored if score["rate"]]
    _check_alike(scored, TEXT)
    _check_alike(bounded, BOUND)
    first = scored[0][1]
    bound = f"{bounded[0][1]['estimator']}, K = {bounded[0][1]['samples']}" if bounded else "exact"
    print(
        f"{first['documents']} documents, {first['tokens']} tokens, {bound}; "
        "all else in nats per document, the difference with its standard error over documents\n"
    )
    print(
        "| run | per token | ratio | difference | bits/byte | distortion | rates | active | shuffle | payoff (mean) |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for run, score in scored:
        path = run / arguments.latents
        levels = read_latents(str(path), tuple(score["rate"]))["levels"] if path.is_file() else {}
        print(f"| {run.name} | {' | '.join(_cells(score, first, levels))} |")


def _check_alike(scored: list[tuple[Path, dict[str, Any]]], keys: tuple[str, ...]) -> None:
    for run, score in scored:
        name, first = scored[0]
        for key in keys:
            if score[key] != first[key]:
                raise ValueError(
                    f"{run} was scored with {key} {score[key]}, {name} with {first[key]}; score both alike"
                )


def _cells(score: dict[str, Any], first: dict[str, Any], levels: dict[str, Any]) -> list[str]:
    distortion = score["distortion_tokens"] + score["distortion_structure"]
    return [
        f"{score['perplexity_per_token']:.2f}",
        f"{score['perplexity_per_token'] / first['perplexity_per_token']:.3f}",
        _difference(mean_difference(score["nll_by_document"], first["nll_by_document"])),
        f"{score['bits_per_byte']:.3f}",
        f"{distortion:.1f}",
        ", ".join(f"{name} {rate:.1f}" for name, rate in score["rate"].items()),
        ", ".join(f"{level['active_units']}/{level['dims']}" for level in levels.values()),
        ", ".join(f"{level['nll_increase_when_shuffled']:+.2f}" for level in levels.values()),
        ", ".join(_payoff(level.get("payoff_over_prior_mean")) for level in levels.values()),
    ]


def _difference(found: dict[str, float | None]) -> str:
    error = found["standard_error"]
    return f"{found['mean']:+.1f}" + ("" if error is None else f" ± {error:.1f}")


def _payoff(value: float | None) -> str:
    """A level without a rate has none."""
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
