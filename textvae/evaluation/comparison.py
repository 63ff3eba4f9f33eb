"""Runs beside one another: what eval/perplexity.py and eval/latents.py found, as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textvae.evaluation.likelihood.perplexity import mean_difference
from textvae.evaluation.report.inputs import read_latents, read_perplexity

TEXT = ("documents", "tokens", "source_by_document")
BOUND = ("estimator", "samples")
COLUMNS = (
    "run",
    "per token",
    "ratio",
    "difference",
    "bits/byte",
    "distortion",
    "rates",
    "active",
    "shuffle",
    "payoff (mean)",
)


@dataclass(frozen=True)
class ScoredRun:
    path: Path
    score: dict[str, Any]
    """What eval/perplexity.py wrote."""
    levels: dict[str, Any]
    """By level, what eval/latents.py wrote; empty without it."""

    @classmethod
    def read(cls, path: Path, perplexity: str, latents: str) -> ScoredRun:
        """Raises ValueError for a run without the perplexity file."""
        score = read_perplexity(str(path / perplexity))
        file = path / latents
        levels = read_latents(str(file), tuple(score["rate"]))["levels"] if file.is_file() else {}
        return cls(path, score, levels)

    @property
    def sources(self) -> list[str] | None:
        """Of every document; None in older files, which do not say."""
        return self.score.get("source_by_document")


def comparison(runs: Sequence[ScoredRun]) -> Iterator[str]:
    """Lines of the table; the first run is what the others are compared with.

    Raises ValueError for runs that were not scored on the same documents, or by different bounds. The likelihood of
    a plain language model is exact, and stands beside any bound.
    """
    bounded = [run for run in runs if run.score["rate"]]
    _check_alike(runs, TEXT)
    _check_alike(bounded, BOUND)
    first = runs[0]
    bound = f"{bounded[0].score['estimator']}, K = {bounded[0].score['samples']}" if bounded else "exact"
    yield f"{first.score['documents']} documents, {first.score['tokens']} tokens, {bound}; " + _errors(first)
    yield ""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for run in runs:
        yield f"| {run.path.name} | {' | '.join(_cells(run, first))} |"


def _errors(first: ScoredRun) -> str:
    said = "all else in nats per document, the difference with its standard error "
    if first.sources is None:
        return said + "as if documents were independent: the files do not say which are of one source, score again"
    return said + f"clustered by source ({len(set(first.sources))})"


def _check_alike(runs: Sequence[ScoredRun], keys: tuple[str, ...]) -> None:
    for run in runs:
        for key in keys:
            ours, theirs = runs[0].score.get(key), run.score.get(key)
            if theirs != ours:
                what = "other documents" if isinstance(ours or theirs, list) else f"{key} {theirs}, not {ours}"
                raise ValueError(f"{run.path} was scored with {what}, unlike {runs[0].path}; score both alike")


def _cells(run: ScoredRun, first: ScoredRun) -> list[str]:
    score, levels = run.score, run.levels.values()
    nll = score["nll_by_document"]
    sources = first.sources or [str(row) for row in range(len(nll))]
    return [
        f"{score['perplexity_per_token']:.2f}",
        f"{score['perplexity_per_token'] / first.score['perplexity_per_token']:.3f}",
        _difference(mean_difference(nll, first.score["nll_by_document"], sources)),
        f"{score['bits_per_byte']:.3f}",
        f"{score['distortion_tokens'] + score['distortion_structure']:.1f}",
        ", ".join(f"{name} {rate:.1f}" for name, rate in score["rate"].items()),
        ", ".join(f"{level['active_units']}/{level['dims']}" for level in levels),
        ", ".join(f"{level['nll_increase_when_shuffled']:+.2f}" for level in levels),
        ", ".join(_payoff(level.get("payoff_over_prior_mean")) for level in levels),
    ]


def _difference(found: dict[str, float | None]) -> str:
    error = found["standard_error"]
    return f"{found['mean']:+.1f}" + ("" if error is None else f" ± {error:.1f}")


def _payoff(value: float | None) -> str:
    """A level without a rate has none."""
    return "-" if value is None else f"{value:.2f}"
