"""The figures of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from textvae.evaluation.diagnostics.statistics import ACTIVE_VARIANCE
from textvae.evaluation.report.drawing import (
    GREY,
    INK,
    PALE,
    Picture,
    draw_picture,
    legend_above,
    log_axis,
    training_axis,
)
from textvae.evaluation.report.measurements import LatentMap, elbo_perplexity_of

CURVES = (INK, "#8a8a8a", "#b5651d", "#4f7f9f")
LABELS = tuple(
    zip(
        ("#332288", "#cc6677", "#117733", "#88ccee", "#882255", "#ddaa33", "#44aa99", "#999933"),
        "os^DvPX*",
        strict=True,
    )
)
NEGLIGIBLE_GAIN = 0.001
"""Nats per token."""
MARKER_SIZES = {"P": 36, "X": 36, "*": 56}
"""Where a marker looks smaller than others of its size."""


Records = Sequence[Mapping[str, Any]]
Value = Callable[[Mapping[str, Any]], float]


def training_pictures(records: Records, colours: Mapping[str, str]) -> list[Picture]:
    """Negative ELBO and distortion; for a model with levels also raw rates and their weights."""
    levels = list(records[0]["rate_per_unit"])
    validated = [record for record in records if record["split"] == "validation"]
    last = (validated or records)[-1]
    at_end = f"at step {last['step']} of {last['split']}"
    whole = "Negative ELBO" if levels else "Negative log-likelihood"
    pictures = [_loss_picture(whole, records, _negative_elbo, f"{_negative_elbo(last):.3f} {at_end}")]
    if not levels:
        return pictures
    rates = ", ".join(f"{name} {last['rate_per_unit'][name]:.2f}" for name in levels)
    return [
        *pictures,
        _loss_picture("Distortion", records, _distortion, f"{_distortion(last):.3f} {at_end}"),
        draw_picture(
            "Raw rate",
            f"raw rate, nats per unit, of every level over training; {rates} {at_end}",
            lambda axes: _plot_rates(axes, records, levels, colours),
        ),
        draw_picture(
            "Weight of the rate",
            f"weight β of the rate in the loss over training: {', '.join(levels)}",
            lambda axes: _plot_weights(axes, records, levels, colours),
        ),
    ]


def _loss_picture(title: str, records: Records, value: Value, end: str) -> Picture:
    unit = title[0].lower() + title[1:] if title != "Negative ELBO" else "negative ELBO"

    def draw(axes: Axes) -> None:
        _plot(axes, records, "train", value, color=PALE, label="training")
        _plot(axes, records, "validation", value, color=INK, marker="o", markersize=4, label="validation")
        training_axis(axes)
        axes.set_ylabel(f"{unit}, nats per token")
        legend_above(axes)

    return draw_picture(title, f"{unit}, nats per token, over training; {end}", draw)


def _plot_rates(axes: Axes, records: Records, levels: Sequence[str], colours: Mapping[str, str]) -> None:
    for name in levels:
        value = _of_level("rate_per_unit", name)
        _plot(axes, records, "train", value, color=colours[name], label=name)
        _plot(
            axes,
            records,
            "validation",
            value,
            color=colours[name],
            linestyle="",
            marker="o",
            markerfacecolor="white",
            markersize=5,
        )
    training_axis(axes)
    log_axis(axes)
    axes.set_ylabel("raw rate, nats per unit")
    legend_above(axes)


def _plot_weights(axes: Axes, records: Records, levels: Sequence[str], colours: Mapping[str, str]) -> None:
    # Wide under narrow: levels often have the same weight.
    for width, name in zip(range(len(levels), 0, -1), levels, strict=True):
        _plot(
            axes,
            records,
            "train",
            _of_level("beta", name),
            color=colours[name],
            label=name,
            linewidth=0.8 * width + 0.4,
        )
    training_axis(axes)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("weight β of the rate in the loss")
    legend_above(axes)


def _plot(axes: Axes, records: Records, split: str, value: Value, **style: Any) -> None:
    chosen = [record for record in records if record["split"] == split]
    axes.plot([record["step"] for record in chosen], [value(record) for record in chosen], **style)


def _negative_elbo(record: Mapping[str, Any]) -> float:
    return record["nll_per_token"]


def _distortion(record: Mapping[str, Any]) -> float:
    return record["distortion_tokens_per_token"] + record["distortion_structure_per_token"]


def _of_level(key: str, name: str) -> Value:
    return lambda record: record[key][name]


def spectrum_picture(levels: Mapping[str, Mapping[str, Any]], colours: Mapping[str, str]) -> Picture:
    def draw(axes: Axes) -> None:
        for name, level in levels.items():
            spectrum = np.maximum(level["variance_spectrum"], 1e-6)
            axes.plot(
                np.arange(1, len(spectrum) + 1), spectrum, color=colours[name], marker="o", markersize=3.5, label=name
            )
        axes.axhline(ACTIVE_VARIANCE, color=GREY, linestyle="--", linewidth=1)
        axes.text(
            0.99,
            ACTIVE_VARIANCE,
            f"active above {ACTIVE_VARIANCE:g}",
            color=GREY,
            fontsize=8.5,
            ha="right",
            va="bottom",
            transform=axes.get_yaxis_transform(),
        )
        log_axis(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(
            xlabel="latent dimension, largest variance first",
            ylabel="variance of the mean's departure\nfrom the prior, in prior variances",
        )
        legend_above(axes)

    active = ", ".join(f"{name} {level['active_units']} of {level['dims']}" for name, level in levels.items())
    return draw_picture("Variance spectra", f"variance of every latent dimension by level; active: {active}", draw)


def convergence_picture(results: Sequence[Mapping[str, Any]]) -> Picture:
    """results: those of iwae and smc."""

    elbos = {result["tokens"]: elbo_perplexity_of(result) for result in results}

    def named(estimator: str, tokens: int) -> str:
        return estimator if len(elbos) == 1 else f"{estimator}, {tokens:,} tokens"

    def draw(axes: Axes) -> None:
        for tokens, value in elbos.items():
            axes.axhline(value, color=GREY, linestyle="--", linewidth=1.2, label=named("elbo", tokens))
        for number, result in enumerate(results):
            curve = sorted((int(k), value) for k, value in result["perplexity_per_token_by_samples"].items())
            axes.plot(
                *zip(*curve, strict=True),
                color=CURVES[number % len(CURVES)],
                markersize=4.5,
                marker="s" if result["estimator"] == "smc" else "o",
                label=named(result["estimator"], result["tokens"]),
            )
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda k, _: f"{k:g}"))
        axes.set(xlabel="samples K", ylabel="perplexity per token, at most")
        legend_above(axes)

    best = min(results, key=lambda result: result["perplexity_per_token"])
    alt = (
        f"perplexity per token against the number of samples; lowest bound {best['perplexity_per_token']:.2f} by "
        f"{best['estimator']} with K = {best['samples']}"
    )
    return draw_picture("Convergence over samples", alt, draw)


def gain_pictures(gain: Mapping[str, Mapping[str, Any]], colours: Mapping[str, str]) -> list[Picture]:
    """Where in a sentence, and where in a document, the levels' latents help."""
    units = {found["by_unit_position"]["level"] for found in gain.values() if "by_unit_position" in found}
    pictures = [_gain_picture(gain, colours, "by_token_position", "sentence", "token of its sentence")]
    if units:
        axis = f"{' or '.join(sorted(units))} of its document"
        pictures.append(_gain_picture(gain, colours, "by_unit_position", "document", axis))
    return pictures


