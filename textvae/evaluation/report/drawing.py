"""How a report draws: one style for all figures, as SVG in data URIs, sharp on paper and with nothing to fetch."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

LEVEL_COLOURS = ("#0b5fa5", "#d1590a", "#1b8a5a", "#a2478f", "#7a6a00", "#5b5b5b")
INK, GREY, PALE = "#222222", "#6b6b6b", "#c4c4c4"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 9.5,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "svg.fonttype": "path",
    "text.parse_math": False,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}


@dataclass(frozen=True)
class Picture:
    title: str
    alt: str
    """What a reader who does not see it should know."""
    svg: bytes

    @property
    def uri(self) -> str:
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode("ascii")

    @property
    def file_name(self) -> str:
        return "-".join(re.findall(r"\w+", self.title.lower())) + ".svg"


def level_colours(hierarchy: Sequence[str]) -> dict[str, str]:
    """A level keeps its colour in all figures, and in the reports of models that lack other levels."""
    return {name: LEVEL_COLOURS[number % len(LEVEL_COLOURS)] for number, name in enumerate(hierarchy)}


def draw_picture(title: str, alt: str, draw: Callable[[Axes], None], size: tuple[float, float] = (5.2, 3.3)) -> Picture:
    # The salt makes the ids in the file, and so the page, the same every time.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=size)
        axes = figure.add_subplot()
        draw(axes)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return Picture(title, alt, file.getvalue())


def training_axis(axes: Axes) -> None:
    axes.set_xlabel("training step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))


def legend_above(axes: Axes) -> None:
    """In one row over the axes, where it hides nothing."""
    names = axes.get_legend_handles_labels()[1]
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        handlelength=1.6,
        columnspacing=1.4,
        ncols=len(names),
    )


def log_axis(axes: Axes) -> None:
    """Plain numbers on a logarithmic y axis, as many as there is room for."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 10:
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
