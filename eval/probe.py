"""What the latents know: a linear probe on every level's latents, beside baselines.

It predicts a label that comes with the documents, or one of the tasks that need none. Trained and tested on different
source documents; documents that give no example are left out, and counted. Under `accelerate launch`, the documents are
shared out over the processes.
"""

import argparse
from dataclasses import asdict

from textvae.cli.evaluation import evaluation_parser, open_evaluation, run_script, write_result
from textvae.evaluation.probing.classify import probe
from textvae.evaluation.probing.examples import TASKS, collect


def build_parser() -> argparse.ArgumentParser:
    parser = evaluation_parser(__doc__)
    said = "; ".join(f"{name}: {task.said}" for name, task in TASKS.items())
    parser.add_argument("--task", choices=list(TASKS), default="label", help=f"{said} (default: %(default)s)")
    parser.add_argument("--label", default="label", metavar="FIELD", help="field to predict (default: %(default)s)")
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[], metavar="N", help="train on N examples of every class, too"
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    task, shots = TASKS[arguments.task], arguments.shots
    for count in shots:
        if count < 1:
            raise ValueError(f"--shots is {count}; it must be 1 or more")
    process, model, documents = open_evaluation(arguments)
    examples = collect(model, documents, arguments.task, arguments.label, arguments.batch_tokens, process)
    if not process.is_main_process:
        return
    named = f"field '{arguments.label}'" if arguments.task == "label" else f"task '{arguments.task}'"
    report = probe(examples, named, arguments.seed, shots)
    write_result(arguments.out, {"task": arguments.task, "label": arguments.label, **asdict(report)})
    for name, score in (report.levels | report.baselines).items():
        few = report.few_shot.get(name, {})
        said = "".join(f"  {count}-shot {of.accuracy:.3f}" for count, of in few.items())
        print(f"{name:<14} accuracy {score.accuracy:.3f}  macro F1 {score.f1_macro:.3f}{said}")
    if report.left_out_unlabelled or report.left_out_rare:
        without, rare = report.left_out_unlabelled, report.left_out_rare
        print(f"left out: {without} documents {task.without}, {rare} {task.of}s of rare labels")


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
