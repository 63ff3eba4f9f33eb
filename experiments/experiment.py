"""An experiment as its YAML file describes it, and the tasks that it comes to.

In the file, `{size}`, `{source}` and `{data}` stand for what the command line and the file itself say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic.dataclasses import dataclass

from textvae.atomic import partial
from textvae.config import STRICT, Config, parse
from textvae.config_file import load_config
from textvae.data.dataset import METADATA_FILE
from textvae.runs import RunFolder, changed_settings

TOPICS = "topics-"
CONFIGS = Path("configs")


@dataclass(frozen=True, config=STRICT)
class Run:
    """A configuration and what differs from it."""

    config: str
    """Of configs/, without `.yaml`."""
    decoder: str | None = None
    """Language model to continue: a start of this experiment, or a run folder; None leaves it to the configuration."""
    start_from: str | None = None
    """Whose weights it starts with: `topics-ARM` of this experiment, or a run folder."""
    set: dict[str, Any] = field(default_factory=dict)
    """`section.key` -> value."""


@dataclass(frozen=True, config=STRICT)
class Arm(Run):
    """What is compared: trained and scored, once a seed."""

    topics: Run | None = None
    """A warm start of its own, which gets the arm's decoder and settings of the model."""
    seeds: Literal["all", "first"] = "all"
    evaluations: tuple[str, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Evaluation:
    script: str
    options: dict[str, str | int | float] = field(default_factory=dict)
    out: str | None = None
    """Name of its file in the run folder, without `.json`; None: the evaluation's own."""


@dataclass(frozen=True, config=STRICT)
class Prepare:
    makes: tuple[str, ...]
    """Folders; what a killed attempt left of them is removed first."""
    commands: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, config=STRICT)
class Experiment:
    data: str
    runs: str
    """What the names of its run folders begin with."""
    arms: dict[str, Arm]
    evaluations: dict[str, Evaluation]
    compare: tuple[str, ...]
    """Names of the result files that are compared."""
    prepare: Prepare | None = None
    sizes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Size -> options that the last command of `prepare` gets for it; the first is the default."""
    seeds: tuple[int, ...] = (1,)
    starts: dict[str, Run] = field(default_factory=dict)
    """Runs that all seeds share."""


@plain_dataclass(frozen=True)
class Task:
    """Commands that make one thing."""

    kind: Literal["prepare", "train", "score", "compare"]
    makes: Path
    commands: tuple[tuple[str, ...], ...]
    removes: tuple[Path, ...] = ()
    """Leftovers of an earlier attempt."""
    config: Config | None = None
    """What is to be trained."""
    needs: tuple[Path, ...] = ()
    """Run folders of other experiments."""

    def is_done(self) -> bool:
        """Raises ValueError when it was done with other settings."""
        if self.kind == "compare":
            return False
        if self.config is None:
            return self.makes.is_file()
        folder = RunFolder(self.makes)
        if folder.latest_step() is None:
            return False
        changed = changed_settings(folder.stored_config(), self.config)
        if changed:
            raise ValueError(
                f"{self.makes} was trained with other settings of {', '.join(changed)}; move it away to train it again"
            )
        return folder.latest_step() == self.config.train.steps

    def progress(self) -> str:
        if self.config is None:
            return "done" if self.is_done() else "-"
        step = RunFolder(self.makes).latest_step()
        return "-" if step is None else f"{step}/{self.config.train.steps}"


def read_experiment(path: Path, size: str | None, source: str | None) -> Experiment:
    """Raises ValueError naming the file and what is wrong in it, or a size that it does not have."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except FileNotFoundError:
        found = ", ".join(sorted(other.stem for other in path.parent.glob("*.yaml")))
        raise ValueError(f"there is no experiment {path}; there are {found}") from None
    described = parse(Experiment, values, str(path))
    sizes = list(described.sizes)
    if size is not None and size not in sizes:
        raise ValueError(f"{path} has no size '{size}'; it has {', '.join(sizes) or 'one size alone'}")
    words = {"size": size or next(iter(sizes), ""), "source": source or "{source}"}
    words["data"] = described.data.format_map(words)
    return parse(Experiment, _filled(values, words), str(path))


def _filled(value: Any, words: dict[str, str]) -> Any:
    """`value` with the names in braces replaced in all of its text."""
    if isinstance(value, str):
        return value.format_map(words)
    if isinstance(value, dict):
        return {key: _filled(member, words) for key, member in value.items()}
    if isinstance(value, list):
        return [_filled(member, words) for member in value]
    return value


