"""Experiments as data: every one comes to tasks that can run, each once, and none that is done is repeated."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from experiment import Plan, Task, read_experiment
from run_scripts import ROOT, run_script

from textvae.config import ModelConfig, to_dict
from textvae.runs import RunFolder

FILES = {path.stem: path for path in sorted((ROOT / "experiments").glob("*.yaml"))}


def planned(name: str, size: str | None = None, arms: Any = None, seeds: Any = None) -> list[Task]:
    return Plan(read_experiment(FILES[name], size, "SOURCE"), size, arms, seeds).tasks()


def trained(tasks: list[Task]) -> dict[str, Task]:
    return {task.makes.name: task for task in tasks if task.kind == "train"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are the configurations and no run yet."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")


def test_there_are_experiments() -> None:
    assert {"wiki", "ptb", "screens", "smollm2"} <= FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_what_a_run_starts_from_is_trained_before_it_with_the_same_model(name: str) -> None:
    tasks = planned(name, seeds=[1, 2])
    assert len({task.makes for task in tasks}) == len(tasks)
    before: dict[str, Task] = {}
    for task in (task for task in tasks if task.config is not None):
        config = task.config
        assert config is not None
        for start in (config.model.decoder.name, config.train.start_from):
            # Others are backbones by their own names.
            if start is not None and start.startswith("runs/") and name != "screens":
                assert Path(start).name in before, f"{task.makes} starts from {start}"
        warm = before.get(Path(config.train.start_from or "none").name)
        if warm is not None and warm.config is not None:
            assert warm.config.model == config.model
            assert warm.config.train.seed == config.train.seed
        before[task.makes.name] = task


@pytest.mark.parametrize("size", ["small", "full"])
def test_the_arms_of_wiki_differ_in_what_they_say(size: str) -> None:
    """Levels of the configuration's sizes, one shared language model, one schedule."""
    runs = trained(planned("wiki", size, seeds=[1, 2]))
    config = {name.removeprefix(f"wiki-{size}-"): task.config for name, task in runs.items()}
    sizes = {"small": (32, 8, 8), "full": (64, 32, 32)}[size]
    levels = dict(zip(("document", "paragraph", "sentence"), sizes, strict=True))
    for arm, names in (("three-2", list(levels)), ("flat-2", ["document"]), ("two-1", ["document", "sentence"])):
        found = config[arm]
        assert found is not None
        assert {level.name: level.latent_size for level in found.model.levels} == {n: levels[n] for n in names}
        baseline = config["lm-sentence-1"]
        assert baseline is not None
        assert found.model.decoder.name == baseline.model.decoder.name == f"runs/wiki-{size}-lm"
        assert (found.train.steps, found.data) == (baseline.train.steps, baseline.data)
    three, free, wide = config["three-1"], config["three-free-1"], config["three-document-1"]
    assert three is not None
    assert free is not None
    assert wide is not None
    assert three.objective.policy("sentence").target_rate == 2.2
    assert free.objective.policy("sentence").target_rate is None
    assert free.train.start_from == three.train.start_from
    assert (wide.model.decoder.name, wide.model.decoder.context) == (f"runs/wiki-{size}-lm-wide", "document")
    assert "two-2" not in config, "arms of the first seed alone"


def test_arms_and_seeds_are_chosen(tmp_path: Path) -> None:
    runs = trained(planned("wiki", arms=["flat"], seeds=[3]))
    assert list(runs) == ["wiki-small-lm", "wiki-small-topics-flat-3", "wiki-small-flat-3"]
    with pytest.raises(ValueError, match="there is no arm round; there are lm-sentence, three"):
        planned("wiki", arms=["round"])
    with pytest.raises(ValueError, match="has no size 'huge'; it has small, full"):
        planned("wiki", "huge")


def test_a_dry_run_prints_every_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCH", "launch it")
    assert run_script("experiments/run.py", "ptb", "--dry-run", "--seeds", "1") == 0
    printed = capsys.readouterr().out.splitlines()
    commands = [line for line in printed if ".py" in line or line.startswith("textvae prepare")]
    assert len(commands) == 3 + 4 + 3 + 1
    assert sum(line.startswith("launch it train.py --config configs/ptb") for line in commands) == 4
    assert run_script("experiments/run.py", "none") == 2
    assert "there is no experiment" in capsys.readouterr().err


def test_an_experiment_is_done_once_and_goes_on_where_it_stopped(
    prepared: Path, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its commands run in this process; one of them fails, later a run is stopped half way."""
    (tmp_path / "configs").unlink()
    (tmp_path / "configs").mkdir()

    def configuration(name: str, model: ModelConfig, **train: Any) -> None:
        usual = {"steps": 2, "mixed_precision": "no", "tracker": "none", "validate_every": 2, "save_every": 1}
        values = {"data": {"path": str(prepared)}, "model": to_dict(model), "train": {**usual, **train}}
        (tmp_path / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(values))

    configuration("lm", settings())
    configuration("vae", settings("document", name="runs/x-lm"))
    described = {
        "data": str(prepared),
        "runs": "runs/x",
        "starts": {"lm": {"config": "lm"}},
        "arms": {"vae": {"config": "vae", "decoder": "lm", "topics": {"config": "vae"}, "evaluations": ["test"]}},
        "evaluations": {"test": {"script": "eval/perplexity.py", "options": {"split": "test"}}},
        "compare": [],
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(described))
    spec = importlib.util.spec_from_file_location("experiment_runner", ROOT / "experiments" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    started: list[str] = []

    def here(command: list[str], environment: Any) -> int:
        script = next(number for number, word in enumerate(command) if word.endswith(".py"))
        started.append(" ".join(command[script:]))
        if len(started) == fails_at:
            return 1
        return run_script(*command[script:])

    monkeypatch.setattr(runner, "_wait", here)
    monkeypatch.setattr(sys, "argv", ["run.py", "own.yaml"])
    fails_at = 3
    assert runner.main() == 2
    assert "ended with status 1; the same command again goes on" in capsys.readouterr().err
    fails_at = 0
    assert runner.main() == 0
    assert [line.split()[0] for line in started] == ["train.py"] * 4 + ["eval/perplexity.py"]
    assert json.loads((tmp_path / "runs" / "x-vae-1" / "test.json").read_text())["documents"] > 0
    started.clear()
    assert runner.main() == 0
    assert started == []
    assert re.search(r"train +runs/x-topics-vae-1 +2/2\n", capsys.readouterr().out)

    # Stopped half way, it is resumed; of other settings, it is refused.
    folder = RunFolder("runs/x-vae-1")
    (folder.checkpoints / "latest").write_text("step-000001\n")
    assert runner.main() == 0
    assert started[0].endswith("train.resume=true")
    configuration("lm", settings(), steps=3)
    assert runner.main() == 2
    assert "runs/x-lm was trained with other settings of train.steps" in capsys.readouterr().err
