"""What the latents know: a linear probe on every level's latents, beside baselines.

It predicts a label that comes with the documents, or one of the tasks that need none, or those of DiscoEval's files.
Trained and tested on different source documents; documents that give no example are left out, and counted. Under
`accelerate launch`, the documents are shared out over the processes.
"""

import argparse
from dataclasses import asdict, replace
from typing import Any

from accelerate import PartialState

from textvae.cli.common import logger
from textvae.cli.evaluation import evaluation_parser, open_model, open_split, run_script, write_result
from textvae.data.dataset import Documents
from textvae.evaluation.probing.classify import ProbeReport, divide_sources, probe
from textvae.evaluation.probing.discourse import (
    DISCOURSE,
    TEST_FILE,
    TRAIN_FILE,
    documents_of,
    make_items,
    read_items,
    task_folders,
    unseen,
)
from textvae.evaluation.probing.examples import TASKS, collect
from textvae.text_vae import HierarchicalTextVAE


def build_parser() -> argparse.ArgumentParser:
    parser = evaluation_parser(__doc__, needs_data=False)
    parser.add_argument(
        "--test-split", metavar="SPLIT", help="test on it, and train on all of --split (default: three sources in ten)"
    )
    said = "; ".join(f"{name}: {task.said}" for name, task in TASKS.items())
    parser.add_argument("--task", choices=list(TASKS), help=f"{said} (default: label)")
    parser.add_argument("--label", default="label", metavar="FIELD", help="field to predict (default: %(default)s)")
    parser.add_argument(
        "--shots", type=int, nargs="+", default=[], metavar="N", help="train on N examples of every class, too"
    )
    parser.add_argument(
        "--discoeval",
        metavar="FOLDER",
        help=f"in place of --data: DiscoEval's data folder, or one of it such as data/SP/rocstory; every folder of its "
        f"{', '.join(DISCOURSE)} that has {TRAIN_FILE} and {TEST_FILE} is probed, --limit lines of each file",
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    process, model = open_model(arguments)
    if arguments.discoeval is None:
        result = _of_data(arguments, process, model)
    else:
        result = {"discoeval": arguments.discoeval, "tasks": _of_files(arguments, process, model)}
    if process.is_main_process:
        write_result(arguments.out, result)


def _check(arguments: argparse.Namespace) -> None:
    for name, count in [("shots", count) for count in arguments.shots] + [("limit", arguments.limit)]:
        if count is not None and count < 1:
            raise ValueError(f"--{name} is {count}; it must be 1 or more")
    if (arguments.data is None) == (arguments.discoeval is None):
        raise ValueError("give --data or --discoeval, one of them")
    if arguments.discoeval is not None and (arguments.task or arguments.test_split):
        given = "--task" if arguments.task else "--test-split"
        raise ValueError(f"{given} is of --data: the files of --discoeval say which task they are, and what tests it")
    if arguments.test_split == arguments.split:
        raise ValueError(f"--test-split and --split are both '{arguments.split}': name another, or one of them alone")


def _of_data(arguments: argparse.Namespace, process: PartialState, model: HierarchicalTextVAE) -> dict[str, Any]:
    task = arguments.task or "label"
    splits = [arguments.split] + ([arguments.test_split] if arguments.test_split else [])
    parts = [open_split(arguments, split, model, process) for split in splits]
    if task not in DISCOURSE:
        return {"task": task, "label": arguments.label} | _measured(arguments, process, model, task, *parts)
    if len(parts) == 1:
        parts = [parts[0].select(rows) for rows in divide_sources(parts[0].source_ids, arguments.seed)]
    (train, short), (test, shorter) = (make_items(part, task, arguments.seed) for part in parts)
    if not train or not (tested := unseen(test, train)):
        raise ValueError(f"too few documents to train and to test on: {short + shorter} are {TASKS[task].without}")
    made = [documents_of(items, model.processor) for items in (train, tested)]
    counted = {"left_out_seen": len(test) - len(tested)}
    return {"task": task} | _measured(arguments, process, model, task, *made, too_short=short + shorter) | counted


def _of_files(arguments: argparse.Namespace, process: PartialState, model: HierarchicalTextVAE) -> dict[str, Any]:
    folders, left = task_folders(arguments.discoeval)
    if left and process.is_main_process:
        logger.warning("not read, of another task or without %s or %s: %s", TRAIN_FILE, TEST_FILE, ", ".join(left))
    found = {}
    for name, folder in folders.items():
        task = name.split("/")[0]
        items = [read_items(folder / file, task, arguments.limit) for file in (TRAIN_FILE, TEST_FILE)]
        train, test = (documents_of(some, model.processor) for some in items)
        if process.is_main_process:
            print(f"{name}: {TASKS[task].said}")
        found[name] = _measured(arguments, process, model, task, train, test)
    return found


def _measured(
    arguments: argparse.Namespace,
    process: PartialState,
    model: HierarchicalTextVAE,
    task: str,
    train: Documents,
    test: Documents | None = None,
    *,
    too_short: int = 0,
) -> dict[str, Any]:
    """The report, printed; nothing on processes other than the main one."""
    asked = (task, arguments.label, arguments.batch_tokens, process)
    found = collect(model, train, *asked)
    tested = None if test is None else collect(model, test, *asked, trained=found)
    if not process.is_main_process:
        return {}
    named = f"field '{arguments.label}'" if task == "label" else f"task '{task}'"
    found = replace(found, num_left_out=found.num_left_out + too_short)
    report = probe(found, named, arguments.seed, arguments.shots, tested)
    _show(report, task)
    return asdict(report)


def _show(report: ProbeReport, task: str) -> None:
    width = max(14, *map(len, report.levels))
    for name, score in (report.levels | report.baselines).items():
        few = report.few_shot.get(name, {})
        said = "".join(f"  {count}-shot {of.accuracy:.3f}" for count, of in few.items())
        if name in report.differences:
            less = report.differences[name]
            said += f"  {less.accuracy:+.3f}{_error(less.accuracy_error)} to {less.to}"
        print(f"{name:<{width}} accuracy {score.accuracy:.3f}  macro F1 {score.f1_macro:.3f}{said}")
    counts = {
        f"documents {TASKS[task].without}": report.left_out_unlabelled,
        f"{TASKS[task].of}s of rare labels": report.left_out_rare,
    }
    if report.left_out_shared:
        counts[f"{TASKS[task].of}s of sources that are trained on"] = report.left_out_shared
    if any(counts.values()):
        print("left out: " + ", ".join(f"{count} {said}" for said, count in counts.items()))


def _error(of: float | None) -> str:
    """Standard error, where it is known."""
    return "" if of is None else f" ±{of:.3f}"


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
