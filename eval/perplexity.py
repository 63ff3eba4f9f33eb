"""Likelihood of whole documents, reported per token, per word and per byte.

Under `accelerate launch`, the documents are shared out over the processes; the result is that of one process.
"""

import argparse

from textvae.cli.common import logger
from textvae.cli.evaluation import evaluation_parser, open_evaluation, run_script, sections, write_result
from textvae.evaluation.likelihood.perplexity import perplexity_report, score_documents

SAMPLES = 16


def build_parser() -> argparse.ArgumentParser:
    parser = evaluation_parser(__doc__)
    parser.add_argument("--estimator", choices=["elbo", "iwae", "smc"], default="elbo")
    parser.add_argument("--samples", type=int, metavar="K", help=f"for iwae and smc (default: {SAMPLES})")
    return parser


def run(arguments: argparse.Namespace) -> None:
    process, model, documents = open_evaluation(arguments)
    if arguments.estimator == "elbo" and arguments.samples not in (None, 1) and process.is_main_process:
        logger.warning("the elbo takes one sample, not %d: --estimator iwae or smc take more", arguments.samples)
    samples = SAMPLES if arguments.samples is None else arguments.samples
    choice = arguments.estimator, samples, arguments.seed
    scores = score_documents(model, documents, *choice, batch_tokens=arguments.batch_tokens, process=process)
    if process.is_main_process:
        result = perplexity_report(scores, *choice)
        write_result(arguments.out, result)
        print(
            f"{sections(result)}: perplexity {result['perplexity_per_token']:.2f} per token, "
            f"{result['perplexity_per_word']:.2f} per word, {result['bits_per_byte']:.3f} bits per byte"
        )


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
