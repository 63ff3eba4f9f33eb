"""Checkpoints: whole whatever happens, nobody's code, refused where they do not belong."""

import hashlib
import json
import math
import os
import pickle
import resource
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import yaml
from run_scripts import KINDS, forked
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_runs import Settings, assert_same_run, configured, records

from textvae.config import Config, ModelConfig, to_dict
from textvae.damage import checksums
from textvae.data.dataset import METADATA_FILE
from textvae.runs import RunFolder, load_run
from textvae.training.checkpoint import Checkpoints
from textvae.training.loop import Progress, train
from textvae.training.objective import ElboTerms, Objective, elbo_terms
from textvae.training.output import RunOutput
from textvae.training.state_file import read_state, write_state
from textvae.training.stopping import TrainingStopped

OPTIONS = {"steps": 7, "save_every": 2, "validate_every": 3, "log_every": 1}


def resuming(config: Config, **options: Any) -> Config:
    return replace(config, train=replace(config.train, resume=True, **options))


@pytest.fixture(scope="module")
def model(settings: Settings) -> ModelConfig:
    """With dropout, so that a resume must restore the random generators."""
    return settings("document", "sentence", architecture={"resid_pdrop": 0.1})


@pytest.fixture(scope="module")
def whole(prepared: Path, model: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An uninterrupted run."""
    config = configured(prepared, tmp_path_factory.mktemp("runs") / "whole", model, **OPTIONS)
    train(config)
    return config


def copied(run: Config, output: Path) -> Config:
    """A finished run in another folder, as if it had been trained there."""
    config = replace(run, train=replace(run.train, output=str(output)))
    shutil.copytree(run.train.output, output)
    RunFolder(output).config.write_text(yaml.safe_dump(to_dict(config)), encoding="utf-8")
    return config


@pytest.fixture
def stopped(whole: Config, tmp_path: Path) -> Config:
    """The same run as if it had been killed after its last step but one, saved four steps before the end."""
    config = copied(whole, tmp_path / "run")
    folder = RunFolder(config.train.output)
    shutil.rmtree(folder.step_folder(7))
    lines = folder.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    folder.metrics.write_text("".join(line for line in lines if json.loads(line)["step"] < 7), encoding="utf-8")
    return config


def test_the_last_checkpoints_are_kept(whole: Config) -> None:
    folder = RunFolder(whole.train.output)
    assert folder.steps() == [6, 7]
    assert folder.latest_step() == 7
    assert {path.name for path in folder.checkpoints.iterdir()} == {"step-000006", "step-000007", "latest"}


def test_a_resumed_run_ends_as_if_it_had_not_been_stopped(whole: Config, stopped: Config) -> None:
    assert_same_run(train(resuming(stopped)), Path(whole.train.output))


def test_what_killed_writers_left_is_removed(whole: Config, stopped: Config) -> None:
    """Half a folder, half a model, half a `latest`, and a whole folder that never came to count."""
    folder = RunFolder(stopped.train.output)
    (folder.checkpoints / "step-000007.partial").mkdir()
    shutil.copytree(folder.step_folder(6), folder.step_folder(7))
    (folder.checkpoints / "latest").write_text("step-000006\n")
    (folder.checkpoints / "latest.partial").write_text("step-0")
    (folder.path / "model.partial").mkdir()
    assert folder.latest_step() == 6
    assert_same_run(train(resuming(stopped)), Path(whole.train.output))
    assert not list(folder.path.rglob("*.partial"))
    assert folder.steps() == [6, 7]


def test_a_run_with_no_step_left_removes_them_too(whole: Config, tmp_path: Path) -> None:
    """Killed after its last checkpoint, before the old one was gone."""
    config = copied(whole, tmp_path / "run")
    folder = RunFolder(config.train.output)
    shutil.copytree(folder.step_folder(6), folder.step_folder(5))
    (folder.checkpoints / "step-000004.partial").mkdir()
    assert_same_run(train(resuming(config)), Path(whole.train.output))
    assert {path.name for path in folder.checkpoints.iterdir()} == {"step-000006", "step-000007", "latest"}


@pytest.mark.parametrize("latest", [None, "step-000400\n", "\x00", "step-000006"], ids=str)
def test_the_newest_whole_checkpoint_counts_where_latest_names_none(stopped: Config, latest: str | None) -> None:
    folder = RunFolder(stopped.train.output)
    (folder.checkpoints / "latest").unlink()
    if latest is not None:
        (folder.checkpoints / "latest").write_text(latest)
    assert folder.latest_step() == 6


def test_a_run_stopped_before_its_first_checkpoint_starts_over(
    whole: Config, stopped: Config, capfd: pytest.CaptureFixture[str]
) -> None:
    """And the message of a start without train.resume sends to what works."""
    folder = RunFolder(stopped.train.output)
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(ValueError, match=r"continue it with train.resume=true"):
        train(stopped)
    assert_same_run(train(resuming(stopped)), Path(whole.train.output))
    assert "stopped before its first checkpoint: it starts over" in capfd.readouterr().out


def test_a_torn_line_is_dropped_and_told(whole: Config, stopped: Config, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(stopped.train.output)
    before = folder.records()
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "split": "tra')
    assert folder.records() == before
    assert f"{folder.metrics}: its last line, {len(before) + 1}, was cut short" in caplog.text
    assert_same_run(train(resuming(stopped)), Path(whole.train.output))


def test_a_log_that_was_shortened_is_told(whole: Config, stopped: Config, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(stopped.train.output)
    before = folder.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
    folder.metrics.write_text("".join(before[2:]), encoding="utf-8")
    run = train(resuming(stopped))
    assert f"{folder.metrics}: 2 of the {len(before)} lines logged until step 6 are missing" in caplog.text
    assert RunFolder(run).records()[: len(before) - 2] == [json.loads(line) for line in before[2:]]


@pytest.mark.parametrize("line", ['{"step": 2', "[1]", "{}", "\x00\x00", "\ufffd"], ids=repr)
def test_another_damaged_line_is_named(stopped: Config, line: str) -> None:
    folder = RunFolder(stopped.train.output)
    lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    folder.metrics.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: this is no record of training; mend or remove"):
        train(resuming(stopped))


def test_the_tracker_has_every_step_once(prepared: Path, model: ModelConfig, tmp_path: Path, monkeypatch: Any) -> None:
    config = configured(prepared, tmp_path / "run", model, **{**OPTIONS, "tracker": "tensorboard"})
    log = Progress.log

    def stop(self: Progress, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == 6:
            self.flush()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    train(resuming(config))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    for tag, steps in (("train/nll_per_token", range(1, 8)), ("validation/nll_per_token", (3, 6, 7))):
        assert [event.step for event in events.Scalars(tag)] == list(steps)


def test_other_data_are_refused(prepared: Path, stopped: Config, tmp_path: Path) -> None:
    """A copy elsewhere is the same data; the same number of rows with other ids is not."""
    shutil.copytree(prepared, tmp_path / "copy")
    copied = replace(stopped, data=replace(stopped.data, path=str(tmp_path / "copy")))
    train(resuming(copied))
    for split in ("train", "validation"):
        rows = datasets.load_from_disk(str(prepared / split))
        other = rows.map(lambda row: {"id": row["id"] + "x"})
        shutil.rmtree(tmp_path / "copy" / split)
        other.save_to_disk(str(tmp_path / "copy" / split))
    described = json.loads((tmp_path / "copy" / METADATA_FILE).read_bytes())
    described["files"] = checksums(tmp_path / "copy", (tmp_path / "copy").glob("*/*"))
    (tmp_path / "copy" / METADATA_FILE).write_text(json.dumps(described), encoding="utf-8")
    with pytest.raises(ValueError, match=r"was trained on other data: its train split had \d+ rows, \d+ tokens"):
        train(resuming(copied))


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("where", ["model", "training", "process-00000", "all"])
def test_a_strangers_run_folder_runs_nothing(stopped: Config, tmp_path: Path, where: str) -> None:
    """Pickles in place of states, under checksums that are right."""
    folder = RunFolder(stopped.train.output).step_folder(6)
    ran = tmp_path / "ran"
    sums = json.loads((folder / "checksums.json").read_text())
    for file in folder.glob("*.safetensors"):
        if where in (file.stem, "all"):
            file.write_bytes(pickle.dumps(Payload(ran)))
            sums[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(ValueError, match=r"\.safetensors is no state that training wrote") as refusal:
        train(resuming(stopped))
    assert "\n" not in str(refusal.value)
    assert not ran.exists()
    pickle.loads(pickle.dumps(Payload(ran)))
    assert ran.exists(), "the payload works"


def test_checkpoints_of_old_are_refused(stopped: Config, tmp_path: Path) -> None:
    """Those of textvae 0.1.0 were pickled."""
    folder = RunFolder(stopped.train.output)
    shutil.rmtree(folder.checkpoints)
    (folder.path / "last").mkdir()
    torch.save({"a": Payload(tmp_path / "ran")}, folder.path / "last" / "optimizer.bin")
    with pytest.raises(ValueError, match="written by an older textvae"):
        train(resuming(stopped))
    assert not (tmp_path / "ran").exists()


def test_a_damaged_byte_is_seen_wherever_it_is(stopped: Config) -> None:
    folder = RunFolder(stopped.train.output).step_folder(6)
    random = np.random.default_rng(0)
    for file in sorted(folder.iterdir()):
        intact = file.read_bytes()
        for position in [0, len(intact) - 1, *random.integers(len(intact), size=2).tolist()]:
            damaged = bytearray(intact)
            damaged[position] ^= 1 << int(random.integers(8))
            file.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"damaged.*; remove .*step-000006 to resume"):
                train(resuming(stopped))
        file.write_bytes(intact)


def test_a_checkpoint_that_lacks_the_file_of_a_process_never_counts(
    whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where machines do not share the folder."""
    config = replace(whole, train=replace(whole.train, output=str(tmp_path / "run")))

    def elsewhere(path: Path, state: Any) -> None:
        if path.name != "process-00000.safetensors":
            write_state(path, state)

    monkeypatch.setattr("textvae.training.checkpoint.write_state", elsewhere)
    with pytest.raises(
        OSError, match=r"process-00000\.safetensors', .*: train\.output must be in a file system that all"
    ):
        train(config)
    assert RunFolder(tmp_path / "run").latest_step() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_saved(
    whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    config = replace(whole, train=replace(whole.train, output=str(tmp_path / "run")))
    log = Progress.log

    def interrupt(self: Progress, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == 5:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "log", interrupt)
        with pytest.raises(TrainingStopped, match=r"after step 5, saved; go on with train.resume=true") as found:
            train(config)
    assert found.value.number == number
    assert signal.getsignal(number) is before
    assert RunFolder(config.train.output).latest_step() == 5
    assert_same_run(train(resuming(config)), Path(whole.train.output))


def test_a_full_disk_ends_a_run_that_goes_on_from_its_last_checkpoint(
    whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (RunFolder(whole.train.output).step_folder(6) / "model.safetensors").stat().st_size
    config = replace(whole, train=replace(whole.train, output=str(tmp_path / "run")))
    save = Checkpoints.save

    def without_room(checkpoints: Checkpoints, step: int) -> None:
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, resource.RLIM_INFINITY))
        save(checkpoints, step)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", without_room)
        try:
            with pytest.raises(OSError, match=r"run'\): make room, and go on with train.resume=true"):
                train(config)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert RunFolder(tmp_path / "run").latest_step() == 2
    train(resuming(config))
    assert_same_run(Path(whole.train.output), tmp_path / "run")


def test_a_step_that_is_not_finite_is_left_out(whole: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and controllers are as if the step had not been; the next record counts it."""
    config = replace(whole, train=replace(whole.train, output=str(tmp_path / "run"), steps=3))
    weights: list[dict[str, torch.Tensor]] = []
    log = Progress.log
    calls = iter(range(100))

    def broken(_: Objective, *given: Any) -> ElboTerms:
        terms = elbo_terms(*given)
        nan = float("nan") if next(calls) == 1 else 1.0
        rates = {name: rate * nan for name, rate in terms.rate_by_dimension.items()}
        return replace(terms, distortion_tokens=terms.distortion_tokens * nan, rate_by_dimension=rates)

    def noted(self: Progress, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        weights.append({name: p.detach().clone() for name, p in kept[0].named_parameters()})

    kept: list[torch.nn.Module] = []
    begin = Progress.begin
    monkeypatch.setattr(Progress, "begin", lambda self, f, m, d: (kept.append(m), begin(self, f, m, d))[1])
    monkeypatch.setattr(Objective, "terms", broken)
    monkeypatch.setattr(Progress, "log", noted)
    train(config)
    assert [record["step"] for record in records(tmp_path / "run")] == [1, 3]
    assert [record["skipped_steps"] for record in records(tmp_path / "run")] == [0, 1]
    assert all(math.isfinite(beta) for beta in records(tmp_path / "run")[1]["beta"].values())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[1][name], weights[2][name]) for name in weights[0])


@pytest.mark.parametrize("last", ["config.json", "model.safetensors"])
def test_a_kill_while_the_model_is_replaced_leaves_a_model(
    stopped: Config, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """The old one, whichever file was about to be replaced."""
    folder = Path(stopped.train.output)
    before = load_run(folder)
    other = load_run(folder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    move = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == last:
            raise KeyboardInterrupt
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            RunOutput(folder).save_model(other)
    after = load_run(folder).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.state_dict().items())
    RunOutput(folder).save_model(other)
    after = load_run(folder).state_dict()
    assert all(torch.equal(after[name], value) for name, value in other.state_dict().items())
    assert not list(folder.rglob("*.partial"))


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.randn(3, 2)
    state = {
        "tensors": [shared, shared, shared[1:], torch.tensor(2.5, dtype=torch.float64), torch.zeros(0), torch.zeros(0)],
        1: ("a", None, True, 1.5, 3),
        "": {"deep": [{}, [], ()], "bfloat": torch.ones(2, dtype=torch.bfloat16)},
    }
    write_state(tmp_path / "state.safetensors", state)
    found = read_state(tmp_path / "state.safetensors")
    assert list(found) == ["tensors", 1, ""]
    assert found[1] == state[1]
    assert found[""]["deep"] == [{}, [], ()]
    assert found[""]["bfloat"].dtype is torch.bfloat16
    for ours, theirs in zip(state["tensors"], found["tensors"], strict=True):
        assert ours.dtype is theirs.dtype
        assert torch.equal(ours, theirs)
    with pytest.raises(TypeError, match="cannot hold"):
        write_state(tmp_path / "other.safetensors", {"a": object()})
    save_file({"0": shared}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match=r"foreign.safetensors is no state that training wrote"):
        read_state(tmp_path / "foreign.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_resume_as_two(prepared: Path, settings: Settings, tmp_path: Path, kind: str) -> None:
    """Each with its own random generators, the run bit for bit as the uninterrupted one."""
    model = settings("document", "sentence", architecture={"resid_pdrop": 0.1})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = configured(prepared, whole, model, **{**OPTIONS, "micro_batch_tokens": 150})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)), encoding="utf-8")
    forked(2, ["train.py", "--config", str(path)], **KINDS[kind])
    shutil.copytree(whole, broken)
    folder = RunFolder(broken)
    states = [read_state(file)["torch"] for file in sorted(folder.step_folder(6).glob("process-*"))]
    seeds = [torch.Generator().set_state(state).initial_seed() for state in states]
    assert seeds == [config.train.seed, config.train.seed + 1], "they drop the same"
    shutil.rmtree(folder.step_folder(7))
    again = ["train.py", "--config", str(path), f"train.output={broken}", "train.resume=true"]
    forked(2, again, **KINDS[kind])
    assert_same_run(broken, whole)
    assert Counter(record["step"] for record in records(broken)) == Counter(range(1, 8))
