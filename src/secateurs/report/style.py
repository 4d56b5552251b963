"""Style of all figures: colours, fonts, labels beside lines, and writing as PNG and SVG."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.style as mpl_style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from secateurs.arguments import takes_as_annotated
from secateurs.errors import DataError
from secateurs.files import write_atomically

# After Okabe and Ito (2008), safe for colour-blind readers; darker, as they also colour text.
BLUE, VERMILION, GREEN, PURPLE, OCHRE, SKY = (
    "#0072b2",
    "#c8500a",
    "#00795c",
    "#a8507f",
    "#946200",
    "#3d93c9",
)
MADE_BY = "secateurs"

CYCLE = (BLUE, VERMILION, GREEN, PURPLE, OCHRE, SKY)
INK, MUTED, EDGE, FAINT, SHADE = "#1f2933", "#5f6b7a", "#aab3bd", "#dfe3e8", "#f3f5f7"
WIDTH, HEIGHT = 8.0, 4.4
SMALL = 8.5

OURS: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same on every machine
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": EDGE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": EDGE,
    "ytick.color": EDGE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "svg.fonttype": "path",
    "svg.hashsalt": "secateurs",
}

# A decorator (and context manager): figures are drawn in this style whatever the user's settings,
# which are restored afterwards.
styled = mpl_style.context(["default", OURS])


def canvas(width: float = WIDTH, height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def heading(axes: Axes, title: str, subtitle: str) -> None:
    """Set the finding as the title, and the meaning of the y axis below it."""
    axes.set_title(title, pad=27, wrap=True)
    axes.annotate(
        subtitle,
        (0, 1),
        xytext=(0, 10),
        xycoords="axes fraction",
        textcoords="offset points",
        color=MUTED,
    )


def heading_of_panels(figure: Figure, title: str, key: str) -> None:
    """Set the finding above all panels, and a key for reading them below."""
    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=OURS["axes.titlesize"])
    figure.supxlabel(key, color=MUTED, size=SMALL)


def message(title: str, explanation: str) -> Figure:
    """A figure that explains why there is nothing to plot."""
    figure, axes = canvas(height=2.0)
    axes.set_axis_off()
    axes.set_title(title)
    axes.text(0, 0.9, explanation, transform=axes.transAxes, va="top", color=MUTED)
    return figure


def percent_axis(axis: Axis) -> None:
    """Format ticks as percentages. The axes' limits must be final."""
    low, high = sorted(axis.get_view_interval())
    ticks = MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axis.set_ticks([tick for tick in ticks if low <= tick <= min(high, 1 + 1e-9)])
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def count_axis(axis: Axis) -> None:
    """Format ticks as integers with thousands separators."""
    axis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def baseline(axes: Axes, height: float) -> None:
    """Draw a dashed line at the reference value."""
    axes.axhline(height, color=MUTED, lw=1, ls=(0, (5, 3)), gid="dense", zorder=1.5)


def ring(axes: Axes, x: float, y: float) -> None:
    """Draw a ring around the best model's point."""
    axes.plot(
        [x],
        [y],
        "o",
        ms=9,
        mfc="none",
        mec=GREEN,
        mew=1.8,
        clip_on=False,
        zorder=5,
        gid="best",
    )


def short(name: str, longest: int = 32) -> str:
    """Shorten a layer's dotted name at its beginning."""
    if len(name) <= longest:
        return name
    end = name[1 - longest :]
    whole_parts = end[end.find(".", 0, longest // 3) + 1 :]
    return f"\N{HORIZONTAL ELLIPSIS}{whole_parts}"


def cycle(number: int) -> list[str]:
    """A number of colours, which repeat if there are not enough."""
    return [CYCLE[place % len(CYCLE)] for place in range(number)]


@dataclass(frozen=True, slots=True)
class EndLabel:
    """A label in the right margin.

    Attributes:
        x: end of the line that it labels, in data units.
        y: height of that end.
        text: the label; may have several lines.
        colour: colour of the line and the label.
    """

    x: float
    y: float
    text: str
    colour: str


def label_ends(axes: Axes, labels: Sequence[EndLabel]) -> None:
    """Write each label in the right margin at its line's height, moved to avoid overlaps.

    The limits of the axes must be final.
    """
    figure = axes.get_figure(root=True)
    if figure is None or not labels:
        return
    figure.draw_without_rendering()  # the height of the axes is known only after layout
    points = axes.get_window_extent().height * 72 / figure.dpi
    bottom, top = axes.get_ylim()
    ordered = sorted(labels, key=lambda label: label.y)
    wanted = [points * (label.y - bottom) / (top - bottom) for label in ordered]
    sizes = [1.45 * SMALL * (1 + label.text.count("\n")) for label in ordered]
    for label, height in zip(ordered, spread_out(wanted, sizes, points), strict=True):
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(1.02, height / points),
            textcoords="axes fraction",
            color=label.colour,
            fontsize=SMALL,
            linespacing=1.15,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.colour,
                "lw": 0.5,
                "alpha": 0.6,
                "relpos": (0, 0.5),
            },
        )


def spread_out(wanted: Sequence[float], sizes: Sequence[float], room: float) -> list[float]:
    """Centres for items of these sizes, as near as possible to the wanted ones without overlap.

    Args:
        wanted: wanted centres, ascending.
        sizes: size of each item.
        room: items are kept between 0 and this, if they fit.

    Returns:
        The centres, ascending. They minimise the sum of squared moves (before ``room`` applies).
    """
    offsets = [sum(sizes[:place]) + size / 2 for place, size in enumerate(sizes)]
    # With the offsets subtracted, "no overlap" means "not falling": pool adjacent violators.
    pools: list[list[float]] = []
    for centre, offset in zip(wanted, offsets, strict=True):
        pools.append([centre - offset])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = [fmean(pool) for pool in pools for _ in pool]
    highest = max(0.0, room - sum(sizes))
    return [
        min(max(level, 0.0), highest) + offset
        for level, offset in zip(levels, offsets, strict=True)
    ]


@takes_as_annotated(DataError)
@styled
def save(figure: Figure, folder: str | os.PathLike[str], name: str) -> tuple[Path, Path]:
    """Write ``name``.png (150 dpi) and ``name``.svg, each atomically.

    The same figure gives the same bytes.

    Raises:
        StudyError: a file cannot be written.
    """
    png, svg = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    write_atomically(png, render(figure, "png"))
    write_atomically(svg, render(figure, "svg"))
    return png, svg


@styled
def render(figure: Figure, kind: str) -> bytes:
    """Render a figure as "png" or "svg", without a date, so that the bytes are reproducible."""
    out = io.BytesIO()
    # Starting over removes only images with this mark.
    signed = {"Date": None, "Creator": MADE_BY} if kind == "svg" else {"Software": MADE_BY}
    figure.savefig(out, format=kind, dpi=150, metadata=signed)
    return out.getvalue()
