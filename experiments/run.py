"""Run an experiment of this folder: prepare, train, score, compare.

    python experiments/run.py wiki --source WIKI [--size small] [--seeds 1 2 3] [--arms three flat] [--dry-run]

What is done is skipped and what was stopped goes on, so the same command repeats, extends or finishes an experiment.
LAUNCH starts training, e.g. LAUNCH="accelerate launch --num_processes 8".
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiment import Plan, Task, read_experiment

from textvae.atomic import partial

LAUNCH = (
    "accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no "
    f"--num_cpu_threads_per_process {os.cpu_count()}"
)
ENVIRONMENT = {
    # Freed tensors are kept, not given back to the system at every step: an eighth to a fifth of the time on a CPU.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="wiki, ptb, screens, or a YAML file")
    parser.add_argument("--source", help="what its data are prepared from, until they are")
    parser.add_argument("--size", help="one of the experiment's sizes (default: its first)")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="default: all; what they start from is trained too")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="default: the experiment's")
    parser.add_argument("--dry-run", action="store_true", help="print every command that is left, and run none")
    parser.add_argument("--status", action="store_true", help="print what is done, and run nothing")
    arguments = parser.parse_args()
    try:
        named = Path(arguments.experiment)
        file = named if named.suffix else Path(__file__).parent / f"{named}.yaml"
        experiment = read_experiment(file, arguments.size, arguments.source)
        tasks = Plan(experiment, arguments.size, arguments.arms, arguments.seeds).tasks()
        print(status(tasks), flush=True)
        if not arguments.status:
            for task in tasks:
                if not task.is_done():
                    perform(task, arguments.dry_run)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def status(tasks: Sequence[Task]) -> str:
    """A line for each thing that is made, and how far it is."""
    rows = [(task.kind, str(task.makes), task.progress()) for task in tasks if task.kind != "compare"]
    width = max((len(made) for _, made, _ in rows), default=0)
    return "\n".join(f"{kind:8}{made:{width}}  {progress}" for kind, made, progress in rows)


def perform(task: Task, dry_run: bool) -> None:
    """Raises ValueError when something that it needs is missing, or a command fails."""
    if dry_run:
        for command in task.commands:
            print(shlex.join(_started(command)))
        return
    for word in (word for command in task.commands for word in command):
        if word == "{source}":
            raise ValueError(f"{task.makes} is to be prepared: say from what with --source")
    for folder in task.needs:
        if not folder.is_dir():
            raise ValueError(f"{task.makes} starts from {folder}, which is not there; train it first")
    for folder in task.removes:
        shutil.rmtree(folder, ignore_errors=True)
    for command in task.commands:
        started = _started(command)
        print(f"$ {shlex.join(started)}", flush=True)
        if code := _wait(started, os.environ | ENVIRONMENT):
            raise ValueError(f"{shlex.join(command[:3])} ended with status {code}; the same command again goes on")
    if task.kind == "score":
        os.replace(partial(task.makes), task.makes)


def _started(command: Sequence[str]) -> list[str]:
    """With the interpreter before a script, and what launches training before that."""
    if command[0] == "train.py":
        return [*shlex.split(os.environ.get("LAUNCH", LAUNCH)), *command]
    return [sys.executable, *command] if command[0].endswith(".py") else list(command)


def _wait(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Exit status; commands come from beside this interpreter first. An interrupt reaches the command, too, which
    saves what it has: it is waited for."""
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    process = subprocess.Popen(command, env={**environment, "PATH": path})
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


if __name__ == "__main__":
    raise SystemExit(main())