def _gain_picture(
    gain: Mapping[str, Mapping[str, Any]], colours: Mapping[str, str], key: str, within: str, axis: str
) -> Picture:
    shown = {name: found[key] for name, found in gain.items() if key in found}
    # Positions are counted from 0 in the file, from 1 on the page.
    last = max(found["position"][-1] for found in shown.values()) + 1

    def draw(axes: Axes) -> None:
        for name, found in shown.items():
            axes.plot(
                np.asarray(found["position"]) + 1,
                found["nats_per_token"],
                color=colours[name],
                marker="o",
                markersize=3.5,
                label=name,
            )
        axes.axhline(0, color=GREY, linewidth=1)
        # Rounding is not blown up to look like a gain.
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -NEGLIGIBLE_GAIN), max(high, NEGLIGIBLE_GAIN))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel=f"{axis} (last point: {last} and later)", ylabel="rise of the NLL, nats per token")
        legend_above(axes)

    ends = ", ".join(
        f"{name} from {found['nats_per_token'][0]:.3f} to {found['nats_per_token'][-1]:.3f}"
        for name, found in shown.items()
    )
    return draw_picture(f"Gain by position in the {within}", f"nats per token by {axis}, first to last: {ends}", draw)


def map_picture(found: LatentMap) -> Picture:
    counts = Counter(label for label in found.labels if label is not None)
    common = [label for label, _ in counts.most_common(len(LABELS))]

    def draw(axes: Axes) -> None:
        def scatter(members: Sequence[int], label: str | None, **style: Any) -> None:
            axes.scatter(*found.points[members].T, linewidths=0, label=label, **style)

        others = [number for number, label in enumerate(found.labels) if label not in common]
        for label, (colour, marker) in zip(common, LABELS, strict=False):
            mine = [number for number, own in enumerate(found.labels) if own == label]
            scatter(
                mine,
                f"{_shortened(label)} ({len(mine)})",
                color=colour,
                alpha=0.85,
                marker=marker,
                s=MARKER_SIZES.get(marker, 26),
            )
        if others:
            scatter(others, f"other ({len(others)})" if common else None, color=PALE, s=14, zorder=0.5)
        axes.set(xlabel=found.axes[0], ylabel=found.axes[1])
        axes.set_aspect("equal", adjustable="datalim")
        if found.method == "t-SNE":
            # Its coordinates mean nothing, so they are not told.
            axes.set(xticks=[], yticks=[])
        if common:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title="label (documents)", alignment="left")

    named = f"coloured by label: {', '.join(common)}" if common else "without labels"
    title = f"{len(found.points)} documents by their latents at level {found.level}"
    return draw_picture(title, f"map by {found.method}, {named}", draw, size=(8.4, 5.6))


def _shortened(label: str, length: int = 24) -> str:
    shown = label if len(label) <= length else label[: length - 1] + "…"
    # Legends leave out what begins with an underscore.
    return f" {shown}" if shown.startswith("_") else shown
