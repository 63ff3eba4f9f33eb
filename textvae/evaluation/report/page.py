"""The page: everything that a report shows, as the template wants it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from textvae.evaluation.report.drawing import Picture, level_colours
from textvae.evaluation.report.figures import (
    convergence_picture,
    gain_pictures,
    map_picture,
    spectrum_picture,
    training_pictures,
)
from textvae.evaluation.report.inputs import TrainedRun
from textvae.evaluation.report.measurements import SAMPLING, LatentMap, Theme
from textvae.runs import versions
from textvae.text_vae import HierarchicalTextVAE

MISSING = "\N{EN DASH}"
LONGEST_TEXT = 900
"""Characters of a sample that are shown."""
LARGEST_NUMBER = 1e7
"""From here on numbers are told by their power of ten: the perplexity per word of an untrained model."""


@dataclass(frozen=True)
class Sourced:
    """A result, and where it comes from."""

    values: dict[str, Any]
    source: str


@dataclass(frozen=True)
class Report:
    run: TrainedRun
    model: HierarchicalTextVAE
    command: str
    data: str
    split: str
    perplexities: list[Sourced]
    latents: Sourced | None
    """None for a plain language model, as `map`."""
    map: LatentMap | None
    themes: list[Theme] = field(default_factory=list)

    @property
    def colours(self) -> dict[str, str]:
        return level_colours(self.model.config.hierarchy)

    @property
    def headline(self) -> dict[str, Any]:
        """The tightest bound among those on the most text."""
        most = max(result.values["tokens"] for result in self.perplexities)
        full = [result.values for result in self.perplexities if result.values["tokens"] == most]
        return min(full, key=lambda values: values["perplexity_per_token"])

    @property
    def sampled(self) -> list[dict[str, Any]]:
        """Results with a curve over the number of samples."""
        return [r.values for r in self.perplexities if len(r.values["perplexity_per_token_by_samples"]) > 1]


@dataclass(frozen=True)
class Figures:
    """Every figure of a page; None or empty where the run has nothing to draw."""

    training: list[Picture]
    spectrum: Picture | None
    gains: list[Picture]
    convergence: Picture | None
    map: Picture | None

    @classmethod
    def of(cls, report: Report) -> Figures:
        latents = {} if report.latents is None else report.latents.values
        return cls(
            training=training_pictures(report.run.records, report.colours),
            spectrum=spectrum_picture(latents["levels"], report.colours) if latents else None,
            gains=gain_pictures(latents["nll_gain"], report.colours) if "nll_gain" in latents else [],
            convergence=convergence_picture(report.sampled) if report.sampled else None,
            map=None if report.map is None else map_picture(report.map),
        )

    def write(self, folder: Path) -> None:
        """Each as an SVG file named by its title."""
        folder.mkdir(parents=True, exist_ok=True)
        for picture in (*self.training, self.spectrum, *self.gains, self.convergence, self.map):
            if picture is not None:
                (folder / picture.file_name).write_bytes(picture.svg)


def render(report: Report, figures: Figures) -> str:
    """The whole HTML page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "signed": _signed, "excerpt": _excerpt}
    model, latents = report.model, report.latents
    here = versions()
    return environment.get_template("template.html").render(
        report=report,
        config=model.config.model_config,
        levels=model.level_names,
        colours=report.colours,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        last=report.run.records[-1],
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headline=report.headline,
        latents=None if latents is None else latents.values,
        figures=figures,
        is_one_corpus=len({result.values["tokens"] for result in report.perplexities}) == 1,
        sampling=SAMPLING,
        versions=[(name, report.run.versions.get(name, MISSING), here[name]) for name in here],
    )


def _number(value: float | None, digits: int = 2) -> str:
    if value is None or not math.isfinite(value):
        return MISSING
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:z,.{digits}f}" if abs(value) < LARGEST_NUMBER else f"{value:.2e}"


def _signed(level: Mapping[str, Any], key: str) -> str:
    """A signed difference with half its 95 % interval, where the file has it."""
    if key not in level:
        return MISSING
    interval = level.get(f"{key}_interval")
    return f"{level[key]:+z,.2f}" + ("" if interval is None else f" ±{level[key] - interval[0]:,.2f}")


def _excerpt(text: str) -> str:
    """The beginning of a text; characters that cannot be shown are replaced."""
    shown = "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    return shown if len(shown) <= LONGEST_TEXT else shown[:LONGEST_TEXT].rsplit(maxsplit=1)[0] + " …"
