"""Runs scripts of the repository, in this process or in several.

Started as a script, by `launch`, it runs one script after the other: starting takes longer than they do.
"""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run_script(script: str, *arguments: str) -> int:
    """Exit status of a script of the repository."""
    path = ROOT / script
    before, sys.argv = sys.argv, [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
        sys.path.remove(str(path.parent))
    return 0


def refusal(capture: pytest.CaptureFixture[str], out: Path, script: str, *arguments: str) -> str:
    """The line with which a script refuses its input: its last, and nothing is written to `out`."""
    assert run_script(script, "--out", str(out), *arguments) == 2
    assert not out.exists()
    return capture.readouterr().err.splitlines()[-1]


def launch(num_processes: int, *commands: Sequence[str]) -> str:
    """What `commands` (script, arguments) print under `accelerate launch` with so many processes, on the CPU."""
    # With --cpu, and without MPI, accelerate starts a single process whatever --num_processes says.
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        str(num_processes),
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
        __file__,
        str(num_processes),
        json.dumps(commands),
    ]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


if __name__ == "__main__":
    if os.environ["WORLD_SIZE"] != sys.argv[1]:
        raise SystemExit(f"there are {os.environ['WORLD_SIZE']} processes, not {sys.argv[1]}")
    for each in json.loads(sys.argv[2]):
        if status := run_script(*each):
            raise SystemExit(status)
