"""Training that is stopped, by whom it may be: it ends, with what it had trained."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from run_scripts import ROOT, SECONDS, forked, outliving
from training_runs import Settings, assert_same_run, configured, written

from textvae.config import Config
from textvae.runs import RunFolder
from textvae.training.loop import Progress, train

LEVELS = ("document", "sentence")
ENDING = """
import gc
import os
import runpy
import signal
import sys
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel
from textvae.training.loop import Objective, Progress

how = sys.argv.pop(1)
end, log, terms = Accelerator.end_training, Progress.log, Objective.terms

def checked(accelerator):
    copies = [thing for thing in gc.get_objects() if isinstance(thing, DistributedDataParallel)]
    print(f"{accelerator.num_processes} processes end with {len(copies)} copies", flush=True)
    end(accelerator)

def signalled(progress, step, *rest):
    log(progress, step, *rest)
    if step == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)

def failing(*given):
    raise ValueError("this is an error")

Accelerator.end_training = checked
if how == "signal":
    Progress.log = signalled
if how == "error":
    Objective.terms = failing
try:
    runpy.run_path("train.py", run_name="__main__")
except SystemExit as ended:
    print(f"ended with {ended.code}", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [("itself", 0), ("signal", 128 + signal.SIGTERM), ("error", 2)])
def test_copies_are_gone_when_the_processes_part(
    prepared: Path, settings: Settings, tmp_path: Path, how: str, code: int
) -> None:
    """The last to hold the group must not be a copy's reducer: it ends the group's threads with the interpreter locked,
    for which one of them may be waiting."""
    script = tmp_path / "ending.py"
    script.write_text(ENDING, encoding="utf-8")
    config = configured(prepared, tmp_path / "run", settings(*LEVELS), steps=3, save_every=3)
    printed = forked(2, [str(script), how, *written(config, tmp_path / "run")[1:]])
    assert printed.count("2 processes end with 0 copies") == 2
    assert printed.count(f"ended with {code}") == 2
    assert RunFolder(tmp_path / "run").latest_step() == {"itself": 3, "signal": 2, "error": None}[how]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # told again to what is being deleted
def test_a_lost_worker_is_one_error_and_the_run_goes_on(
    prepared: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(prepared, tmp_path / "whole", settings(*LEVELS), steps=6, save_every=2)
    lost = replace(config, train=replace(config.train, output=str(tmp_path / "run")))
    lost = replace(lost, data=replace(lost.data, num_workers=1))
    log = Progress.log

    def kill(self: Progress, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == 3:
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "log", kill)
        told = r"^what prepares data ahead was lost \(.*\): go on with train\.resume=true; fewer data\.num_workers"
        with pytest.raises(ChildProcessError, match=told) as found:
            train(lost)
    assert "\n" not in str(found.value)
    train(replace(lost, train=replace(lost.train, resume=True)))
    assert_same_run(train(config), tmp_path / "run")


@contextmanager
def begun(config: Config, *command: str) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process, Path]]:
    """What runs `command`, which trains; the process that does, which has logged a step; where it prints."""
    printed = Path(config.train.output).with_suffix(".txt")
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with printed.open("wb") as file:
        started = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=file, stderr=file)
    metrics, deadline = RunFolder(config.train.output).metrics, time.monotonic() + SECONDS
    while not (metrics.exists() and metrics.stat().st_size):
        assert started.poll() is None, printed.read_text(encoding="utf-8")
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (trainer,) = psutil.Process(started.pid).children()
    try:
        yield started, trainer, printed
    finally:
        started.kill()
        started.wait()


@pytest.mark.slow
def test_a_run_whose_launcher_is_ended_stops_saved(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    """Which passes no signal on: Slurm, Docker and systemd send theirs to the launcher."""
    config = configured(prepared, tmp_path / "run", settings(*LEVELS), steps=100_000, save_every=100_000)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    with begun(config, *command, *written(config, tmp_path / "run")) as (launcher, trainer, printed):
        launcher.terminate()
        launcher.wait(SECONDS)
        assert not outliving([trainer.pid])
    step = RunFolder(tmp_path / "run").latest_step()
    assert step is not None
    assert f"stopped after step {step}, saved; go on with train.resume=true" in printed.read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_outlives_the_shell_that_started_it(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    config = configured(prepared, tmp_path / "run", settings(*LEVELS), steps=60, save_every=60)
    command = f"nohup {sys.executable} {' '.join(written(config, tmp_path / 'run'))} & wait"
    with begun(config, "sh", "-c", command) as (shell, trainer, printed):
        shell.kill()
        shell.wait()
        assert not outliving([trainer.pid], SECONDS)
    assert RunFolder(tmp_path / "run").latest_step() == 60, printed.read_text(encoding="utf-8")