class Plan:
    """The tasks of some arms and seeds, in the order in which they are done."""

    def __init__(
        self, experiment: Experiment, size: str | None, arms: Sequence[str] | None, seeds: Sequence[int] | None
    ) -> None:
        """arms, seeds: None for all that the experiment names. Raises ValueError for an arm that it has not."""
        unknown = [name for name in arms or () if name not in experiment.arms]
        if unknown:
            raise ValueError(f"there is no arm {', '.join(unknown)}; there are {', '.join(experiment.arms)}")
        self.experiment = experiment
        self.size = size or next(iter(experiment.sizes), None)
        self.seeds = tuple(seeds or experiment.seeds)
        self.members = [
            (name, seed)
            for seed in self.seeds
            for name, arm in experiment.arms.items()
            if (arms is None or name in arms) and (arm.seeds == "all" or seed == self.seeds[0])
        ]

    def tasks(self) -> list[Task]:
        """Each once; what others start from before them."""
        found: dict[Path, Task] = {}
        for task in self._walk():
            found.setdefault(task.makes, task)
        return list(found.values())

    def _walk(self) -> Iterator[Task]:
        experiment = self.experiment
        if experiment.prepare is not None:
            *before, last = experiment.prepare.commands
            commands = (*before, (*last, *experiment.sizes.get(self.size or "", ())))
            made = tuple(Path(folder) for folder in experiment.prepare.makes)
            yield Task("prepare", Path(experiment.data) / METADATA_FILE, commands, removes=made)
        for name, seed in self.members:
            yield from self._trained(name, experiment.arms[name], seed)
        folders = [self._folder(name, seed) for name, seed in self.members]
        for (name, _), folder in zip(self.members, folders, strict=True):
            for evaluation in experiment.arms[name].evaluations:
                yield self._scored(folder, evaluation)
        for result in experiment.compare:
            members = [str(folder) for (name, _), folder in zip(self.members, folders, strict=True)]
            command = ("eval/compare.py", *members, "--perplexity", f"{result}.json")
            yield Task("compare", Path(f"{experiment.runs}-{result}"), (command,))

    def _trained(self, name: str, run: Run, seed: int | None) -> Iterator[Task]:
        """Of a run, after what it starts from; `seed` is None for one that all seeds share."""
        changes, needs = dict(run.set), []
        for key, start in (("model.decoder.name", run.decoder), ("train.start_from", run.start_from)):
            if start is not None:
                if start in self.experiment.starts:
                    yield from self._trained(start, self.experiment.starts[start], None)
                    changes[key] = str(self._folder(start, None))
                elif start.startswith(TOPICS) and start.removeprefix(TOPICS) in self.experiment.arms:
                    owner = self.experiment.arms[start.removeprefix(TOPICS)]
                    yield from self._trained(start, _topics_of(owner), seed)
                    changes[key] = str(self._folder(start, seed))
                else:
                    needs.append(Path(start))
                    changes[key] = start
        if isinstance(run, Arm) and run.topics is not None:
            yield from self._trained(TOPICS + name, _topics_of(run), seed)
            changes["train.start_from"] = str(self._folder(TOPICS + name, seed))
        if seed is not None:
            changes["train.seed"] = seed
        changes["train.output"] = str(self._folder(name, seed))
        yield self._training(run.config, changes, tuple(needs))

    def _training(self, name: str, changes: dict[str, Any], needs: tuple[Path, ...]) -> Task:
        file, folder = CONFIGS / f"{name}.yaml", Path(changes["train.output"])
        overrides = [f"{key}={_written(value)}" for key, value in changes.items()]
        resume = [f"train.resume={_written(RunFolder(folder).config.is_file())}"]
        command = ("train.py", "--config", str(file), *overrides, *resume)
        return Task("train", folder, (command,), config=load_config(file, overrides), needs=needs)

    def _scored(self, folder: Path, name: str) -> Task:
        evaluation = self.experiment.evaluations[name]
        out = folder / f"{evaluation.out or name}.json"
        options = [word for key, value in evaluation.options.items() for word in (f"--{key}", str(value))]
        command = ("--model", str(folder), "--data", self.experiment.data, *options, "--out", str(partial(out)))
        return Task("score", out, ((evaluation.script, *command),))

    def _folder(self, name: str, seed: int | None) -> Path:
        return Path(f"{self.experiment.runs}-{name}" + ("" if seed is None else f"-{seed}"))


def _topics_of(arm: Arm) -> Run:
    """The arm's warm start, whose model must be the arm's."""
    if arm.topics is None:
        raise ValueError("an arm without topics has none to start another from")
    shared = {key: value for key, value in arm.set.items() if key.startswith("model.")}
    return replace(arm.topics, decoder=arm.topics.decoder or arm.decoder, set={**shared, **arm.topics.set})


def _written(value: Any) -> str:
    """A value as an override says it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1 << 20).split("\n...")[0].strip()
