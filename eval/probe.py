"""What the latents know of a label: a linear probe on every level's latents, beside two baselines.

Trained and tested on different source documents. Documents without a label are left out, and counted. Under
`accelerate launch`, the documents are shared out over the processes.
"""

import argparse
from dataclasses import asdict

from textvae.cli.evaluation import evaluation_parser, open_evaluation, run_script, write_json
from textvae.evaluation.probing import document_features, probe


def build_parser() -> argparse.ArgumentParser:
    parser = evaluation_parser(__doc__)
    parser.add_argument("--label", default="label", metavar="FIELD", help="field to predict (default: %(default)s)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    process, model, documents = open_evaluation(arguments)
    features = document_features(model, documents, arguments.label, arguments.batch_tokens, process)
    if not process.is_main_process:
        return
    report = probe(features, arguments.label, arguments.seed)
    write_json(arguments.out, {"label": arguments.label, **asdict(report)})
    for name, score in (report.levels | report.baselines).items():
        print(f"{name:<14} accuracy {score.accuracy:.3f}  macro F1 {score.f1_macro:.3f}")
    if report.left_out_unlabelled or report.left_out_rare:
        print(
            f"left out: {report.left_out_unlabelled} documents without a label, {report.left_out_rare} of rare labels"
        )


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
