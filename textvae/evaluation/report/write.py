"""From a run folder to its page: what is given is read, the rest is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textvae.evaluation.report.inputs import TrainedRun, read_latents, read_perplexity
from textvae.evaluation.report.measurements import (
    ReportDocuments,
    document_map,
    measure_latents,
    measure_perplexities,
    themed_samples,
)
from textvae.evaluation.report.page import Figures, Report, Sourced, render
from textvae.text_vae import HierarchicalTextVAE


@dataclass(frozen=True)
class ReportOptions:
    command: str
    """How the page was made."""
    data: str | None = None
    """Default: the data of the run."""
    split: str = "validation"
    limit: int = 50
    """Documents for what is measured."""
    seed: int = 0
    batch_tokens: int = 8192
    latents: str | None = None
    """What eval/latents.py wrote; None: measured."""
    perplexity: tuple[str, ...] = ()
    """What eval/perplexity.py wrote; empty: measured."""

    def __post_init__(self) -> None:
        if self.limit < 3:
            raise ValueError(f"--limit {self.limit} is too few: a map of the documents needs three")

    def data_of(self, run: TrainedRun) -> str:
        """Raises ValueError when the run's data have gone and no others are named."""
        if self.data is None and not Path(run.data).exists():
            raise ValueError(
                f"the data of '{run.path}' are not at '{run.data}', where training had them; give --data DATA"
            )
        return self.data or run.data


def make_report(run: TrainedRun, model: HierarchicalTextVAE, options: ReportOptions) -> Report:
    """Raises ValueError for results or data that cannot be read or are another model's."""
    perplexities = [Sourced(read_perplexity(file), file) for file in options.perplexity]
    latents = None
    if options.latents:
        latents = Sourced(read_latents(options.latents, model.level_names), f"From {options.latents}.")
    data = options.data_of(run)
    documents = ReportDocuments.open(data, model, options.split, options.limit)
    seed, batch_tokens = options.seed, options.batch_tokens
    if not perplexities:
        found = measure_perplexities(model, documents, seed, batch_tokens)
        perplexities = [Sourced(values, "measured here") for values in found]
    if latents is None and model.level_names:
        chosen = documents.measured
        values = measure_latents(model, chosen, seed, batch_tokens)
        latents = Sourced(values, f"Measured here on {len(chosen)} documents.")
    return Report(
        run=run,
        model=model,
        command=options.command,
        data=data,
        split=options.split,
        perplexities=perplexities,
        latents=latents,
        map=document_map(model, documents.for_map, seed, batch_tokens) if model.level_names else None,
        themes=themed_samples(model, documents.measured, seed),
    )


def write_page(report: Report, out: Path, figures: Path | None = None) -> None:
    """The HTML page to `out`, and every figure as an SVG file into the folder `figures`."""
    drawn = Figures.of(report)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(report, drawn), encoding="utf-8")
    if figures is not None:
        drawn.write(figures)
