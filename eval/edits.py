"""Parts of real documents written anew: is the plan above them kept, and does what is written fit what stays?

Sentences (the lowest level, or --level) are drawn anew under the latents of their paragraphs, which are then inferred
from the new text and compared with what was held; and a paragraph is kept to the letter while the others are written
around it.
"""

import argparse
from dataclasses import asdict

from textvae.cli.evaluation import evaluation_parser, open_evaluation, run_script, write_result
from textvae.cli.writing_options import add_sampling, sampling
from textvae.evaluation.generation.edits import Fit, kept_units, resampled_plans
from textvae.evaluation.generation.judge import Judge
from textvae.evaluation.generation.themes import choose_themes


def build_parser() -> argparse.ArgumentParser:
    parser = evaluation_parser(__doc__)
    parser.add_argument(
        "--themes", type=int, default=50, metavar="N", help="documents, one of every source (default: %(default)s)"
    )
    parser.add_argument("--level", help="first level that is drawn anew (default: the lowest)")
    parser.add_argument(
        "--judge", metavar="NAME", help="causal language model, by Hub name or folder, that says what follows from what"
    )
    add_sampling(parser, seed=False)
    return parser


def run(arguments: argparse.Namespace) -> None:
    options = sampling(arguments)
    process, model, documents = open_evaluation(arguments)
    if not process.is_main_process:
        return
    _ = model.theme_level  # which a model without one refuses
    level = arguments.level or model.config.hierarchy[-1]
    judge = Judge(arguments.judge, model.device) if arguments.judge else None
    chosen = choose_themes(documents, arguments.themes)
    real = [chosen.read(row) for row in range(len(chosen))]
    kept = kept_units(model, real, arguments.seed, options, judge)
    plans = resampled_plans(model, real, level, arguments.seed, options)
    result = {
        "documents": len(real),
        "seed": arguments.seed,
        "resampled": {"level": level, "plan": {name: asdict(plan) for name, plan in plans.items()}},
        "kept": asdict(kept) | {"judge": arguments.judge},
    }
    write_result(arguments.out, result)
    print(f"{len(real)} documents, drawn anew from level '{level}' down; chance 50%, of the nearest of all 1/units")
    for name, plan in plans.items():
        for said, found in ((f"{name} latents held", plan.held), ("  the theme alone held", plan.theme_alone)):
            print(
                f"{said:34}nearest of {found.units} {found.agreement:.0%}, nearer than another {found.nearer:.0%}, "
                f"than a sibling {found.nearer_than_siblings:.0%}"
            )
    print(
        f"{kept.documents} documents with one {model.config.hierarchy[-2]} kept: {kept.to_the_letter:.0%} to the letter"
    )
    for said, fit in (("written neighbours", kept.written), ("real neighbours", kept.real)):
        if fit is not None:
            print(f"{said:34}{_described(fit)}")


def _described(fit: Fit) -> str:
    error = "" if fit.standard_error is None else f" ± {1.96 * fit.standard_error:.3f}"
    return f"{fit.own:.2f} nats per token after the own, {fit.stranger:.2f} after a stranger's: {fit.gain:+.3f}{error}"


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
