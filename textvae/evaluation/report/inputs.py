"""What a report reads: the files of a run folder, and results that the other evaluation scripts wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from textvae.runs import RunFolder

Values = Annotated[list[float], Field(min_length=1)]


@pydantic_dataclass
class Gain:
    position: Annotated[list[int], Field(min_length=1)]
    nats_per_token: Values


@pydantic_dataclass
class UnitGain(Gain):
    level: str


@pydantic_dataclass
class Gains:
    by_token_position: Gain
    by_unit_position: UnitGain | None = None


@pydantic_dataclass
class Level:
    dims: int
    active_units: int
    units: int
    variance_spectrum: Values
    rate_per_unit: float
    rate_per_document: float
    mutual_information: float
    mutual_information_ceiling: float
    nll_increase_when_shuffled: float
    payoff: float | None
    nll_increase_when_shuffled_interval: tuple[float, float] | None = None
    nll_increase_when_zeroed: float | None = None
    nll_increase_when_zeroed_interval: tuple[float, float] | None = None
    payoff_over_prior_mean: float | None = None


@pydantic_dataclass
class Latents:
    """What the page shows of the file that eval/latents.py writes; further keys may be there."""

    levels: dict[str, Level]
    nll_gain: dict[str, Gains] | None = None
    reconstruction: dict[str, float | str] | None = None


@pydantic_dataclass
class Perplexity:
    """The same of eval/perplexity.py."""

    documents: int
    tokens: int
    estimator: str
    samples: int
    nll_nats_per_document: float
    perplexity_per_token: float
    perplexity_per_word: float
    bits_per_byte: float
    distortion_tokens: float
    distortion_structure: float
    rate: dict[str, float]
    perplexity_per_token_by_samples: dict[int, float]
    nll_by_document: list[float]
    sources: int | None = None
    source_by_document: list[str] | None = None


@dataclass(frozen=True)
class TrainedRun:
    """What training left in its folder, beside the model."""

    path: Path
    records: list[dict[str, Any]]
    """metrics.jsonl, one or more."""
    config: str
    """The resolved training configuration, YAML."""
    versions: dict[str, str]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def data(self) -> str:
        """Where the configuration says that the data are."""
        return str(yaml.safe_load(self.config)["data"]["path"])


def read_run(path: str | Path) -> TrainedRun:
    """Raises ValueError naming what the folder lacks, or the line of metrics.jsonl that is damaged."""
    folder = RunFolder(path)
    if not folder.path.is_dir():
        raise ValueError(f"there is no run folder '{path}'; give the folder that train.py wrote")
    for file in (folder.config, folder.versions, folder.metrics):
        if not file.is_file():
            raise ValueError(
                f"'{path}' has no {file.name}, so it is no run of train.py; give a folder that train.py wrote"
            )
    records = folder.records()
    if not records:
        raise ValueError(f"'{folder.metrics}' is empty; wait until training has logged a step (train.log_every)")
    return TrainedRun(
        folder.path,
        records,
        folder.config.read_text(encoding="utf-8"),
        json.loads(folder.versions.read_text(encoding="utf-8")),
    )


def read_latents(path: str, levels: tuple[str, ...]) -> dict[str, Any]:
    """What eval/latents.py wrote for a model with these `levels`; ValueError for anything else."""
    found = _read_result(path, "latents", Latents)
    if set(found["levels"]) != set(levels):
        raise ValueError(
            f"'{path}' is about levels {sorted(found['levels'])}, but the run's are {sorted(levels)}; "
            f"{_remedy('latents', path)}"
        )
    return found


def read_perplexity(path: str) -> dict[str, Any]:
    """What eval/perplexity.py wrote; ValueError for anything else."""
    return _read_result(path, "perplexity", Perplexity)


def _read_result(path: str, script: str, kind: type) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        TypeAdapter(kind).validate_python(found)
    except FileNotFoundError:
        raise ValueError(f"there is no file '{path}'; {_remedy(script, path)}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is not JSON ({error}); {_remedy(script, path)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(
            f"'{path}' is not what eval/{script}.py writes ({place}: {first['msg']}); {_remedy(script, path)}"
        ) from None
    return found


def _remedy(script: str, path: str) -> str:
    return f"write it with: python eval/{script}.py --model RUN --data DATA --out {path}"
