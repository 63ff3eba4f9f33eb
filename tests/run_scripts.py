"""Runs scripts of the repository, in this process or in several.

Started as a script, by `launch`, it runs one script after the other: starting takes longer than they do. `forked` does
without `accelerate launch`, and its processes import nothing: a server that has imported everything forks them.
"""

import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

ROOT = Path(__file__).parent.parent
ACCELERATE = {path.stem: path for path in sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))}
_asked = yaml.safe_load(ACCELERATE["fsdp2"].read_text(encoding="utf-8"))["fsdp_config"]
FSDP2 = {"ACCELERATE_USE_FSDP": "true", **{key.upper(): str(value).lower() for key, value in _asked.items()}}
"""What `accelerate launch` makes of configs/accelerate/fsdp2.yaml."""
KINDS: dict[str, dict[str, str]] = {"ddp": {}, "fsdp2": FSDP2}
"""How processes may share a model: the variables that say so."""
SECONDS = 240
"""After which processes are thought to wait for each other for ever."""
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["preloaded"])
# It is started when it is first needed, with this environment, and on some versions of Python without our sys.path.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])


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


def launch(num_processes: int, *commands: Sequence[str], config_file: Path | None = None) -> str:
    """What `commands` (script, arguments) print under `accelerate launch` with so many processes, on the CPU;
    `config_file`: accelerate's, for the rest."""
    # With --cpu, and without MPI, accelerate starts a single process whatever --num_processes says.
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *(["--multi_gpu"] if config_file is None else ["--config_file", str(config_file)]),
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
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def forked(num_processes: int, *commands: Sequence[str], **variables: str) -> str:
    """What `commands` (script, arguments) print in so many processes that find each other as those of `accelerate
    launch` and `torchrun` do, on the CPU; `variables`: of their environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(num_processes), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        ranks, outputs = [], []
        for rank in range(num_processes):
            environment = {**os.environ, **shared, **variables, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            outputs.append(Path(folder, str(rank)))
            ranks.append(SERVER.Process(target=_run_rank, args=(environment, str(outputs[-1]), commands)))
            ranks[-1].start()
        deadline = time.monotonic() + SECONDS
        try:
            while any(rank.is_alive() for rank in ranks) and not any(rank.exitcode for rank in ranks):
                assert time.monotonic() < deadline, "the processes do not end"
                time.sleep(0.05)
            statuses = [rank.exitcode for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()
        printed = "".join(output.read_text(encoding="utf-8") for output in outputs)
    assert statuses == [0] * num_processes, printed[-3000:]
    return printed


def in_a_process(do: Callable[..., int | None], *arguments: Any) -> int:
    """Exit status of `do`, or what it returns, in a process forked where no thread runs whose locks it would wait for;
    negative for the signal that killed it."""
    process = SERVER.Process(target=_exit_with, args=(do, arguments))
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        raise AssertionError("the process does not end")
    return process.exitcode


def outliving(processes: Iterable[int], seconds: float = 20) -> list[int]:
    """Which of the processes, by their ids, are not over in so many seconds; they are killed."""
    deadline = time.monotonic() + seconds
    while left := [process for process in processes if _runs(process)]:
        if time.monotonic() > deadline:
            for process in left:
                os.kill(process, signal.SIGKILL)
            break
        time.sleep(0.05)
    return left


def _runs(process: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    return False


def _exit_with(do: Callable[..., int | None], arguments: Sequence[Any]) -> None:
    raise SystemExit(do(*arguments))


def _run_rank(environment: Mapping[str, str], output: str, commands: Sequence[Sequence[str]]) -> None:
    os.environ.update(environment)
    os.chdir(ROOT)
    with open(output, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    import torch

    torch.set_num_threads(1)
    status = next(filter(None, (run_script(*command) for command in commands)), 0)
    sys.stdout.flush()
    raise SystemExit(status)


if __name__ == "__main__":
    if os.environ["WORLD_SIZE"] != sys.argv[1]:
        raise SystemExit(f"there are {os.environ['WORLD_SIZE']} processes, not {sys.argv[1]}")
    for each in json.loads(sys.argv[2]):
        if status := run_script(*each):
            raise SystemExit(status)
